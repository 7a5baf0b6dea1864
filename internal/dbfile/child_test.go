package dbfile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// Children that go wrong, or do something else, in place of the one that checks.
const (
	roleFault   = "test-fault"
	roleHang    = "test-hang"
	roleGarbage = "test-garbage"
	roleExit    = "test-exit"
	roleBbolt   = "test-bbolt"
)

// runTestChild serves in these roles.
func runTestChild() {
	say := func(stage string) {
		if err := json.NewEncoder(os.Stdout).Encode(message{Stage: stage}); err != nil {
			panic(err)
		}
	}
	switch os.Getenv(childVariable) {
	case roleFault: // what a disk error or a file that shrinks does to a mapped file
		data, err := unix.Mmap(3, 0, 1<<20, unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			panic(err)
		}
		say(StageStructure)
		fmt.Fprint(os.Stderr, data[1<<20-1])
	case roleHang:
		say(StageRows)
		select {}
	case roleGarbage:
		fmt.Println("this is no JSON")
	case roleExit:
		say(StageRows)
	case roleBbolt: // bbolt's own check, in the terms of this one
		os.Exit(bboltCheck(os.NewFile(3, "database")))
	default:
		return
	}
	os.Exit(0)
}

// bboltCheck is 0 if bbolt finds nothing wrong, else 3.
func bboltCheck(f *os.File) int {
	db, err := bolt.Open("database", 0, &bolt.Options{ReadOnly: true, OpenFile: func(string, int, os.FileMode) (*os.File, error) { return f, nil }})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	err = db.View(func(tx *bolt.Tx) (err error) {
		for err = range tx.Check() {
			fmt.Fprintln(os.Stderr, err)
		}
		return err
	})
	if err != nil {
		return 3
	}
	return 0
}

// TestChildGoesWrong has children that die, hang or babble: each is a verdict that names the stage, and soon.
func TestChildGoesWrong(t *testing.T) {
	path := tempFile(t, "db")
	newStore(t, path, storeDefaults).close()
	for _, c := range []struct {
		role, during, says string
	}{
		{roleFault, StageStructure, "fatal error: fault"},
		{roleHang, StageRows, "no progress for 300ms"},
		{roleGarbage, "", "invalid character"},
		{roleExit, StageRows, "EOF"},
	} {
		t.Run(c.role, func(t *testing.T) {
			if c.role == roleFault {
				if err := os.Truncate(path, 0); err != nil {
					t.Fatal(err)
				}
			}
			stall := time.Minute
			if c.role == roleHang {
				stall = 300 * time.Millisecond
			}
			_, err := checkIn(t.Context(), c.role, open(t, path), CheckOptions{Stall: stall})
			var verdict *CheckError
			for end := time.Now().Add(time.Minute); c.role == roleHang && errors.As(err, &verdict) && verdict.During != c.during && time.Now().Before(end); {
				_, err = checkIn(t.Context(), c.role, open(t, path), CheckOptions{Stall: stall}) // it was not even started within that time
			}
			if !errors.As(err, &verdict) || verdict.Stage != StageCrash || verdict.During != c.during || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want a crash during %q that says %q", err, c.during, c.says)
			}
		})
	}
}

func TestCheckIsCancelled(t *testing.T) {
	path := tempFile(t, "db")
	newStore(t, path, storeDefaults).close()
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	_, err := checkIn(ctx, roleHang, open(t, path), CheckOptions{Progress: func(int64, int64) { cancel(enough) }})
	var verdict *CheckError
	if !errors.Is(err, enough) || errors.As(err, &verdict) {
		t.Errorf("got %v, want the reason of the cancellation and no verdict on the file", err)
	}
}

// TestForgottenRunChild: without RunChild a program would start itself again and again.
func TestForgottenRunChild(t *testing.T) {
	path := tempFile(t, "db")
	newStore(t, path, storeDefaults).close()
	t.Setenv(childVariable, "something")
	if _, err := CheckInChild(t.Context(), open(t, path), CheckOptions{}); err == nil || !strings.Contains(err.Error(), "must begin with dbfile.RunChild") {
		t.Errorf("got %v", err)
	}
}

// TestCheckInChild checks an unlinked file whose offset stands at its end, as a backup does, and hears of its progress.
func TestCheckInChild(t *testing.T) {
	path := tempFile(t, "snapshot")
	keys := synthetic(t, path, 40e6, 500, 0.2)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(0, 2); err != nil {
		t.Fatal(err)
	}
	var last, size int64
	r, err := CheckInChild(t.Context(), f, CheckOptions{TrailerRequired: true, Select: Select{Suffixes: []string{"7"}}, Progress: func(done, total int64) {
		if done < last || done > total {
			t.Errorf("progress goes from %d to %d of %d", last, done, total)
		}
		last, size = done, total
	}})
	if err != nil {
		t.Fatal(err)
	}
	if r.Keys != int64(keys) || r.Size != size || last != size || !r.Trailer || len(r.SHA256) != 64 {
		t.Errorf("report %+v, want %d keys; progress ended at %d of %d", r, keys, last, size)
	}
	var selected int
	for kv := range r.Index.Keys("") {
		if !strings.HasSuffix(string(kv.Key), "7") {
			t.Fatalf("key %s was not selected", kv.Key)
		}
		selected++
	}
	if selected != (keys+2)/10 {
		t.Errorf("%d keys selected of %d, want every tenth", selected, keys)
	}
}

package backup

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSpoolFileHasNoName(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	f, err := Spool{Dir: dir}.Create(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory that was made has %v, %v; want 0700", info.Mode(), err)
	}
	if info, err := f.Stat(); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has %v, %v; want 0600", info.Mode(), err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("the spool directory shows %v, %v; want nothing", entries, err)
	}
}

func TestSpoolRefusesWhatItCannotHold(t *testing.T) {
	if _, err := (Spool{}).Create(1); !errors.Is(err, ErrSpool) {
		t.Errorf("no directory: %v", err)
	}
	if _, err := (Spool{Dir: t.TempDir()}).Create(1 << 60); !errors.Is(err, ErrSpool) || !strings.Contains(err.Error(), "free") {
		t.Errorf("an exabyte: %v", err)
	}
	const memory = "/dev/shm"
	var fs unix.Statfs_t
	if unix.Statfs(memory, &fs) != nil || uint32(fs.Type) != tmpfsMagic {
		t.Skip("no tmpfs at " + memory)
	}
	dir, err := os.MkdirTemp(memory, "requorum-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if _, err := (Spool{Dir: dir}).Create(1); !errors.Is(err, ErrSpool) || !strings.Contains(err.Error(), "memory") {
		t.Errorf("tmpfs unasked: %v", err)
	}
	if f, err := (Spool{Dir: dir, AllowMemory: true}).Create(1); err != nil {
		t.Errorf("tmpfs allowed: %v", err)
	} else {
		f.Close()
	}
}

func newTestSpool(t *testing.T) *spooled {
	t.Helper()
	f, err := Spool{Dir: t.TempDir()}.Create(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return newSpooled(f)
}

func TestFollowersReadAllThatIsWritten(t *testing.T) {
	s := newTestSpool(t)
	data := make([]byte, 5<<20+123)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	type result struct {
		data []byte
		err  error
	}
	results := make(chan result)
	for range 3 {
		go func() {
			r := s.follow(t.Context())
			defer r.Close()
			got, err := io.ReadAll(r)
			results <- result{got, err}
		}()
	}
	for rest := data; len(rest) > 0; {
		n := min(len(rest), 1+rand.IntN(200<<10))
		if _, err := s.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	s.end(nil)
	for range 3 {
		if r := <-results; r.err != nil || !bytes.Equal(r.data, data) {
			t.Errorf("a follower read %d of %d bytes, %v", len(r.data), len(data), r.err)
		}
	}
	late := s.follow(t.Context())
	defer late.Close()
	if got, err := io.ReadAll(late); err != nil || !bytes.Equal(got, data) {
		t.Errorf("a late reader read %d bytes, %v", len(got), err)
	}
}

func TestFollowersEndWithTheSpoolAndWithTheirContext(t *testing.T) {
	s := newTestSpool(t)
	cut, stop := errors.New("cut off"), errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	first, second := make(chan error), make(chan error)
	read := func(ctx context.Context, done chan error) {
		r := s.follow(ctx)
		defer r.Close()
		_, err := io.ReadAll(r)
		done <- err
	}
	go read(ctx, first)
	go read(t.Context(), second)
	cancel(stop)
	if err := <-first; !errors.Is(err, stop) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := s.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	s.end(cut)
	if err := <-second; !errors.Is(err, cut) {
		t.Errorf("a spool that ends early: %v", err)
	}
}

func TestFullDiskIsExplained(t *testing.T) {
	f, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	s := newSpooled(f)
	if _, err := s.Write([]byte("x")); !errors.Is(err, ErrSpool) || !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "full") {
		t.Errorf("%v", err)
	}
}

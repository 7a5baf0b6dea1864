//go:build linux

package local

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/restore"
)

// arrival is a transfer of the new database that may break off.
type arrival struct {
	io.Reader
	breakAt int // bytes of this attempt; 0: never
	resumed int64
}

func (a *arrival) Resume(size int64, sum string) (int64, error) {
	from := int64(0)
	if size <= int64(len(newDatabase())) {
		have := restore.NewChecksum()
		_, _ = have.Write(newDatabase()[:size])
		if hex.EncodeToString(have.Sum(nil)) == sum {
			from = size
		}
	}
	a.resumed = from
	a.Reader = bytes.NewReader(newDatabase()[from:])
	if a.breakAt > 0 {
		a.Reader = io.MultiReader(io.LimitReader(a.Reader, int64(a.breakAt)), brokenReader{})
	}
	return from, nil
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("the line is cut") }

// TestTransfer shows that what arrived of a database is kept when the transfer breaks off, gone on from, and removed when the run is undone.
func TestTransfer(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.old()
	r.must(restore.ActLock)
	part := r.member.DataDir + ".staged-" + r.run + ".db"
	from := func(a *arrival) error { return r.stage(func(io.Reader) io.Reader { return a }) }

	if err := from(&arrival{breakAt: 5000}); err == nil || !strings.Contains(err.Error(), "the line is cut") {
		t.Fatalf("a broken transfer: %v", err)
	}
	if info, err := os.Stat(part); err != nil || info.Size() != 5000 {
		t.Fatalf("what arrived is not kept: %v, %v", info, err)
	}
	if _, err := os.Stat(r.member.DataDir + ".staged-" + r.run); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a staged dir after a broken transfer: %v", err)
	}
	if err := os.WriteFile(part, bytes.Repeat([]byte{1}, 5000), 0o600); err != nil { // not what was sent
		t.Fatal(err)
	}
	a := &arrival{}
	if err := from(a); err != nil || a.resumed != 0 {
		t.Fatalf("what is not the beginning of the database: %v, gone on with at %d", err, a.resumed)
	}
	staged, err := os.ReadFile(filepath.Join(r.member.DataDir+".staged-"+r.run, "member", "snap", "db"))
	if err != nil || !bytes.Equal(staged, newDatabase()) {
		t.Fatalf("the staged database has %d bytes, %v", len(staged), err)
	}
	if _, err := os.Stat(part); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the part is still there beside the whole: %v", err)
	}
	r.must(restore.ActDiscard)

	if err := from(&arrival{breakAt: 7000}); err == nil {
		t.Fatal("a broken transfer is no error")
	}
	a = &arrival{}
	if err := from(a); err != nil || a.resumed != 7000 {
		t.Errorf("the transfer began anew at %d: %v", a.resumed, err)
	}
	r.must(restore.ActDiscard)

	if err := from(&arrival{breakAt: 1000}); err == nil {
		t.Fatal("a broken transfer is no error")
	}
	r.must(restore.ActDiscard)
	if left, _ := filepath.Glob(r.member.DataDir + ".staged-*"); len(left) > 0 {
		t.Errorf("a discarded run left %v", left)
	}
}

// TestLabel shows that what is staged has the SELinux label of what it replaces.
func TestLabel(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.old()
	label := []byte("system_u:object_r:etcd_var_lib_t:s0\x00")
	if err := unix.Lsetxattr(r.member.DataDir, selinux, label, 0); err != nil {
		t.Skipf("labels cannot be set here: %v", err)
	}
	r.must(restore.ActLock)
	if err := r.stage(plain); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"", "member/snap/db", "member/wal"} {
		got := make([]byte, 100)
		n, err := unix.Lgetxattr(filepath.Join(r.member.DataDir+".staged-"+r.run, path), selinux, got)
		if err != nil || !bytes.Equal(got[:n], label) {
			t.Errorf("%q has the label %q, %v", path, got[:max(n, 0)], err)
		}
	}
}

// TestAlone shows that a request waits for an earlier one that still works on the place, and then looks again who owns it.
func TestAlone(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.old()
	r.must(restore.ActLock)
	p, err := newPlace(r.member, r.run)
	if err != nil {
		t.Fatal(err)
	}
	working, release := make(chan struct{}), make(chan struct{})
	earlier := make(chan error, 1)
	go func() {
		earlier <- p.alone(t.Context(), func() error {
			close(working)
			<-release
			return nil
		})
	}()
	<-working
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	req := restore.ApplyRequest{Action: restore.ActInhibit, Member: r.member, Run: r.run, Owner: r.owner}
	if err := r.h.Apply(ctx, req); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it did not wait: %v", err)
	}
	later := make(chan error, 1)
	go func() { later <- r.h.Apply(t.Context(), req) }()
	taken := restore.Lock{Run: r.run, Owner: restore.Owner{Token: "somebody else"}}
	if err := p.writeLock(taken); err != nil { // whoever is quicker: the later request must see it
		t.Fatal(err)
	}
	close(release)
	if err := <-earlier; err != nil {
		t.Fatal(err)
	}
	var locked *restore.HostError
	if err := <-later; !errors.As(err, &locked) || locked.Code != restore.HostLocked {
		t.Errorf("a request of a former owner was carried out: %v", err)
	}
	if _, err := os.Stat(p.marker()); !errors.Is(err, os.ErrNotExist) {
		t.Error("it forbade starts")
	}
}

// TestGone shows that a lock is taken over at once when the owner's machine says that the owner is gone, and for no other reason.
func TestGone(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.owner = restore.Owner{Token: "first", Host: "elsewhere", PID: 1}
	r.must(restore.ActLock)
	plan := restore.Plan{Format: restore.PlanFormat, Run: r.run, Kind: restore.PlanRestore, Started: time0}
	req := restore.ApplyRequest{Action: restore.ActLock, Member: r.member, Run: r.run, Owner: restore.Owner{Token: "second", Host: "elsewhere"}, Plan: &plan}
	for _, gone := range []string{"", "another"} {
		req.Gone = gone
		if err := r.h.Apply(t.Context(), req); err == nil {
			t.Errorf("gone %q: the lock was taken", gone)
		}
	}
	other := req
	other.Run, other.Gone, other.Plan = "r99999999999", "first", &restore.Plan{Format: restore.PlanFormat, Run: "r99999999999", Kind: restore.PlanRestore, Started: time0}
	if err := r.h.Apply(t.Context(), other); err == nil {
		t.Error("another run took the lock of a dead one without being told to")
	}
	req.Gone = "first"
	if err := r.h.Apply(t.Context(), req); err != nil {
		t.Errorf("the same run: %v", err)
	}
}

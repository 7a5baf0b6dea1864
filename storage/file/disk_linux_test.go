package file_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/storagetest"
)

// smallDisk mounts a disk of 8 MiB.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m,mode=0700"); err != nil {
		t.Skipf("a small disk cannot be mounted here, which takes root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

func TestFullDisk(t *testing.T) {
	s := open(t, smallDisk(t))
	storagetest.Put(t, s, "small", []byte("x"))
	_, err := s.Put(t.Context(), "large/x", bytes.NewReader(make([]byte, 9<<20)))
	if !errors.Is(err, storage.ErrFull) || !strings.Contains(err.Error(), "free some space") {
		t.Errorf("put of more than the disk holds: %v, want ErrFull with advice", err)
	}
	if got := storagetest.Keys(t, s, "", ""); !slices.Equal(got, []string{"small"}) {
		t.Errorf("visible: %q", got)
	}
	if left := unfinished(t, s, ""); len(left) > 0 {
		t.Errorf("a full disk was left full: %+v", left)
	}
	storagetest.Put(t, s, "large/x", make([]byte, 7<<20)) // there is room again
}

func TestReadOnly(t *testing.T) {
	dir := smallDisk(t)
	s := open(t, dir)
	storagetest.Put(t, s, "k", []byte("x"))
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), "other", strings.NewReader("x")); !errors.Is(err, storage.ErrDenied) || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("put on a read-only disk: %v, want ErrDenied", err)
	}
	if err := s.Delete(t.Context(), "k"); !errors.Is(err, storage.ErrDenied) {
		t.Errorf("delete on a read-only disk: %v, want ErrDenied", err)
	}
	if got := storagetest.Get(t, s, "k", 0); string(got) != "x" {
		t.Errorf("read %q", got)
	}
}

// A file with the immutable flag is what a directory has for a lock.
func TestImmutable(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	storagetest.Put(t, s, "k", []byte("x"))
	f, err := os.Open(filepath.Join(dir, "k"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	const immutable = 0x10
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, immutable); err != nil {
		t.Skipf("no immutable files here: %v", err)
	}
	t.Cleanup(func() { _ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, 0) })
	if err := s.Delete(t.Context(), "k"); !errors.Is(err, storage.ErrDenied) || !strings.Contains(err.Error(), "chattr") {
		t.Errorf("delete of an immutable file: %v, want ErrDenied with advice", err)
	}
	if got := storagetest.Get(t, s, "k", 0); string(got) != "x" {
		t.Errorf("read %q", got)
	}
}

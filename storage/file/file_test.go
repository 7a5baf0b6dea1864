package file_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/file"
	"github.com/requorum/requorum/storage/storagetest"
)

func open(t *testing.T, dir string) *file.Store {
	t.Helper()
	s, err := file.New(file.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStore(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Store { return open(t, filepath.Join(t.TempDir(), "store")) })
}

func TestFromURL(t *testing.T) {
	for raw, want := range map[string]string{
		"file:///srv/backups":     "/srv/backups",
		"file:///srv/with%20gap/": "/srv/with gap/",
		"file://srv/backups":      "",
		"file:///srv?mode=0644":   "",
		"s3://bucket":             "",
	} {
		u, err := storage.ParseURL(raw)
		if err != nil {
			t.Fatal(err)
		}
		o, err := file.FromURL(u)
		if (err == nil) != (want != "") || o.Dir != want {
			t.Errorf("%s: %q, %v; want %q", raw, o.Dir, err, want)
		}
	}
	if _, err := file.New(file.Options{}); err == nil {
		t.Error("a store without a directory was made")
	}
}

func unfinished(t *testing.T, s *file.Store, prefix string) []storage.Unfinished {
	t.Helper()
	var found []storage.Unfinished
	for u, err := range s.Unfinished(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, u)
	}
	return found
}

func TestModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s := open(t, dir)
	storagetest.Put(t, s, "a/b/c", []byte("secret"))
	for name, want := range map[string]fs.FileMode{"": fs.ModeDir | 0o700, "a": fs.ModeDir | 0o700, "a/b": fs.ModeDir | 0o700, "a/b/c": 0o600, ".unfinished": fs.ModeDir | 0o700} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want {
			t.Errorf("%q has mode %v, want %v", name, info.Mode(), want)
		}
	}
	if err := s.Delete(t.Context(), "a/b/c"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "a")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("empty directories were left: %v", err)
	}
}

func TestNoParent(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "not-mounted", "store"))
	if _, err := s.Put(t.Context(), "k", strings.NewReader("x")); !errors.Is(err, storage.ErrNoBucket) || !strings.Contains(err.Error(), "mounted") {
		t.Errorf("put: %v, want ErrNoBucket with advice", err)
	}
	for _, err := range s.List(t.Context(), "", "") {
		if !errors.Is(err, storage.ErrNoBucket) {
			t.Errorf("list: %v, want ErrNoBucket", err)
		}
	}
}

func TestKeyIsDirectory(t *testing.T) {
	s := open(t, t.TempDir())
	storagetest.Put(t, s, "a", []byte("x"))
	storagetest.Put(t, s, "d/e", []byte("x"))
	for _, key := range []string{"a/b", "a/b/c", "d"} {
		_, err := s.Put(t.Context(), key, strings.NewReader("y"))
		if !errors.Is(err, storage.ErrKey) || errors.Is(err, storage.ErrExists) {
			t.Errorf("put %s: %v, want ErrKey", key, err)
		}
	}
	if got := storagetest.Keys(t, s, "", ""); !slices.Equal(got, []string{"a", "d/e"}) {
		t.Errorf("there is %q", got)
	}
}

// A directory that can be neither made nor used is no object that is there already: so it looks, for a moment, when another process makes
// and removes it.
func TestDirectoryThatIsNone(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if err := os.Symlink("nowhere", filepath.Join(dir, "d")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), "d/k", strings.NewReader("x")); err == nil || errors.Is(err, storage.ErrExists) {
		t.Errorf("put: %v, want an error, and not ErrExists", err)
	}
}

// What others put into the directory is neither listed nor in the way.
func TestForeignFiles(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	storagetest.Put(t, s, "k/1", []byte("x"))
	for _, name := range []string{".hidden", "k/.swp"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("1", filepath.Join(dir, "k", "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	if got := storagetest.Keys(t, s, "", ""); !slices.Equal(got, []string{"k/1"}) {
		t.Errorf("listed %q", got)
	}
}

// What a killed program leaves is invisible, found with its age by the file system's clock, and removed.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	storagetest.Put(t, s, "snapshots/done", []byte("x"))
	old := time.Now().Add(-10 * 24 * time.Hour).Truncate(time.Second)
	for id, key := range map[string]string{"OLD": "snapshots/l1/db.zst", "OTHER": "segments/x"} {
		name := filepath.Join(dir, ".unfinished", id, key)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		for ; filepath.Base(name) != ".unfinished"; name = filepath.Dir(name) {
			if err := os.Chtimes(name, old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	found := unfinished(t, s, "snapshots/")
	if len(found) != 1 || found[0].Key != "snapshots/l1/db.zst" || found[0].ID != "OLD" || !found[0].Started.Equal(old) {
		t.Fatalf("found %+v", found)
	}
	if age := found[0].Age; age < 10*24*time.Hour || age > 10*24*time.Hour+time.Minute {
		t.Errorf("its age is %v, want 10 days", age)
	}
	if got := storagetest.Keys(t, s, "", ""); !slices.Equal(got, []string{"snapshots/done"}) {
		t.Errorf("visible: %q", got)
	}
	for range 2 { // the second finds nothing to do
		if err := s.Abort(t.Context(), found[0]); err != nil {
			t.Fatal(err)
		}
	}
	if left := unfinished(t, s, ""); len(left) != 1 || left[0].ID != "OTHER" {
		t.Errorf("left: %+v", left)
	}
	for _, id := range []string{"", ".", "..", "../snapshots", "a/b"} {
		if err := s.Abort(t.Context(), storage.Unfinished{ID: id}); err == nil {
			t.Errorf("the ID %q was accepted", id)
		}
	}
	if got := storagetest.Keys(t, s, "", ""); !slices.Equal(got, []string{"snapshots/done"}) {
		t.Errorf("after sweeping there is %q", got)
	}
}

// A running upload is unfinished too; one that is swept away fails, and nothing becomes visible.
func TestSweptWhileRunning(t *testing.T) {
	s := open(t, t.TempDir())
	r, w := io.Pipe()
	result := make(chan error, 1)
	go func() {
		_, err := s.Put(t.Context(), "k/x", r)
		result <- err
	}()
	if _, err := w.Write([]byte("first half")); err != nil {
		t.Fatal(err)
	}
	running := unfinished(t, s, "k/")
	if len(running) != 1 || running[0].Key != "k/x" || running[0].Age > time.Minute {
		t.Fatalf("unfinished: %+v", running)
	}
	if err := s.Abort(t.Context(), running[0]); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := <-result; err == nil || !strings.Contains(err.Error(), "sweep") {
		t.Errorf("the swept Put returned %v", err)
	}
	if got := storagetest.Keys(t, s, "", ""); len(got) > 0 {
		t.Errorf("visible: %q", got)
	}
}

// Two stores, as in two processes, write and delete the same keys.
func TestTwoProcesses(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	wins := make([]int, 2)
	const patience = 5 * time.Minute // a busy disk may take its time over each
	for i := range wins {
		s := open(t, dir)
		wg.Go(func() {
			// A Put that meets the other's object is refused; how often that happens is the scheduler's business.
			for deadline := time.Now().Add(patience); wins[i] < 50 && time.Now().Before(deadline); {
				_, err := s.Put(t.Context(), "a/b/k", strings.NewReader("x"))
				switch {
				case err == nil:
					wins[i]++
					if err := s.Delete(t.Context(), "a/b/k"); err != nil {
						t.Error(err)
					}
				case !errors.Is(err, storage.ErrExists):
					t.Errorf("put: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if wins[0] < 50 || wins[1] < 50 {
		t.Errorf("only %v Puts succeeded within %v, want 50 of each", wins, patience)
	}
	if got := storagetest.Keys(t, open(t, dir), "", ""); len(got) > 0 {
		t.Errorf("left: %q", got)
	}
}

func TestConfirmReadsBack(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	data := []byte("abc")
	storagetest.Put(t, s, "k", data)
	want := storage.Want{Size: 3, SHA256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
	if how, err := s.Confirm(t.Context(), "k", want); err != nil || how != "read back sha256" {
		t.Errorf("confirm: %q, %v", how, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "k"), []byte("abd"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Confirm(t.Context(), "k", want); !errors.Is(err, storage.ErrMismatch) {
		t.Errorf("confirm of a changed file: %v, want ErrMismatch", err)
	}
}

func TestUnreadable(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may read everything")
	}
	dir := t.TempDir()
	s := open(t, dir)
	storagetest.Put(t, s, "d/k", []byte("x"))
	if err := os.Chmod(filepath.Join(dir, "d"), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "d"), 0o700) })
	if _, err := s.Get(t.Context(), "d/k", 0); !errors.Is(err, storage.ErrDenied) {
		t.Errorf("get: %v, want ErrDenied", err)
	}
	for _, err := range s.List(t.Context(), "", "") {
		if !errors.Is(err, storage.ErrDenied) {
			t.Errorf("list: %v, want ErrDenied: an empty listing would say that there are no backups", err)
		}
	}
}

var _ interface {
	storage.Store
	storage.Confirmer
	storage.Sweeper
} = (*file.Store)(nil)

func TestCancelledWhileWriting(t *testing.T) {
	s := open(t, t.TempDir())
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the operator pressed Ctrl-C")
	r := io.MultiReader(bytes.NewReader(make([]byte, 1<<20)), readerFunc(func([]byte) (int, error) { cancel(why); return 0, nil }), bytes.NewReader(make([]byte, 1<<20)))
	if _, err := s.Put(ctx, "k", r); !errors.Is(err, why) {
		t.Errorf("put: %v, want the cause of the cancellation", err)
	}
	if left := unfinished(t, s, ""); len(left) > 0 {
		t.Errorf("left: %+v", left)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

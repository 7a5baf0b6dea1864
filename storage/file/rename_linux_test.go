package file

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// Where there are no hard links the name is given by a rename, which must not overwrite either.
func TestRenameNew(t *testing.T) {
	dir := t.TempDir()
	a, b, c := filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "c")
	for name, data := range map[string]string{a: "new", b: "old"} {
		if err := os.WriteFile(name, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := renameNew(a, b); !errors.Is(err, fs.ErrExist) {
		t.Errorf("onto a name that is taken: %v, want fs.ErrExist", err)
	}
	if err := renameNew(a, filepath.Join(dir, "gone", "x")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("into a directory that is gone: %v, want fs.ErrNotExist", err)
	}
	if err := renameNew(a, c); err != nil {
		t.Errorf("onto a free name: %v", err)
	}
	for name, want := range map[string]string{b: "old", c: "new"} {
		if got, err := os.ReadFile(name); err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v; want %q", filepath.Base(name), got, err, want)
		}
	}
}

package file_test

import (
	"path/filepath"
	"testing"

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

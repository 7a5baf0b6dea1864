package file

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/requorum/requorum/storage"
)

// Probe implements [storage.Prober]: it writes and removes a temporary file, in the parent where the store's directory has yet
// to be made.
func (s *Store) Probe(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	dir := s.dir
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		dir = filepath.Dir(dir)
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return s.fail("put", storage.ProbeKey, s.noParent())
		}
	}
	f, err := os.CreateTemp(dir, ".probe-")
	if err != nil {
		return s.fail("put", storage.ProbeKey, err)
	}
	_, err = f.WriteString("probe")
	if err := errors.Join(err, f.Close(), os.Remove(f.Name())); err != nil {
		return s.fail("put", storage.ProbeKey, err)
	}
	return nil
}

package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/requorum/requorum/storage"
)

// Confirm implements [storage.Confirmer] by reading the file back, from the disk where the system lets us ask for that.
func (s *Store) Confirm(ctx context.Context, key string, want storage.Want) (string, error) {
	if storage.CheckKey(key) == nil {
		forget(s.path(key))
	}
	return storage.ReadBack(ctx, s, key, want)
}

// Unfinished implements [storage.Sweeper]. An upload's ID is the name of its directory.
func (s *Store) Unfinished(ctx context.Context, prefix string) iter.Seq2[storage.Unfinished, error] {
	return func(yield func(storage.Unfinished, error) bool) {
		uploads, err := os.ReadDir(filepath.Join(s.dir, unfinished))
		if errors.Is(err, fs.ErrNotExist) || err == nil && len(uploads) == 0 {
			return
		}
		var now time.Time
		if err == nil {
			now, err = s.Now(ctx)
		}
		if err != nil {
			yield(storage.Unfinished{}, s.fail("sweep", prefix, err))
			return
		}
		for _, upload := range uploads {
			u, err := s.upload(upload.Name())
			if errors.Is(err, fs.ErrNotExist) {
				continue // finished or aborted meanwhile
			}
			if err != nil {
				yield(storage.Unfinished{}, s.fail("sweep", prefix, err))
				return
			}
			u.Age = now.Sub(u.Started)
			if strings.HasPrefix(u.Key, prefix) && !yield(u, nil) {
				return
			}
		}
	}
}

// upload describes the upload id. The newest time below its directory is its own: a write to the file does not
// touch the directories above.
func (s *Store) upload(id string) (storage.Unfinished, error) {
	u := storage.Unfinished{ID: id}
	root := filepath.Join(s.dir, unfinished, id)
	err := filepath.WalkDir(root, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if info.ModTime().After(u.Started) {
			u.Started = info.ModTime()
		}
		if name != root {
			key, err := filepath.Rel(root, name)
			if err != nil {
				return err
			}
			u.Key = filepath.ToSlash(key)
		}
		return nil
	})
	return u, err
}

// Abort implements [storage.Sweeper].
func (s *Store) Abort(ctx context.Context, u storage.Unfinished) error {
	if u.ID == "" || strings.ContainsAny(u.ID, `/\`) || u.ID[0] == '.' {
		return s.fail("sweep", u.Key, fmt.Errorf("%q is not the ID of an unfinished upload", u.ID))
	}
	if ctx.Err() != nil {
		return fmt.Errorf("sweep %s: %w", u.Key, context.Cause(ctx))
	}
	if err := os.RemoveAll(filepath.Join(s.dir, unfinished, u.ID)); err != nil {
		return s.fail("sweep", u.Key, err)
	}
	return nil
}

// Now implements [storage.Sweeper]: the time that the file system, perhaps on another machine, gives to a new file.
func (s *Store) Now(ctx context.Context) (time.Time, error) {
	if ctx.Err() != nil {
		return time.Time{}, context.Cause(ctx)
	}
	now, err := s.probe()
	if err != nil {
		return time.Time{}, s.fail("ask the clock", "", err)
	}
	return now, nil
}

func (s *Store) probe() (time.Time, error) {
	if err := s.makeRoot(); err != nil {
		return time.Time{}, err
	}
	f, err := os.CreateTemp(s.dir, ".clock-")
	if err != nil {
		return time.Time{}, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	info, err := f.Stat() // nothing is written: sweeping must work on a full disk
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

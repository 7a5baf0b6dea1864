package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/requorum/requorum/storage"
)

// List implements [storage.Store]. It reads only directories that can hold an answer, one at a time. What no Put
// can have made - names that begin with a dot, symbolic links, devices - is passed over.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		w := walk{s: s, prefix: prefix, after: after, yield: yield}
		if err := w.dir(ctx, ""); err != nil && !errors.Is(err, errStop) {
			if ctx.Err() == nil {
				err = s.fail("list", prefix, err)
			}
			yield(storage.Object{}, err)
		}
	}
}

var errStop = errors.New("the caller wants no more")

type walk struct {
	s             *Store
	prefix, after string
	yield         func(storage.Object, error) bool
}

// dir walks the directory whose keys begin with head: "" or a key and a slash.
func (w *walk) dir(ctx context.Context, head string) error {
	if ctx.Err() != nil {
		return fmt.Errorf("list %s: %w", w.prefix, context.Cause(ctx))
	}
	entries, err := os.ReadDir(w.s.path(head))
	if errors.Is(err, fs.ErrNotExist) {
		if head == "" {
			return w.emptyRoot()
		}
		return nil // a Delete took it meanwhile
	}
	if err != nil {
		return err
	}
	// The order of whole keys is not that of the names in a directory: "a-b" comes before "a/c", because "-" comes before
	// "/". With its slash a directory sorts where its keys do.
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		switch {
		case e.Name()[0] == '.':
		case e.IsDir():
			names = append(names, head+e.Name()+"/")
		case e.Type().IsRegular():
			names = append(names, head+e.Name())
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if sub := name[len(name)-1] == '/'; sub {
			holds := strings.HasPrefix(name, w.prefix) || strings.HasPrefix(w.prefix, name)
			past := w.after >= name && !strings.HasPrefix(w.after, name)
			if holds && !past {
				if err := w.dir(ctx, name); err != nil {
					return err
				}
			}
			continue
		}
		if name <= w.after || !strings.HasPrefix(name, w.prefix) {
			continue
		}
		info, err := os.Lstat(w.s.path(name))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			continue // deleted meanwhile
		}
		if err != nil {
			return err
		}
		if !w.yield(storage.Object{Key: name, Size: info.Size(), Modified: info.ModTime()}, nil) {
			return errStop
		}
	}
	return nil
}

// emptyRoot tells a store that nothing was put to yet from a path that cannot be right.
func (w *walk) emptyRoot() error {
	if _, err := os.Stat(filepath.Dir(w.s.dir)); errors.Is(err, fs.ErrNotExist) {
		return w.s.noParent()
	} else if err != nil {
		return err
	}
	return nil
}

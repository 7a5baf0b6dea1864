// Package file keeps objects as files in a directory: a disk, a mounted share.
//
// A key is the path below the directory. An upload grows in .unfinished/, which listings never show, and is
// linked to its name only when it is whole and synced, so nothing partial is ever visible and
// nothing is ever overwritten, whoever else writes. Files are 0600 and directories 0700. Every step that makes an object
// exist is synced, directories too: after Put returned, a power loss does not take it away.
package file

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/requorum/requorum/storage"
)

// unfinished is the directory of uploads under way. [storage.CheckKey] refuses keys that begin with a dot, so it
// cannot meet an object.
const unfinished = ".unfinished"

// Options say where the files are.
type Options struct {
	// Dir is the directory. The first Put creates it if its parent is there; a missing parent is
	// [storage.ErrNoBucket], because it rather means that a disk is not mounted or a path is misspelt.
	Dir string
}

// FromURL reads file:///path. There are no parameters.
func FromURL(u *url.URL) (Options, error) {
	if u.Scheme != "file" {
		return Options{}, fmt.Errorf("store URL %s: not a file:// URL", u.Redacted())
	}
	if _, err := storage.Query(u); err != nil {
		return Options{}, err
	}
	if u.Host != "" || !path.IsAbs(u.Path) {
		return Options{}, fmt.Errorf("store URL %s: write the absolute path after three slashes: file:///%s", u.Redacted(), strings.TrimPrefix(u.Host+u.Path, "/"))
	}
	return Options{Dir: filepath.FromSlash(u.Path)}, nil
}

// Store is a [storage.Store], [storage.Confirmer] and [storage.Sweeper]. Any number of processes may use one
// directory at once.
type Store struct {
	dir string // absolute
}

// New returns the store in o.Dir. It touches nothing.
func New(o Options) (*Store, error) {
	if o.Dir == "" {
		return nil, errors.New("file store: no directory given")
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("file store %s: %w", o.Dir, err)
	}
	return &Store{dir}, nil
}

func (s *Store) path(key string) string { return filepath.Join(s.dir, filepath.FromSlash(key)) }

// fail gives err its class and advice.
func (s *Store) fail(op, key string, err error) error {
	e := &storage.Error{Op: op, Store: "file://" + filepath.ToSlash(s.dir), Key: key, Err: err}
	switch {
	case errors.Is(err, storage.ErrKey), errors.Is(err, storage.ErrNoBucket), errors.Is(err, storage.ErrExists):
	case errors.Is(err, fs.ErrNotExist):
		e.Kind = fs.ErrNotExist
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		e.Kind, e.Advice = storage.ErrFull, "free some space there, or run requorum expire"
	case errors.Is(err, syscall.EROFS):
		e.Kind, e.Advice = storage.ErrDenied, "the file system is mounted read-only"
	case errors.Is(err, fs.ErrPermission):
		e.Kind, e.Advice = storage.ErrDenied, "check the owner and the mode of the directory, or run as its owner; an immutable file needs chattr -i"
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EISDIR):
		e.Kind, e.Advice = storage.ErrKey, "no object's name can be the directory of another"
	case errors.Is(err, syscall.ENAMETOOLONG):
		e.Kind = storage.ErrKey
	case errors.Is(err, syscall.ESTALE), errors.Is(err, syscall.EIO), errors.Is(err, syscall.ENOTCONN), errors.Is(err, syscall.EHOSTDOWN), errors.Is(err, syscall.ETIMEDOUT):
		e.Kind, e.Advice = storage.ErrUnreachable, "check the disk or the mount: dmesg tells more"
	}
	return e
}

// Put implements [storage.Store].
func (s *Store) Put(ctx context.Context, key string, r io.Reader) (storage.Object, error) {
	if err := storage.CheckKey(key); err != nil {
		return storage.Object{}, s.fail("put", key, err)
	}
	target := s.path(key)
	if info, err := os.Lstat(target); err == nil && !info.IsDir() {
		return storage.Object{}, s.fail("put", key, storage.ErrExists) // before anything is read in vain
	}
	if err := s.makeRoot(); err != nil {
		return storage.Object{}, s.fail("put", key, err)
	}
	// One directory for each upload, with the key as the path in it: Unfinished can tell what it is.
	stage := filepath.Join(s.dir, unfinished, rand.Text())
	defer os.RemoveAll(stage)
	whole := filepath.Join(stage, filepath.FromSlash(key))
	if err := os.MkdirAll(filepath.Dir(whole), 0o700); err != nil {
		return storage.Object{}, s.fail("put", key, err)
	}
	info, err := write(ctx, whole, r)
	if own, ok := errors.AsType[*sourceError](err); ok {
		return storage.Object{}, fmt.Errorf("put %s: %w", key, own.err)
	} else if err != nil {
		return storage.Object{}, s.fail("put", key, err)
	}
	if err := s.publish(whole, target); err != nil {
		return storage.Object{}, s.fail("put", key, err)
	}
	return storage.Object{Key: key, Size: info.Size(), Modified: info.ModTime()}, nil
}

// sourceError is an error of the caller's reader or context, to be told apart from those of the disk.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }

// source reads what is put. It ends with its context and lives as long as one Put.
type source struct {
	ctx context.Context
	r   io.Reader
}

func (s *source) Read(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		return 0, &sourceError{context.Cause(s.ctx)}
	}
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		err = &sourceError{err}
	}
	return n, err
}

// write makes a synced file of r and returns what it is on disk.
func write(ctx context.Context, name string, r io.Reader) (fs.FileInfo, error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// Hidden, because File.ReadFrom would copy in small steps of its own.
	buffer := make([]byte, 256<<10)
	if _, err := io.CopyBuffer(struct{ io.Writer }{f}, &source{ctx, r}, buffer); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, &sourceError{context.Cause(ctx)}
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return info, f.Close()
}

// publish gives the whole file its name, durably, unless the name is taken.
func (s *Store) publish(whole, target string) error {
	dir := filepath.Dir(target)
	// A Delete may remove a directory that it finds empty between our making it and our using it.
	for range 100 {
		err := os.MkdirAll(dir, 0o700)
		if errors.Is(err, fs.ErrExist) {
			continue // it was made and removed again while MkdirAll looked: the key is not taken by that
		}
		if err == nil {
			err = place(whole, target)
		}
		if errors.Is(err, fs.ErrNotExist) {
			if _, err := os.Lstat(whole); err != nil {
				return errors.New("the upload was taken away before it was done, by a sweep perhaps")
			}
			continue
		}
		if errors.Is(err, fs.ErrExist) {
			if info, err := os.Lstat(target); err == nil && info.IsDir() {
				return &fs.PathError{Op: "link", Path: target, Err: syscall.EISDIR}
			}
			return storage.ErrExists
		}
		if err != nil {
			return err
		}
		return s.syncUp(dir)
	}
	return fmt.Errorf("%s was removed again and again while it was written to", dir)
}

// place names the file old also new; fs.ErrExist if new is there already, even if someone made it this moment.
func place(old, new string) error {
	err := os.Link(old, new)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrExist):
		// Over NFS a link whose answer was lost is repeated by the kernel and then finds itself.
		a, errA := os.Lstat(old)
		b, errB := os.Lstat(new)
		if errA == nil && errB == nil && os.SameFile(a, b) {
			return nil
		}
		return err
	case errors.Is(err, syscall.EPERM), errors.Is(err, errors.ErrUnsupported), errors.Is(err, syscall.EMLINK):
		return renameNew(old, new) // FAT, exFAT, some network shares: no hard links
	}
	return err
}

// syncUp syncs dir and its parents down from the store's directory. All of them, always: a directory found there may
// have been made a moment ago by another process that has not synced its parent yet.
func (s *Store) syncUp(dir string) error {
	for {
		if err := syncDir(dir); err != nil {
			return err
		}
		if dir == s.dir {
			return nil
		}
		dir = filepath.Dir(dir)
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		return nil // some network file systems have no such thing; they order it themselves
	}
	return err
}

// makeRoot creates the store's directory, but not its parent.
func (s *Store) makeRoot() error {
	err := os.Mkdir(s.dir, 0o700)
	switch {
	case err == nil:
		return syncDir(filepath.Dir(s.dir))
	case errors.Is(err, fs.ErrExist):
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return s.noParent()
	}
	return err
}

func (s *Store) noParent() error {
	return fmt.Errorf("%w: %s does not exist; is the disk mounted? If the path is right, create it", storage.ErrNoBucket, filepath.Dir(s.dir))
}

// Get implements [storage.Store].
func (s *Store) Get(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	if err := storage.CheckKey(key); err != nil {
		return nil, s.fail("get", key, err)
	}
	if offset < 0 {
		return nil, s.fail("get", key, fmt.Errorf("offset %d is negative", offset))
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("get %s: %w", key, context.Cause(ctx))
	}
	f, err := os.Open(s.path(key))
	if err == nil {
		var info fs.FileInfo
		if info, err = f.Stat(); err == nil && info.IsDir() {
			err = fs.ErrNotExist
		}
		if err == nil {
			_, err = f.Seek(offset, io.SeekStart)
		}
		if err != nil {
			_ = f.Close() // the first error is the one that counts
		}
	}
	if errors.Is(err, syscall.ENOTDIR) {
		err = fs.ErrNotExist // an element of the key is an object: the key itself cannot be
	}
	if err != nil {
		return nil, s.fail("get", key, err)
	}
	return &stream{ctx: ctx, s: s, key: key, f: f}, nil
}

// stream reads one object. It ends with the context of its Get, which it therefore keeps.
type stream struct {
	ctx context.Context
	s   *Store
	key string
	f   *os.File
}

func (r *stream) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, fmt.Errorf("get %s: %w", r.key, context.Cause(r.ctx))
	}
	n, err := r.f.Read(p)
	if err != nil && err != io.EOF {
		err = r.s.fail("get", r.key, err)
	}
	return n, err
}

func (r *stream) Close() error { return r.f.Close() }

// Delete implements [storage.Store]. Directories that become empty go with it.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := storage.CheckKey(key); err != nil {
		return s.fail("delete", key, err)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("delete %s: %w", key, context.Cause(ctx))
	}
	target := s.path(key)
	info, err := os.Lstat(target)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || err == nil && info.IsDir() {
		return nil // os.Remove would take an empty directory too
	}
	if err == nil {
		err = os.Remove(target)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return s.fail("delete", key, err)
	}
	// rmdir refuses a directory that is not empty, also one that a Put has just filled: no check of ours could.
	dir := filepath.Dir(target)
	for dir != s.dir && os.Remove(dir) == nil {
		dir = filepath.Dir(dir)
	}
	if err := syncDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s.fail("delete", key, err)
	}
	return nil
}

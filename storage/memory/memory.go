// Package memory keeps objects in memory: for tests, demonstrations and simulations.
package memory

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/requorum/requorum/storage"
)

// Store is a [storage.Store] and a [storage.Sweeper]. An object is whole before it is stored, so nothing
// unfinished is ever left.
type Store struct {
	now func() time.Time

	mu      sync.RWMutex
	objects map[string]object
}

type object struct {
	data     []byte
	modified time.Time
}

// New returns an empty store whose clock is now, or time.Now when it is nil.
func New(now func() time.Time) *Store {
	if now == nil {
		now = time.Now
	}
	return &Store{now: now, objects: map[string]object{}}
}

func fail(op, key string, kind, err error) error {
	return &storage.Error{Op: op, Store: "memory", Key: key, Kind: kind, Err: err}
}

// Put implements [storage.Store].
func (s *Store) Put(ctx context.Context, key string, r io.Reader) (storage.Object, error) {
	if err := storage.CheckKey(key); err != nil {
		return storage.Object{}, fail("put", key, nil, err)
	}
	var b bytes.Buffer
	if _, err := b.ReadFrom(&reader{ctx: ctx, r: r}); err != nil {
		return storage.Object{}, fmt.Errorf("put %s: %w", key, err)
	}
	if ctx.Err() != nil {
		return storage.Object{}, fmt.Errorf("put %s: %w", key, context.Cause(ctx))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.objects[key]; taken {
		return storage.Object{}, fail("put", key, storage.ErrExists, nil)
	}
	o := object{b.Bytes(), s.now()}
	s.objects[key] = o
	return storage.Object{Key: key, Size: int64(len(o.data)), Modified: o.modified}, nil
}

// Get implements [storage.Store].
func (s *Store) Get(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	if offset < 0 {
		return nil, fail("get", key, nil, fmt.Errorf("offset %d is negative", offset))
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("get %s: %w", key, context.Cause(ctx))
	}
	s.mu.RLock()
	o, found := s.objects[key]
	s.mu.RUnlock()
	if !found {
		return nil, fail("get", key, fs.ErrNotExist, nil)
	}
	data := o.data[min(offset, int64(len(o.data))):]
	return io.NopCloser(&reader{ctx: ctx, r: bytes.NewReader(data)}), nil
}

// List implements [storage.Store].
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		if ctx.Err() != nil {
			yield(storage.Object{}, fmt.Errorf("list %s: %w", prefix, context.Cause(ctx)))
			return
		}
		s.mu.RLock()
		keys := slices.Sorted(maps.Keys(s.objects))
		s.mu.RUnlock()
		for _, key := range keys {
			if ctx.Err() != nil {
				yield(storage.Object{}, fmt.Errorf("list %s: %w", prefix, context.Cause(ctx)))
				return
			}
			if key <= after || !strings.HasPrefix(key, prefix) {
				continue
			}
			s.mu.RLock()
			o, found := s.objects[key]
			s.mu.RUnlock()
			if found && !yield(storage.Object{Key: key, Size: int64(len(o.data)), Modified: o.modified}, nil) {
				return
			}
		}
	}
}

// Delete implements [storage.Store].
func (s *Store) Delete(ctx context.Context, key string) error {
	if ctx.Err() != nil {
		return fmt.Errorf("delete %s: %w", key, context.Cause(ctx))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, key)
	return nil
}

// Unfinished implements [storage.Sweeper]: there are none.
func (s *Store) Unfinished(context.Context, string) iter.Seq2[storage.Unfinished, error] {
	return func(func(storage.Unfinished, error) bool) {}
}

// Abort implements [storage.Sweeper]: there is nothing to remove.
func (s *Store) Abort(context.Context, storage.Unfinished) error { return nil }

// Now implements [storage.Sweeper].
func (s *Store) Now(context.Context) (time.Time, error) { return s.now(), nil }

// reader ends with its context. It lives as long as one call.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}

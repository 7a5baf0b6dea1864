package metrics

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"time"

	"github.com/requorum/requorum/storage"
)

// Store returns s with its operations counted and timed under name. What s can do beyond [storage.Store] it can still do.
func (m *Metrics) Store(name string, s storage.Store) storage.Store {
	return &measured{s: s, name: name, m: m}
}

type measured struct {
	s    storage.Store
	name string
	m    *Metrics
}

// outcomeOf puts an error into one of the classes of storage.
func outcomeOf(err error) string {
	if err == nil {
		return "ok"
	}
	for _, class := range []struct {
		outcome string
		errs    []error
	}{
		{"missing", []error{fs.ErrNotExist}},
		{"exists", []error{storage.ErrExists}},
		{"locked", []error{storage.ErrLocked}},
		{"denied", []error{storage.ErrDenied, storage.ErrNoCredentials, storage.ErrAccessKey, storage.ErrSecretKey, storage.ErrExpired, storage.ErrClock, storage.ErrCertificate}},
		{"full", []error{storage.ErrFull}},
		{"unreachable", []error{storage.ErrUnreachable}},
		{"cancelled", []error{context.Canceled, context.DeadlineExceeded}},
	} {
		for _, e := range class.errs {
			if errors.Is(err, e) {
				return class.outcome
			}
		}
	}
	return "other"
}

// done counts an operation that began at start.
func (s *measured) done(operation string, start time.Time, err error) {
	s.m.operations.WithLabelValues(s.name, operation, outcomeOf(err)).Inc()
	s.m.seconds.WithLabelValues(s.name, operation).Observe(time.Since(start).Seconds())
}

func (s *measured) Put(ctx context.Context, key string, r io.Reader) (storage.Object, error) {
	start := time.Now()
	o, err := s.s.Put(ctx, key, r)
	s.done("put", start, err)
	if err == nil {
		s.m.bytes.WithLabelValues(s.name, "written").Add(float64(o.Size))
	}
	return o, err
}

// Get is over when its reader is closed.
func (s *measured) Get(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	start := time.Now()
	r, err := s.s.Get(ctx, key, offset)
	if err != nil {
		s.done("get", start, err)
		return nil, err
	}
	return &reading{ReadCloser: r, s: s, start: start}, nil
}

// reading counts what is read until it is closed, once.
type reading struct {
	io.ReadCloser
	s      *measured
	start  time.Time
	err    error
	closed bool
}

func (r *reading) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.s.m.bytes.WithLabelValues(r.s.name, "read").Add(float64(n))
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

func (r *reading) Close() error {
	if !r.closed {
		r.closed = true
		r.s.done("get", r.start, r.err)
	}
	return r.ReadCloser.Close()
}

func (s *measured) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		start := time.Now()
		var failed error
		defer func() { s.done("list", start, failed) }()
		for o, err := range s.s.List(ctx, prefix, after) {
			if err != nil {
				failed = err
			}
			if !yield(o, err) {
				return
			}
		}
	}
}

func (s *measured) Delete(ctx context.Context, key string) error {
	start := time.Now()
	err := s.s.Delete(ctx, key)
	s.done("delete", start, err)
	return err
}

// Confirm implements storage.Confirmer: by reading back where the store itself cannot, which is a part of confirming then.
func (s *measured) Confirm(ctx context.Context, key string, want storage.Want) (string, error) {
	start := time.Now()
	how, err := storage.Confirm(ctx, s.s, key, want)
	s.done("confirm", start, err)
	return how, err
}

// Unfinished, Abort and Now implement storage.Sweeper.
func (s *measured) Unfinished(ctx context.Context, prefix string) iter.Seq2[storage.Unfinished, error] {
	return storage.AsSweeper(s.s).Unfinished(ctx, prefix)
}

func (s *measured) Abort(ctx context.Context, u storage.Unfinished) error {
	return storage.AsSweeper(s.s).Abort(ctx, u)
}

func (s *measured) Now(ctx context.Context) (time.Time, error) {
	return storage.AsSweeper(s.s).Now(ctx)
}

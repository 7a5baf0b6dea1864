package storage

import (
	"context"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"time"
)

// RetryOptions say how patiently [Retry] tries again. The zero value is fit for use.
type RetryOptions struct {
	Attempts int           // calls in a row without any progress before giving up; default 5
	Wait     time.Duration // before the second attempt, doubled for each further one; default 250 ms
	MaxWait  time.Duration // the longest wait; default 10 s
}

// Retry returns s with Get, List and Delete tried again when they fail for a reason that may pass (see [Permanent]). The
// waits grow and are shortened at random by up to a half, so that many clients do not come back at once.
// A stream or a listing that breaks is taken up where it stood; every byte or object gained
// starts the count anew. Put is never repeated: its reader is spent, and adapters repeat their own requests.
func Retry(s Store, o RetryOptions) Store { return &retrying{s, o.withDefaults()} }

type retrying struct {
	Store // Put as it is
	o     RetryOptions
}

// Do calls f until it returns nil, an error that is [Permanent], or too many others in a row. Adapters use it for requests of
// their own that can be repeated.
func (o RetryOptions) Do(ctx context.Context, f func() error) error {
	for b := (backoff{o: o.withDefaults()}); ; {
		err := f()
		if err == nil {
			return nil
		}
		if err := b.again(ctx, err); err != nil {
			return err
		}
	}
}

func (o RetryOptions) withDefaults() RetryOptions {
	if o.Attempts <= 0 {
		o.Attempts = 5
	}
	if o.Wait <= 0 {
		o.Wait = 250 * time.Millisecond
	}
	if o.MaxWait <= 0 {
		o.MaxWait = 10 * time.Second
	}
	return o
}

// backoff counts the failures in a row of one call.
type backoff struct {
	o        RetryOptions
	failures int
}

// again waits before the next attempt and returns nil, or returns the error that ends the call.
func (b *backoff) again(ctx context.Context, err error) error {
	b.failures++
	if Permanent(err) || ctx.Err() != nil {
		return err
	}
	if b.failures >= b.o.Attempts {
		return fmt.Errorf("%w (tried %d times)", err, b.failures)
	}
	wait := min(b.o.Wait<<(b.failures-1), b.o.MaxWait)
	wait -= rand.N(wait/2 + 1)
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w, last error: %w", context.Cause(ctx), err)
	}
}

func (s *retrying) Delete(ctx context.Context, key string) error {
	return s.o.Do(ctx, func() error { return s.Store.Delete(ctx, key) })
}

func (s *retrying) List(ctx context.Context, prefix, after string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		b, after := backoff{o: s.o}, after
		for {
			var broken error
			for o, err := range s.Store.List(ctx, prefix, after) {
				if err != nil {
					broken = err
					break
				}
				b.failures, after = 0, o.Key
				if !yield(o, nil) {
					return
				}
			}
			if broken == nil {
				return
			}
			if err := b.again(ctx, broken); err != nil {
				yield(Object{}, err)
				return
			}
		}
	}
}

func (s *retrying) Get(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	r := &resumed{ctx: ctx, s: s, key: key, offset: offset, backoff: backoff{o: s.o}}
	if err := r.open(); err != nil {
		return nil, err
	}
	return r, nil
}

// resumed is a stream that is opened again where it broke. It lives as long as one Get, whose context it
// therefore keeps.
type resumed struct {
	ctx     context.Context
	s       *retrying
	key     string
	offset  int64
	body    io.ReadCloser
	backoff backoff
	err     error
}

func (r *resumed) open() error {
	for {
		body, err := r.s.Store.Get(r.ctx, r.key, r.offset)
		if err == nil {
			r.body = body
			return nil
		}
		if err := r.backoff.again(r.ctx, err); err != nil {
			return err
		}
	}
}

func (r *resumed) Read(p []byte) (int, error) {
	for r.err == nil {
		n, err := r.body.Read(p)
		r.offset += int64(n)
		if n > 0 {
			r.backoff.failures = 0
		}
		switch {
		case err == nil:
			return n, nil
		case err == io.EOF:
			r.err = io.EOF
		default:
			if r.err = r.backoff.again(r.ctx, err); r.err == nil {
				_ = r.body.Close() // it broke: what closing says about it is no news
				r.err = r.open()
			}
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, r.err
}

func (r *resumed) Close() error { return r.body.Close() }

func (s *retrying) Confirm(ctx context.Context, key string, want Want) (string, error) {
	if c, ok := s.Store.(Confirmer); ok {
		return c.Confirm(ctx, key, want)
	}
	return ReadBack(ctx, s, key, want)
}

func (s *retrying) Unfinished(ctx context.Context, prefix string) iter.Seq2[Unfinished, error] {
	return AsSweeper(s.Store).Unfinished(ctx, prefix)
}

func (s *retrying) Abort(ctx context.Context, u Unfinished) error {
	return AsSweeper(s.Store).Abort(ctx, u)
}

func (s *retrying) Now(ctx context.Context) (time.Time, error) {
	return AsSweeper(s.Store).Now(ctx)
}

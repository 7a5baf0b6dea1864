package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"time"
)

// Spare returns s, which is not asked again for a while after it could not be reached - for rest, and for as long as it took to find that out: until
// then every call fails at once with that error. It is for stores beside which there are others: each step of a backup would wait anew for the one that
// is away, and the next one would get its turn late.
// It belongs outside of [Retry]. now is the clock, nil for time.Now. A stream or a listing that has begun goes on.
func Spare(s Store, rest time.Duration, now func() time.Time) Store {
	if now == nil {
		now = time.Now
	}
	return &sparing{Store: s, rest: rest, now: now}
}

type sparing struct {
	Store
	rest time.Duration
	now  func() time.Time

	mu    sync.Mutex
	away  error // the last one, nil if the last call reached the store
	until time.Time
}

// ask calls f, unless the store is to be left alone.
func (s *sparing) ask(f func() error) error {
	s.mu.Lock()
	away, until := s.away, s.until
	s.mu.Unlock()
	if away != nil && s.now().Before(until) {
		return fmt.Errorf("not asked again so soon: %w", away)
	}
	begun := s.now()
	err := f()
	s.note(err, begun)
	return err
}

// note remembers whether the store was reached. What the caller gave up says nothing.
func (s *sparing) note(err error, begun time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case errors.Is(err, context.Canceled):
	case errors.Is(err, ErrUnreachable):
		now := s.now()
		s.away, s.until = err, now.Add(max(s.rest, now.Sub(begun)))
	default:
		s.away = nil
	}
}

func (s *sparing) Put(ctx context.Context, key string, r io.Reader) (o Object, err error) {
	err = s.ask(func() (err error) {
		o, err = s.Store.Put(ctx, key, r)
		return err
	})
	return o, err
}

func (s *sparing) Get(ctx context.Context, key string, offset int64) (body io.ReadCloser, err error) {
	err = s.ask(func() (err error) {
		body, err = s.Store.Get(ctx, key, offset)
		return err
	})
	return body, err
}

func (s *sparing) Delete(ctx context.Context, key string) error {
	return s.ask(func() error { return s.Store.Delete(ctx, key) })
}

func (s *sparing) List(ctx context.Context, prefix, after string) iter.Seq2[Object, error] {
	return spared(s, s.Store.List(ctx, prefix, after))
}

// spared is a listing of a store that may be to be left alone.
func spared[T any](s *sparing, all iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		ended := false // by the caller
		err := s.ask(func() error {
			for v, err := range all {
				if err != nil {
					return err
				}
				if ended = !yield(v, nil); ended {
					return nil
				}
			}
			return nil
		})
		if err != nil && !ended {
			yield(none, err)
		}
	}
}

func (s *sparing) Confirm(ctx context.Context, key string, want Want) (how string, err error) {
	err = s.ask(func() (err error) {
		how, err = Confirm(ctx, s.Store, key, want)
		return err
	})
	return how, err
}

func (s *sparing) Unfinished(ctx context.Context, prefix string) iter.Seq2[Unfinished, error] {
	return spared(s, AsSweeper(s.Store).Unfinished(ctx, prefix))
}

func (s *sparing) Abort(ctx context.Context, u Unfinished) error {
	return s.ask(func() error { return AsSweeper(s.Store).Abort(ctx, u) })
}

func (s *sparing) Now(ctx context.Context) (now time.Time, err error) {
	err = s.ask(func() (err error) {
		now, err = AsSweeper(s.Store).Now(ctx)
		return err
	})
	return now, err
}

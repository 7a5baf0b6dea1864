package storage

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"
)

// Unfinished is an upload that has begun and is not an object: one under way, or what a killed program left.
type Unfinished struct {
	Key     string        // the key it was meant for
	ID      string        // tells several uploads of one key apart
	Started time.Time     // by the store's clock; for a directory, when the last byte was written
	Age     time.Duration // since Started, by the store's clock
}

// Sweeper is implemented by stores that can hold unfinished uploads. A store cannot tell a dead upload from
// a slow one: the caller aborts only those that are older than any upload may last, by the store's own clock.
type Sweeper interface {
	// Unfinished yields the unfinished uploads of keys that begin with prefix, in no particular order. An
	// error is yielded once, as the last pair.
	Unfinished(ctx context.Context, prefix string) iter.Seq2[Unfinished, error]

	// Abort removes what an unfinished upload has stored; its Put, if it still runs, fails. One
	// that is gone already, or has become an object, is no error, and the object stays.
	Abort(ctx context.Context, u Unfinished) error

	// Now asks the store for the time by which Object.Modified and Unfinished.Started are to be judged.
	Now(ctx context.Context) (time.Time, error)
}

// AsSweeper returns the sweeper of s. For a store that has none it returns one that finds no unfinished uploads and
// whose Now is errors.ErrUnsupported.
func AsSweeper(s Store) Sweeper {
	if sw, ok := s.(Sweeper); ok {
		return sw
	}
	return noSweeper{}
}

type noSweeper struct{}

func (noSweeper) Unfinished(context.Context, string) iter.Seq2[Unfinished, error] {
	return func(func(Unfinished, error) bool) {}
}

func (noSweeper) Abort(context.Context, Unfinished) error { return nil }

func (noSweeper) Now(context.Context) (time.Time, error) {
	return time.Time{}, fmt.Errorf("the store's clock: %w", errors.ErrUnsupported)
}

package storage_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/memory"
	"github.com/requorum/requorum/storage/storagetest"
)

func TestSpareSuite(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Store { return storage.Spare(memory.New(nil), time.Minute, nil) })
}

// A store that is away is waited for once, and not at every step; and it is asked again when it has had its rest.
func TestSpare(t *testing.T) {
	now := time.Date(2026, 11, 22, 5, 55, 0, 0, time.UTC)
	inner, fault, asked := memory.New(nil), error(nil), 0
	ask := func() error { asked++; return fault }
	s := storage.Spare(storagetest.Break(inner, storagetest.Faults{
		Put: func(string) error { return ask() }, Get: func(string, int64) error { return ask() },
		List: func(string, string) error { return ask() }, Delete: func(string) error { return ask() },
	}), 30*time.Second, func() time.Time { return now })
	put := func(key string) error {
		_, err := s.Put(t.Context(), key, bytes.NewReader([]byte("x")))
		return err
	}
	expect := func(when string, want error, calls int) {
		t.Helper()
		asked = 0
		_, getErr := get(t.Context(), s, "a")
		for what, err := range map[string]error{"get": getErr, "list": list(t.Context(), s), "delete": s.Delete(t.Context(), "nothing")} {
			if !errors.Is(err, want) {
				t.Errorf("%s: %s: %v, want %v", when, what, err, want)
			}
		}
		if asked != calls {
			t.Errorf("%s: the store was asked %d times, want %d", when, asked, calls)
		}
	}
	if err := put("a"); err != nil {
		t.Fatal(err)
	}
	expect("in peace", nil, 3)
	fault = storage.ErrDenied
	expect("while it refuses", storage.ErrDenied, 3)
	fault = storage.ErrUnreachable
	expect("while it is away", storage.ErrUnreachable, 1)
	if err := put("b"); !errors.Is(err, storage.ErrUnreachable) || asked != 1 {
		t.Errorf("a put while it is away: %v after %d calls", err, asked)
	}
	now = now.Add(31 * time.Second)
	expect("after its rest, still away", storage.ErrUnreachable, 1)
	fault = nil
	expect("back, and it is not known yet", storage.ErrUnreachable, 0)
	now = now.Add(31 * time.Second)
	expect("back", nil, 3)
	took := time.Duration(0)
	slow := storage.Spare(storagetest.Break(inner, storagetest.Faults{Get: func(string, int64) error { now = now.Add(took); return fault }}), 30*time.Second, func() time.Time { return now })
	took, fault = 5*time.Minute, storage.ErrUnreachable
	if _, err := get(t.Context(), slow, "a"); !errors.Is(err, fault) {
		t.Fatal(err)
	}
	took, fault = 0, nil
	now = now.Add(4 * time.Minute)
	if _, err := get(t.Context(), slow, "a"); err == nil {
		t.Error("a store that hung for five minutes is waited for again after four")
	}
	now = now.Add(2 * time.Minute)
	if _, err := get(t.Context(), slow, "a"); err != nil {
		t.Errorf("a store that hung is not asked again: %v", err)
	}
}

// What the caller gave up does not tell that a store is away.
func TestSpareAndCallersThatGiveUp(t *testing.T) {
	asked := 0
	s := storage.Spare(storagetest.Break(memory.New(nil), storagetest.Faults{Get: func(string, int64) error {
		asked++
		return errors.Join(storage.ErrUnreachable, context.Canceled)
	}}), time.Minute, nil)
	for range 3 {
		_, _ = get(t.Context(), s, "a")
	}
	if asked != 3 {
		t.Errorf("the store was asked %d times, want 3", asked)
	}
}

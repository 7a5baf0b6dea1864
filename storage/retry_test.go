package storage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/memory"
	"github.com/requorum/requorum/storage/storagetest"
)

func TestRetrySuite(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Store {
		return storage.Retry(storage.Prefix(memory.New(nil), "below"), storage.RetryOptions{})
	})
}

// flaky fails the first n calls of each operation.
func flaky(s storage.Store, n int, err error) (storage.Store, map[string]int) {
	calls := map[string]int{}
	fail := func(op string) error {
		calls[op]++
		if calls[op] <= n {
			return err
		}
		return nil
	}
	return storagetest.Break(s, storagetest.Faults{
		Put:    func(string) error { return fail("put") },
		Get:    func(string, int64) error { return fail("get") },
		List:   func(string, string) error { return fail("list") },
		Delete: func(string) error { return fail("delete") },
	}), calls
}

func list(ctx context.Context, s storage.Store) error {
	for _, err := range s.List(ctx, "", "") {
		if err != nil {
			return err
		}
	}
	return nil
}

func get(ctx context.Context, s storage.Store, key string) ([]byte, error) {
	r, err := s.Get(ctx, key, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

var retried = map[string]func(context.Context, storage.Store) error{
	"get":    func(ctx context.Context, s storage.Store) error { _, err := get(ctx, s, "k"); return err },
	"list":   list,
	"delete": func(ctx context.Context, s storage.Store) error { return s.Delete(ctx, "k") },
}

func TestRetryAgain(t *testing.T) {
	for op, call := range retried {
		for _, test := range []struct {
			failures int
			err      error
			calls    int
			ok       bool
		}{
			{0, nil, 1, true},
			{2, storagetest.ErrInjected, 3, true},
			{4, storagetest.ErrInjected, 5, true},
			{9, storagetest.ErrInjected, 5, false},
			{1, storage.ErrDenied, 1, false},
			{1, &storage.Error{Kind: storage.ErrLocked}, 1, false},
			{1, fmt.Errorf("wrapped: %w", fs.ErrNotExist), 1, false},
			{3, &storage.Error{Kind: storage.ErrUnreachable}, 4, true},
		} {
			synctest.Test(t, func(t *testing.T) {
				inner := memory.New(nil)
				storagetest.Put(t, inner, "k", []byte("data"))
				s, calls := flaky(inner, test.failures, test.err)
				begun := time.Now()
				err := call(t.Context(), storage.Retry(s, storage.RetryOptions{Attempts: 5, Wait: time.Second, MaxWait: 3 * time.Second}))
				if (err == nil) != test.ok || err != nil && !errors.Is(err, test.err) {
					t.Errorf("%s with %d failures (%v): %v, want success %v", op, test.failures, test.err, err, test.ok)
				}
				if calls[op] != test.calls {
					t.Errorf("%s with %d failures (%v): %d calls, want %d", op, test.failures, test.err, calls[op], test.calls)
				}
				// 1, 2, 3, 3 seconds, each shortened by at most a half.
				longest := []time.Duration{0, 1, 3, 6, 9}[test.calls-1] * time.Second
				if took := time.Since(begun); took > longest || took < longest/2 {
					t.Errorf("%s with %d failures: waited %v, want %v to %v", op, test.failures, took, longest/2, longest)
				}
			})
		}
	}
}

func TestRetryEndsWithContext(t *testing.T) {
	for op, call := range retried {
		synctest.Test(t, func(t *testing.T) {
			s, _ := flaky(memory.New(nil), 100, storagetest.ErrInjected)
			ctx, cancel := context.WithTimeout(t.Context(), 90*time.Minute)
			defer cancel()
			begun := time.Now()
			err := call(ctx, storage.Retry(s, storage.RetryOptions{Wait: time.Hour, MaxWait: time.Hour, Attempts: 50}))
			if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, storagetest.ErrInjected) {
				t.Errorf("%s: %v, want the end of the context and the last error", op, err)
			}
			if took := time.Since(begun); took != 90*time.Minute {
				t.Errorf("%s: ended after %v, not with the context", op, took)
			}
		})
	}
}

func TestRetryNeverPuts(t *testing.T) {
	s, calls := flaky(memory.New(nil), 1, storagetest.ErrInjected)
	if _, err := storage.Retry(s, storage.RetryOptions{}).Put(t.Context(), "k", strings.NewReader("x")); !errors.Is(err, storagetest.ErrInjected) {
		t.Errorf("put: %v", err)
	}
	if calls["put"] != 1 {
		t.Errorf("Put was called %d times: its reader is spent after one", calls["put"])
	}
}

func TestRetryResumesStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := memory.New(nil)
		data := storagetest.Bytes(100_000, 1)
		storagetest.Put(t, inner, "k", data)
		var offsets []int64
		// Each stream breaks after 9,000 bytes: more often than there are attempts, but with progress in between.
		s := storagetest.Break(inner, storagetest.Faults{
			Get: func(_ string, offset int64) error { offsets = append(offsets, offset); return nil },
			Down: func(_ string, r io.Reader) io.Reader {
				return storagetest.Cut(r, 9_000, storagetest.ErrInjected)
			},
		})
		retry := storage.Retry(s, storage.RetryOptions{Attempts: 2})
		r, err := retry.Get(t.Context(), "k", 500)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err == nil {
			err = r.Close()
		}
		if err != nil || !bytes.Equal(got, data[500:]) {
			t.Errorf("read %d bytes, %v; want the %d stored", len(got), err, len(data)-500)
		}
		if len(offsets) != 12 || offsets[1] != 9_500 {
			t.Errorf("opened at %v", offsets)
		}
	})
}

func TestRetryStreamGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := memory.New(nil)
		storagetest.Put(t, inner, "k", []byte("0123456789"))
		got, err := get(t.Context(), storage.Retry(storagetest.CutOff(inner, 0, storagetest.ErrInjected), storage.RetryOptions{}), "k")
		if !errors.Is(err, storagetest.ErrInjected) || len(got) > 0 {
			t.Errorf("read %q, %v from a stream that never gives a byte", got, err)
		}
		// Gone between two openings: that is final.
		opened := 0
		s := storagetest.Break(inner, storagetest.Faults{
			Get: func(string, int64) error {
				if opened++; opened > 1 {
					return fs.ErrNotExist
				}
				return nil
			},
			Down: func(_ string, r io.Reader) io.Reader { return storagetest.Cut(r, 4, storagetest.ErrInjected) },
		})
		got, err = get(t.Context(), storage.Retry(s, storage.RetryOptions{}), "k")
		if !errors.Is(err, fs.ErrNotExist) || string(got) != "0123" || opened != 2 {
			t.Errorf("read %q, %v after %d openings; want 0123 and fs.ErrNotExist after 2", got, err, opened)
		}
	})
}

// breaking lists three objects at a time, then fails.
type breaking struct{ storage.Store }

func (b breaking) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		n := 0
		for o, err := range b.Store.List(ctx, prefix, after) {
			if n++; n > 3 {
				yield(storage.Object{}, storagetest.ErrInjected)
				return
			}
			if !yield(o, err) {
				return
			}
		}
	}
}

func TestRetryResumesListing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := memory.New(nil)
		var want []string
		for i := range 25 {
			key := fmt.Sprintf("k/%02d", i)
			storagetest.Put(t, inner, key, nil)
			want = append(want, key)
		}
		retry := storage.Retry(breaking{inner}, storage.RetryOptions{Attempts: 2})
		if got := storagetest.Keys(t, retry, "k/", "k/01"); !slices.Equal(got, want[2:]) {
			t.Errorf("listed %q, want each of %q once", got, want[2:])
		}
	})
}

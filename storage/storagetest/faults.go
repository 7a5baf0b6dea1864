package storagetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/requorum/requorum/storage"
)

// ErrInjected is what an injected fault returns unless the test says otherwise. It is none of the permanent errors.
var ErrInjected = errors.New("injected fault")

// Faults are what goes wrong in a store made by [Break]. Each function is called before the operation; an error that it
// returns is the operation's. A nil function lets everything pass.
type Faults struct {
	Put    func(key string) error
	Get    func(key string, offset int64) error
	List   func(prefix, after string) error
	Delete func(key string) error

	// Up and Down see the bytes that are put and got, and may give another stream in their place.
	Up   func(key string, r io.Reader) io.Reader
	Down func(key string, r io.Reader) io.Reader
}

// Break returns s with faults. What s can do beyond a store it can still do, except that objects are confirmed by reading them
// back, through the faults.
func Break(s storage.Store, f Faults) storage.Store { return &broken{s, f} }

// Refused returns a store that answers everything with err.
func Refused(s storage.Store, err error) storage.Store {
	return Break(s, Faults{
		Put:    func(string) error { return err },
		Get:    func(string, int64) error { return err },
		List:   func(string, string) error { return err },
		Delete: func(string) error { return err },
	})
}

// Slow returns a store through which at most rate bytes per second go, up or down, in each stream.
func Slow(s storage.Store, rate int) storage.Store {
	slow := func(_ string, r io.Reader) io.Reader { return &throttled{r, rate} }
	return Break(s, Faults{Up: slow, Down: slow})
}

// CutOff returns a store whose streams end with err after n bytes, up or down.
func CutOff(s storage.Store, n int64, err error) storage.Store {
	cut := func(_ string, r io.Reader) io.Reader { return Cut(r, n, err) }
	return Break(s, Faults{Up: cut, Down: cut})
}

// Cut returns a reader that gives the first n bytes of r, then err; if r has fewer, it ends as r does.
func Cut(r io.Reader, n int64, err error) io.Reader { return &cut{r, n, err} }

type cut struct {
	r    io.Reader
	left int64
	err  error
}

func (c *cut) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, c.err
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

type throttled struct {
	r    io.Reader
	rate int
}

func (t *throttled) Read(p []byte) (int, error) {
	n, err := t.r.Read(p[:min(len(p), max(1, t.rate/20))])
	time.Sleep(time.Duration(n) * time.Second / time.Duration(t.rate))
	return n, err
}

type broken struct {
	storage.Store
	f Faults
}

func (b *broken) Put(ctx context.Context, key string, r io.Reader) (storage.Object, error) {
	if b.f.Put != nil {
		if err := b.f.Put(key); err != nil {
			return storage.Object{}, err
		}
	}
	if b.f.Up != nil {
		r = b.f.Up(key, r)
	}
	return b.Store.Put(ctx, key, r)
}

func (b *broken) Get(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	if b.f.Get != nil {
		if err := b.f.Get(key, offset); err != nil {
			return nil, err
		}
	}
	r, err := b.Store.Get(ctx, key, offset)
	if err != nil || b.f.Down == nil {
		return r, err
	}
	return struct {
		io.Reader
		io.Closer
	}{b.f.Down(key, r), r}, nil
}

func (b *broken) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		if b.f.List != nil {
			if err := b.f.List(prefix, after); err != nil {
				yield(storage.Object{}, err)
				return
			}
		}
		b.Store.List(ctx, prefix, after)(yield)
	}
}

func (b *broken) Delete(ctx context.Context, key string) error {
	if b.f.Delete != nil {
		if err := b.f.Delete(key); err != nil {
			return err
		}
	}
	return b.Store.Delete(ctx, key)
}

func (b *broken) Unfinished(ctx context.Context, prefix string) iter.Seq2[storage.Unfinished, error] {
	return storage.AsSweeper(b.Store).Unfinished(ctx, prefix)
}

func (b *broken) Abort(ctx context.Context, u storage.Unfinished) error {
	return storage.AsSweeper(b.Store).Abort(ctx, u)
}

func (b *broken) Now(ctx context.Context) (time.Time, error) {
	return storage.AsSweeper(b.Store).Now(ctx)
}

// Recorder notes the calls that went to a store.
type Recorder struct {
	mu    sync.Mutex
	calls []string
}

// Record returns s with its calls noted, and where they are noted.
func Record(s storage.Store) (storage.Store, *Recorder) {
	rec := &Recorder{}
	return Break(s, Faults{
		Put:    func(key string) error { return rec.add("put %s", key) },
		Get:    func(key string, _ int64) error { return rec.add("get %s", key) },
		List:   func(prefix, _ string) error { return rec.add("list %s", prefix) },
		Delete: func(key string) error { return rec.add("delete %s", key) },
	}), rec
}

func (r *Recorder) add(format, what string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, fmt.Sprintf(format, what))
	return nil
}

// Calls returns what was called so far, in order: "put KEY", "get KEY", "list PREFIX", "delete KEY".
func (r *Recorder) Calls() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.calls)
}

// Package storagetest is what every store is held to: [Run], the mandatory suite; wrappers that make a store fail in a chosen
// way, for the tests of others; and a real S3 server on the loopback interface.
package storagetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/requorum/requorum/storage"
)

// Run holds a store to the contract of [storage.Store], and to those of [storage.Confirmer] and [storage.Sweeper] if it has them.
// Open returns an empty store, apart from all that it returned before.
func Run(t *testing.T, open func(t *testing.T) storage.Store) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, storage.Store)
	}{
		{"PutGet", testPutGet},
		{"GetOffset", testGetOffset},
		{"Missing", testMissing},
		{"Keys", testKeys},
		{"ListOrder", testListOrder},
		{"ListMany", testListMany},
		{"ListStops", testListStops},
		{"Exists", testExists},
		{"ConcurrentPuts", testConcurrentPuts},
		{"ConcurrentUse", testConcurrentUse},
		{"Delete", testDelete},
		{"Large", testLarge},
		{"ReaderFails", testReaderFails},
		{"Cancel", testCancel},
		{"Confirm", testConfirm},
		{"Clock", testClock},
		{"Prefix", testPrefix},
		{"Probe", testProbe},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

// Bytes returns n bytes that do not compress, the same for the same n and seed.
func Bytes(n int, seed uint64) []byte {
	var s [32]byte
	s[0], s[1] = byte(seed), byte(n)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(s).Read(b) // it cannot fail
	return b
}

// Put stores data under key or ends the test.
func Put(t testing.TB, s storage.Store, key string, data []byte) storage.Object {
	t.Helper()
	o, err := s.Put(context.WithoutCancel(t.Context()), key, bytes.NewReader(data))
	if err != nil {
		t.Fatalf("put %q: %v", key, err)
	}
	return o
}

// Get returns what is stored under key from offset on, or ends the test.
func Get(t testing.TB, s storage.Store, key string, offset int64) []byte {
	t.Helper()
	r, err := s.Get(context.WithoutCancel(t.Context()), key, offset)
	if err != nil {
		t.Fatalf("get %q from %d: %v", key, offset, err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("get %q from %d: %v", key, offset, err)
	}
	return b
}

// Keys returns the listed keys or ends the test.
func Keys(t testing.TB, s storage.Store, prefix, after string) []string {
	t.Helper()
	keys := []string{}
	for o, err := range s.List(context.WithoutCancel(t.Context()), prefix, after) {
		if err != nil {
			t.Fatalf("list %q after %q: %v", prefix, after, err)
		}
		keys = append(keys, o.Key)
	}
	return keys
}

func same(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got %d bytes that differ from the %d stored", what, len(got), len(want))
	}
}

// empty fails the test unless nothing is visible and nothing unfinished is left.
func empty(t *testing.T, s storage.Store) {
	t.Helper()
	if keys := Keys(t, s, "", ""); len(keys) > 0 {
		t.Errorf("visible although its Put failed: %q", keys)
	}
	for u, err := range storage.AsSweeper(s).Unfinished(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		t.Errorf("an unfinished upload was left: %+v", u)
	}
}

func testPutGet(t *testing.T, s storage.Store) {
	for name, data := range map[string][]byte{"empty": {}, "one": {7}, "small": Bytes(300<<10+17, 1)} {
		key := "put/" + name
		o := Put(t, s, key, data)
		if o.Key != key || o.Size != int64(len(data)) {
			t.Errorf("Put returned key %q and size %d, want %q and %d", o.Key, o.Size, key, len(data))
		}
		same(t, name, Get(t, s, key, 0), data)
	}
	for o, err := range s.List(t.Context(), "put/one", "") {
		if err != nil {
			t.Fatal(err)
		}
		if o.Size != 1 || o.Modified.IsZero() {
			t.Errorf("listed as %+v, want size 1 and a time", o)
		}
	}
	// A reader that gives little at a time, and its last bytes together with io.EOF.
	data := Bytes(100_000, 2)
	if _, err := s.Put(t.Context(), "put/slowly", iotest.DataErrReader(iotest.HalfReader(bytes.NewReader(data)))); err != nil {
		t.Fatal(err)
	}
	same(t, "from a slow reader", Get(t, s, "put/slowly", 0), data)
}

func testGetOffset(t *testing.T, s storage.Store) {
	data := Bytes(10_000, 3)
	Put(t, s, "a", data)
	Put(t, s, "nothing", nil)
	for _, offset := range []int64{0, 1, 4096, 9_999, 10_000, 10_001, 1 << 40} {
		same(t, fmt.Sprintf("from %d", offset), Get(t, s, "a", offset), data[min(offset, 10_000):])
	}
	same(t, "empty, from 0", Get(t, s, "nothing", 0), nil)
	same(t, "empty, from 5", Get(t, s, "nothing", 5), nil)
	if r, err := s.Get(t.Context(), "a", -1); err == nil {
		r.Close()
		t.Error("a negative offset was accepted")
	}
}

func testMissing(t *testing.T, s storage.Store) {
	Put(t, s, "dir/there", []byte("x"))
	for _, key := range []string{"gone", "dir", "dir/the", "dir/there2", "dir/there/below", "no/such/thing"} {
		if r, err := s.Get(t.Context(), key, 0); !errors.Is(err, fs.ErrNotExist) {
			if err == nil {
				r.Close()
			}
			t.Errorf("get of the missing %q: %v, want fs.ErrNotExist", key, err)
		}
		if err := s.Delete(t.Context(), key); err != nil {
			t.Errorf("delete of the missing %q: %v, want nil", key, err)
		}
	}
	if got := Keys(t, s, "", ""); !slices.Equal(got, []string{"dir/there"}) {
		t.Errorf("after deleting only missing keys there is %q", got)
	}
	if got := Keys(t, s, "no/such", ""); len(got) > 0 {
		t.Errorf("a prefix without objects lists %q", got)
	}
}

func testKeys(t *testing.T, s storage.Store) {
	odd := []string{
		"plain", "with space", "plus+percent%41&amp;", "quotes'\"", "<xml>", "ünïcode/日本語/🗝", "a=b?c#d;e,f", "back\\slash",
		"star*[x]{y}", "tilde~", "-dash", "~$@!^()|`", "trailing.", "deep/1/2/3/4/5/6/7/8/9", strings.Repeat("l", 200),
	}
	for i, key := range odd {
		Put(t, s, key, []byte{byte(i)})
	}
	for i, key := range odd {
		same(t, key, Get(t, s, key, 0), []byte{byte(i)})
	}
	slices.Sort(odd)
	if got := Keys(t, s, "", ""); !slices.Equal(got, odd) {
		t.Errorf("listed\n%q, want\n%q", got, odd)
	}
	for _, key := range odd {
		if err := s.Delete(t.Context(), key); err != nil {
			t.Errorf("delete %q: %v", key, err)
		}
	}
	empty(t, s)

	for _, key := range []string{"", "/abs", "end/", "a//b", ".", "..", "../up", "a/../b", "a/.hidden", ".unfinished/x", "nul\x00", "new\nline", "bad\xffutf8", strings.Repeat("a/", 600) + "z", strings.Repeat("x", 300)} {
		if _, err := s.Put(t.Context(), key, strings.NewReader("x")); !errors.Is(err, storage.ErrKey) {
			t.Errorf("put of the key %.40q: %v, want ErrKey", key, err)
		}
	}
	empty(t, s)
}

func testListOrder(t *testing.T, s storage.Store) {
	// Names whose order in a directory is not that of whole keys.
	keys := []string{"a-b", "a/b", "a/c/d", "a/c-d", "a0", "b", "c.d/e", "c/x", "c0/x", "B", "é", "snapshots/l2/x", "snapshots/l1/y", "snapshots/l1/x"}
	for _, key := range keys {
		Put(t, s, key, []byte(key))
	}
	slices.Sort(keys)
	for _, prefix := range []string{"", "a", "a/", "a/c", "a/c/", "c", "snapshots/", "snapshots/l1", "snapshots/l1/", "zz", "é"} {
		for _, after := range append([]string{"", "a", "a/", "a/c", "a/c/", "a/c/d", "a/c/z", "c", "c/", "snapshots/l1", "snapshots/l1/x", "zzz", "\x7f"}, keys...) {
			want := []string{}
			for _, key := range keys {
				if strings.HasPrefix(key, prefix) && key > after {
					want = append(want, key)
				}
			}
			if got := Keys(t, s, prefix, after); !slices.Equal(got, want) {
				t.Errorf("list %q after %q: got %q, want %q", prefix, after, got, want)
			}
		}
	}
}

// many is more than one page of a listing of S3, which holds 1,000.
const many = 1_120

func testListMany(t *testing.T, s storage.Store) {
	want := make([]string, many)
	var next sync.Mutex
	var wg sync.WaitGroup
	i := 0
	for range 8 {
		wg.Go(func() {
			for {
				next.Lock()
				n := i
				i++
				next.Unlock()
				if n >= many {
					return
				}
				want[n] = fmt.Sprintf("many/%02d/%04d", n%7, n)
				if _, err := s.Put(t.Context(), want[n], strings.NewReader(want[n])); err != nil {
					t.Errorf("put %s: %v", want[n], err)
					return
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	slices.Sort(want)
	for _, cut := range []int{0, 1, 555, many} {
		after := ""
		if cut > 0 {
			after = want[cut-1]
		}
		if got := Keys(t, s, "many/", after); !slices.Equal(got, want[cut:]) {
			t.Errorf("after %q: listed %d keys, want %d in order", after, len(got), many-cut)
		}
	}
}

func testListStops(t *testing.T, s storage.Store) {
	for _, key := range []string{"a/1", "a/2", "b/1"} {
		Put(t, s, key, nil)
	}
	n := 0
	for _, err := range s.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		n++
		break
	}
	if n != 1 {
		t.Errorf("a listing that was left yielded %d times", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var last error
	for o, err := range s.List(ctx, "", "") {
		if last != nil {
			t.Error("a listing went on after its error")
		}
		if last = err; err == nil {
			t.Errorf("a cancelled listing yielded %q", o.Key)
		}
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("a cancelled listing ended with %v", last)
	}
}

func testExists(t *testing.T, s storage.Store) {
	Put(t, s, "k", []byte("old"))
	for _, size := range []int{0, 3, 40 << 20} {
		if _, err := s.Put(t.Context(), "k", bytes.NewReader(make([]byte, size))); !errors.Is(err, storage.ErrExists) {
			t.Errorf("put of %d bytes over an object: %v, want ErrExists", size, err)
		}
		same(t, "after a refused Put", Get(t, s, "k", 0), []byte("old"))
	}
	if _, err := s.Put(t.Context(), "k", strings.NewReader("old")); !errors.Is(err, storage.ErrExists) {
		t.Errorf("put of the very same bytes: %v, want ErrExists", err)
	}
	if err := s.Delete(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	empty(t, s)
	Put(t, s, "k", []byte("new"))
	same(t, "after delete and put", Get(t, s, "k", 0), []byte("new"))
}

func testConcurrentPuts(t *testing.T, s storage.Store) {
	const n = 8
	for _, size := range []int{10, 26 << 20} {
		key := fmt.Sprintf("race/%d", size)
		errs := make([]error, n)
		data := make([][]byte, n)
		writers := n
		if size > 1<<20 {
			writers = 2
		}
		start := make(chan struct{})
		var wg sync.WaitGroup
		for i := range writers {
			data[i] = Bytes(size, uint64(i))
			wg.Go(func() {
				<-start
				_, errs[i] = s.Put(t.Context(), key, bytes.NewReader(data[i]))
			})
		}
		close(start)
		wg.Wait()
		winner := -1
		for i, err := range errs[:writers] {
			switch {
			case err == nil && winner >= 0:
				t.Errorf("%s: two Puts succeeded", key)
			case err == nil:
				winner = i
			case !errors.Is(err, storage.ErrExists):
				t.Errorf("%s: %v, want ErrExists", key, err)
			}
		}
		if winner < 0 {
			t.Fatalf("%s: no Put succeeded", key)
		}
		same(t, "the winner's", Get(t, s, key, 0), data[winner])
		if err := s.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	empty(t, s)
}

// testConcurrentUse puts, reads, lists and deletes neighbours at once. One object stays, so that their directory does too: S3 servers that
// are directories underneath cannot all do without.
func testConcurrentUse(t *testing.T, s storage.Store) {
	Put(t, s, "x/y/z/keep", nil)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			key := fmt.Sprintf("x/y/z/%d", i)
			for n := range 10 {
				data := Bytes(100, uint64(n))
				if _, err := s.Put(t.Context(), key, bytes.NewReader(data)); err != nil {
					t.Errorf("put %s: %v", key, err)
					return
				}
				r, err := s.Get(t.Context(), key, 0)
				if err != nil {
					t.Errorf("get %s: %v", key, err)
					return
				}
				got, err := io.ReadAll(r)
				r.Close()
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("get %s: %d bytes, %v", key, len(got), err)
				}
				for _, err := range s.List(t.Context(), "x/", "") {
					if err != nil {
						t.Errorf("list: %v", err)
					}
				}
				if err := s.Delete(t.Context(), key); err != nil {
					t.Errorf("delete %s: %v", key, err)
				}
			}
		})
	}
	wg.Wait()
	if got := Keys(t, s, "", ""); !slices.Equal(got, []string{"x/y/z/keep"}) {
		t.Errorf("left are %q", got)
	}
}

func testDelete(t *testing.T, s storage.Store) {
	for _, key := range []string{"d", "d-1", "d2/x", "d2/y"} {
		Put(t, s, key, []byte(key))
	}
	for _, key := range []string{"d", "d2/x", "d", "d2/x"} { // each twice: the second finds nothing
		if err := s.Delete(t.Context(), key); err != nil {
			t.Errorf("delete %q: %v", key, err)
		}
	}
	if got, want := Keys(t, s, "", ""), []string{"d-1", "d2/y"}; !slices.Equal(got, want) {
		t.Errorf("left are %q, want %q", got, want)
	}
	if _, err := s.Get(t.Context(), "d", 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("get of a deleted key: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Delete(ctx, "d-1"); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled delete: %v", err)
	}
	same(t, "after a cancelled delete", Get(t, s, "d-1", 0), []byte("d-1"))
}

// large is several parts of any multipart upload, and no multiple of anything.
const large = 40<<20 + 12_345

func testLarge(t *testing.T, s storage.Store) {
	data := Bytes(large, 4)
	// Never more than 100 kB at once, as from a pipe; its length cannot be known beforehand.
	o, err := s.Put(t.Context(), "large/object", struct{ io.Reader }{&chunks{data, 100_000}})
	if err != nil {
		t.Fatal(err)
	}
	if o.Size != large {
		t.Errorf("Put returned size %d, want %d", o.Size, large)
	}
	same(t, "large", Get(t, s, "large/object", 0), data)
	same(t, "large from an offset", Get(t, s, "large/object", 33<<20+1), data[33<<20+1:])
	how, err := storage.Confirm(t.Context(), s, "large/object", want(data, o))
	if err != nil || how == "" {
		t.Errorf("confirm: %q, %v", how, err)
	}
	t.Logf("confirmed by %s", how)
	for u, err := range storage.AsSweeper(s).Unfinished(t.Context(), "") {
		t.Errorf("after a Put that succeeded there is left: %+v, %v", u, err)
	}
}

type chunks struct {
	data []byte
	max  int
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), c.max)], c.data)
	c.data = c.data[n:]
	return n, nil
}

var errBroken = errors.New("the source broke")

func testReaderFails(t *testing.T, s storage.Store) {
	for _, n := range []int{0, 1000, 30 << 20} {
		r := io.MultiReader(bytes.NewReader(Bytes(n, 5)), iotest.ErrReader(errBroken))
		if _, err := s.Put(t.Context(), "broken/x", r); !errors.Is(err, errBroken) {
			t.Errorf("a reader that broke after %d bytes: %v, want its own error", n, err)
		}
		empty(t, s)
	}
	if _, err := s.Put(t.Context(), "broken/x", iotest.ErrReader(io.ErrUnexpectedEOF)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a truncated reader: %v, want io.ErrUnexpectedEOF", err)
	}
	empty(t, s)
}

func testCancel(t *testing.T, s storage.Store) {
	for _, n := range []int{0, 1000, 30 << 20} {
		ctx, cancel := context.WithCancel(t.Context())
		r := io.MultiReader(bytes.NewReader(Bytes(n, 6)), readerFunc(func([]byte) (int, error) {
			cancel()
			return 0, nil
		}), bytes.NewReader(Bytes(30<<20, 7)))
		if _, err := s.Put(ctx, "cancelled/x", r); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled after %d bytes: %v", n, err)
		}
		cancel()
		empty(t, s)
	}
	// Cancelled by the reader that says it is at its end: still before anything is visible.
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := s.Put(ctx, "cancelled/x", readerFunc(func([]byte) (int, error) { cancel(); return 0, io.EOF })); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled at the end of the reader: %v", err)
	}
	empty(t, s)

	Put(t, s, "there", Bytes(8<<20, 8))
	ctx, cancel = context.WithCancel(t.Context())
	got, err := s.Get(ctx, "there", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	if _, err := io.ReadFull(got, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.Copy(io.Discard, got); !errors.Is(err, context.Canceled) {
		t.Errorf("reading on after cancellation: %v", err)
	}
	if r, err := s.Get(ctx, "there", 0); !errors.Is(err, context.Canceled) {
		if err == nil {
			r.Close()
		}
		t.Errorf("get with an ended context: %v", err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func want(data []byte, o storage.Object) storage.Want {
	sum := sha256.Sum256(data)
	return storage.Want{Size: int64(len(data)), SHA256: hex.EncodeToString(sum[:]), Checksum: o.Checksum}
}

func testConfirm(t *testing.T, s storage.Store) {
	data := Bytes(5000, 9)
	good := want(data, Put(t, s, "c/good", data))
	if how, err := storage.Confirm(t.Context(), s, "c/good", good); err != nil || how == "" {
		t.Errorf("confirm: %q, %v", how, err)
	}
	unknown := good
	unknown.Checksum = ""
	if how, err := storage.Confirm(t.Context(), s, "c/good", unknown); err != nil || how == "" {
		t.Errorf("confirm without the store's checksum: %q, %v", how, err)
	}
	if _, err := storage.Confirm(t.Context(), s, "c/gone", good); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("confirm of a missing object: %v", err)
	}
	longer := Put(t, s, "c/longer", append(slices.Clip(data), 0))
	other := slices.Clone(data)
	other[2500] ^= 1
	flipped := Put(t, s, "c/flipped", other)
	for key, checksum := range map[string]string{"c/longer": longer.Checksum, "c/flipped": flipped.Checksum} {
		if how, err := storage.Confirm(t.Context(), s, key, good); !errors.Is(err, storage.ErrMismatch) {
			t.Errorf("confirm of %s, which is not what was wanted: %q, %v, want ErrMismatch", key, how, err)
		}
		if checksum != "" && checksum == good.Checksum {
			t.Errorf("%s has the same checksum as another object", key)
		}
	}
}

func testClock(t *testing.T, s storage.Store) {
	sweeper := storage.AsSweeper(s)
	before, err := sweeper.Now(t.Context())
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip("the store has no clock to ask")
	}
	if err != nil {
		t.Fatal(err)
	}
	Put(t, s, "clock", []byte("x"))
	after, err := sweeper.Now(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for o, err := range s.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		if o.Key != "clock" {
			t.Errorf("asking the clock left %q", o.Key)
		}
		const second = time.Second // the grain of HTTP dates
		if o.Modified.Before(before.Add(-second)) || o.Modified.After(after.Add(second)) {
			t.Errorf("modified %v, but the store's clock said %v before and %v after", o.Modified, before, after)
		}
	}
}

func testPrefix(t *testing.T, s storage.Store) {
	inner := storage.Prefix(s, "etcd/dcs")
	Put(t, s, "etcd/dcs-2/other", []byte("x"))
	Put(t, s, "etcd/a", []byte("x"))
	data := []byte("data")
	o := Put(t, inner, "snapshots/1", data)
	if o.Key != "snapshots/1" {
		t.Errorf("put returned key %q", o.Key)
	}
	Put(t, inner, "a", data)
	for prefix, want := range map[string][]string{"": {"a", "snapshots/1"}, "s": {"snapshots/1"}} {
		if got := Keys(t, inner, prefix, ""); !slices.Equal(got, want) {
			t.Errorf("list %q: %q, want %q", prefix, got, want)
		}
	}
	if got := Keys(t, inner, "", "a"); !slices.Equal(got, []string{"snapshots/1"}) {
		t.Errorf("list after a: %q", got)
	}
	if how, err := storage.Confirm(t.Context(), inner, "snapshots/1", want(data, o)); err != nil {
		t.Errorf("confirm: %q, %v", how, err)
	}
	if err := inner.Delete(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	got := Keys(t, s, "", "")
	wanted := []string{"etcd/a", "etcd/dcs-2/other", "etcd/dcs/snapshots/1"}
	slices.Sort(wanted)
	if !slices.Equal(got, wanted) {
		t.Errorf("outside there are %q, want %q", got, wanted)
	}
}

package repository

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"filippo.io/age"

	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/memory"
	"github.com/requorum/requorum/storage/storagetest"
)

func TestBackup(t *testing.T) {
	to, id := newKey(t)
	for name, kind := range kinds {
		for _, encrypted := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				o := Options{Stores: named(kind(t)), Identities: []age.Identity{id}}
				if encrypted {
					o.Recipients = []age.Recipient{to}
				}
				r := open(t, o)
				data := database(3<<20, 1)
				snap, m := take(t, r, testTime.Add(500*time.Millisecond), 100, data)
				snaps := list(t, r)
				if len(snaps) != 1 {
					t.Fatalf("%d backups are listed, want 1", len(snaps))
				}
				got := snaps[0]
				if got.ID != snap.ID || got.Revision != 100 || got.DataRevision != 99 || got.Encrypted != encrypted || !got.Committed ||
					got.StoredBytes <= m.Data.StoredBytes || len(got.Stores) != 1 || got.Stores[0] != "main" || !got.Time.Equal(testTime) {
					t.Errorf("listed as %+v", got)
				}
				if m.Cluster != "dcs" || m.Data.Bytes != int64(len(data)) || m.Data.StoredBytes >= m.Data.Bytes || m.Sealed() != encrypted || (len(m.Recipients) == 1) != encrypted {
					t.Errorf("manifest %+v", m)
				}
				if p := m.Proofs[len(m.Proofs)-1]; !p.OK || p.Where != "stored" || p.Detail == "" {
					t.Errorf("proof %+v: what is stored must be proven", p)
				}
				fetched(t, r, got, data)
			})
		}
	}
}

func TestBackupWithoutFacts(t *testing.T) {
	r := open(t, Options{Stores: named(memory.New(nil))})
	u := begin(t, r, testTime, 100)
	if _, err := u.Data(t.Context(), from([]byte("db"))); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Commit(t.Context(), testManifest(100)); err != nil {
		t.Fatal(err)
	}
	fetched(t, r, list(t, r)[0], []byte("db"))
}

// TestGrowingSource: the first store takes some and then refuses, while the spool still grows; the second one gets all of it.
func TestGrowingSource(t *testing.T) {
	data := database(8<<20, 2)
	for name, faults := range map[string]storagetest.Faults{
		"before the first byte": {Put: refuse("db.zst", storage.ErrDenied)},
		"half-way":              {Up: func(_ string, r io.Reader) io.Reader { return storagetest.Cut(r, 300<<10, storagetest.ErrInjected) }},
	} {
		t.Run(name, func(t *testing.T) {
			first, second := memory.New(nil), memory.New(nil)
			r := open(t, Options{Stores: named(storagetest.Break(first, faults), second)})
			u := begin(t, r, testTime, 100)
			opened, grown := 0, make(chan struct{})
			object, err := u.Data(t.Context(), func(ctx context.Context) (io.ReadCloser, error) {
				if opened++; opened == 2 {
					close(grown) // the rest arrives only after the first store is out
				}
				return io.NopCloser(io.MultiReader(bytes.NewReader(data[:6<<20]), &blocked{ctx: ctx, until: grown}, bytes.NewReader(data[6<<20:]))), nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if opened != 2 || u.Store() != "offsite" || object.Bytes != int64(len(data)) || len(u.Refused()) != 1 || !strings.Contains(u.Refused()[0].Error(), "store main") {
				t.Errorf("opened %d times, stored %d bytes in %s, refused by %v", opened, object.Bytes, u.Store(), u.Refused())
			}
			if _, err := u.Commit(t.Context(), testManifest(100)); err != nil {
				t.Fatal(err)
			}
			if left := objects(t, first); len(left) > 0 {
				t.Errorf("the first store holds %d objects", len(left))
			}
			fetched(t, r, list(t, r)[0], data)
		})
	}
}

// blocked gives nothing until it is let go.
type blocked struct {
	ctx   context.Context
	until chan struct{}
}

func (b *blocked) Read([]byte) (int, error) {
	select {
	case <-b.until:
		return 0, io.EOF
	case <-b.ctx.Done():
		return 0, context.Cause(b.ctx)
	}
}

func TestNoStoreTakesIt(t *testing.T) {
	r := open(t, Options{Stores: named(storagetest.Refused(memory.New(nil), storage.ErrSecretKey), storagetest.CutOff(memory.New(nil), 10, storage.ErrFull))})
	u := begin(t, r, testTime, 100)
	_, err := u.Data(t.Context(), from(database(1<<20, 3)))
	wantError(t, "every store refuses", err, ErrNoStore, "store main", "secret key", "store offsite", "no space")
	if _, err := u.Commit(t.Context(), testManifest(100)); err == nil {
		t.Error("a backup without data was committed")
	}
}

// TestSourceFails: it is no reason to try another store, and nothing becomes visible.
func TestSourceFails(t *testing.T) {
	stalled := errors.New("the stream from etcd1 has stalled")
	for name, source := range map[string]Source{
		"at once": func(context.Context) (io.ReadCloser, error) { return nil, stalled },
		"half-way": func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(database(2<<20, 4)), iotest.ErrReader(stalled))), nil
		},
	} {
		first, second := memory.New(nil), memory.New(nil)
		r := open(t, Options{Stores: named(first, second)})
		u := begin(t, r, testTime, 100)
		_, err := u.Data(t.Context(), source)
		wantError(t, name, err, stalled)
		if errors.Is(err, ErrNoStore) {
			t.Errorf("%s: %v blames the stores", name, err)
		}
		if len(objects(t, first))+len(objects(t, second)) > 0 {
			t.Errorf("%s: something was stored", name)
		}
	}
}

func TestUploadCancelled(t *testing.T) {
	s := memory.New(nil)
	r := open(t, Options{Stores: named(s, memory.New(nil))})
	u := begin(t, r, testTime, 100)
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("SIGTERM")
	_, err := u.Data(ctx, func(ctx context.Context) (io.ReadCloser, error) {
		time.AfterFunc(10*time.Millisecond, func() { cancel(reason) })
		return io.NopCloser(io.MultiReader(bytes.NewReader(database(1<<20, 5)), &blocked{ctx: ctx})), nil
	})
	wantError(t, "cancelled", err, reason)
	if left := objects(t, s); len(left) > 0 {
		t.Errorf("%d objects were stored", len(left))
	}
}

// TestCommitFails: no backup, the objects gone again, and the reason told.
func TestCommitFails(t *testing.T) {
	lost := func(s storage.Store) storage.Store { return answerLost{s} }
	for _, test := range []struct {
		name   string
		wrap   func(storage.Store) storage.Store
		cancel bool
		kind   error // nil: the backup must be there
		left   int
	}{
		{"manifest refused", func(s storage.Store) storage.Store {
			return storagetest.Break(s, storagetest.Faults{Put: refuse("manifest.json", storage.ErrFull)})
		}, false, storage.ErrFull, 0},
		{"manifest cut off", func(s storage.Store) storage.Store {
			return storagetest.Break(s, storagetest.Faults{Up: func(key string, r io.Reader) io.Reader {
				if strings.Contains(key, "manifest") {
					return storagetest.Cut(r, 10, storagetest.ErrInjected)
				}
				return r
			}})
		}, false, storagetest.ErrInjected, 0},
		{"manifest refused, nothing may be deleted", func(s storage.Store) storage.Store {
			return storagetest.Break(s, storagetest.Faults{Put: refuse("manifest.json", storage.ErrFull), Delete: refuse("", storage.ErrDenied)})
		}, false, storage.ErrFull, 2},
		{"what is stored differs", func(s storage.Store) storage.Store {
			return storagetest.Break(s, storagetest.Faults{Down: func(_ string, r io.Reader) io.Reader { return flipped(r) }})
		}, false, ErrVerify, 0},
		{"cancelled", func(s storage.Store) storage.Store { return s }, true, context.Canceled, 0},
		{"the answer to the manifest was lost", lost, false, nil, 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			inner := memory.New(nil)
			r := open(t, Options{Stores: named(test.wrap(inner))})
			u := begin(t, r, testTime, 100)
			if _, err := u.Data(t.Context(), from(database(1000, 6))); err != nil {
				t.Fatal(err)
			}
			if err := u.Facts(t.Context(), 100, testFacts); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if test.cancel {
				if _, err := u.Confirm(ctx); err != nil {
					t.Fatal(err)
				}
				cancel()
			}
			_, err := u.Commit(ctx, testManifest(100))
			if !errors.Is(err, test.kind) {
				t.Errorf("commit: %v, want %v", err, test.kind)
			}
			if left := objects(t, inner); len(left) != test.left {
				t.Errorf("%d objects are left, want %d", len(left), test.left)
			}
			if snaps := list(t, r); (len(snaps) == 1) != (test.kind == nil) {
				t.Errorf("%d backups are listed", len(snaps))
			}
		})
	}
}

// answerLost stores manifests and says that it has not.
type answerLost struct{ storage.Store }

func (s answerLost) Put(ctx context.Context, key string, r io.Reader) (storage.Object, error) {
	o, err := s.Store.Put(ctx, key, r)
	if err == nil && strings.HasSuffix(key, "manifest.json") {
		return storage.Object{}, storagetest.ErrInjected
	}
	return o, err
}

// flipped turns one bit of what is read.
func flipped(r io.Reader) io.Reader { return &flipper{r: r} }

type flipper struct {
	r    io.Reader
	done bool
}

func (f *flipper) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if n > 0 && !f.done {
		p[n-1] ^= 1
		f.done = true
	}
	return n, err
}

// TestAbort: a clean abort leaves nothing, a committed backup is safe from it.
func TestAbort(t *testing.T) {
	s := memory.New(nil)
	r := open(t, Options{Stores: named(s)})
	u := begin(t, r, testTime, 100)
	if _, err := u.Data(t.Context(), from([]byte("db"))); err != nil {
		t.Fatal(err)
	}
	if len(list(t, r)) != 0 {
		t.Error("a backup without a manifest is listed")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	u.Abort(ctx) // also after the run was cancelled
	if left := objects(t, s); len(left) > 0 {
		t.Errorf("%d objects are left after the abort", len(left))
	}
	u = begin(t, r, testTime, 101)
	if _, err := u.Data(t.Context(), from([]byte("db"))); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Commit(t.Context(), testManifest(101)); err != nil {
		t.Fatal(err)
	}
	u.Abort(t.Context())
	if len(list(t, r)) != 1 {
		t.Error("an abort after the commit took the backup away")
	}
}

// TestPutAndListSuffice: taking a backup needs no right to read or to delete.
func TestPutAndListSuffice(t *testing.T) {
	s := memory.New(nil)
	onlyPut := confirmed{storagetest.Break(s, storagetest.Faults{
		Get:    func(key string, _ int64) error { return refuse("", storage.ErrDenied)(key) },
		Delete: refuse("", storage.ErrDenied),
	})}
	r := open(t, Options{Stores: named(onlyPut)})
	for i := range 3 {
		seen := catalog.Seen{ClusterID: testCluster, Revision: int64(100 + i), RaftTerm: 2, Time: testTime.Add(time.Duration(i) * time.Hour)}
		line, opened, alerts, err := r.Continue(t.Context(), seen)
		if err != nil || opened != (i == 0) || (len(alerts) > 0) != (i > 0) {
			t.Fatalf("backup %d: opened %t, alerts %q, %v", i, opened, alerts, err)
		}
		if opened {
			if err := r.OpenLine(t.Context(), line); err != nil {
				t.Fatal(err)
			}
		}
		u, err := r.Begin(t.Context(), catalog.NewSnapshot(line.Line, seen.Time, seen.Revision, false))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Data(t.Context(), from([]byte("db"))); err != nil {
			t.Fatal(err)
		}
		if _, err := u.Commit(t.Context(), testManifest(seen.Revision)); err != nil {
			t.Fatal(err)
		}
		if err := r.Record(t.Context(), catalog.Run{ID: catalog.NewID(catalog.KindRun), Kind: "backup", Outcome: "ok", Started: seen.Time}); err != nil {
			t.Fatal(err)
		}
	}
	if snaps := list(t, r); len(snaps) != 3 || snaps[0].Line != snaps[2].Line {
		t.Errorf("%+v", snaps)
	}
}

// confirmed is a store that vouches for what it holds without being read.
type confirmed struct{ storage.Store }

func (confirmed) Confirm(context.Context, string, storage.Want) (string, error) {
	return "server checksum", nil
}

func TestBeginRefusesNonsense(t *testing.T) {
	r := open(t, Options{Stores: named(memory.New(nil))})
	if _, err := r.Begin(t.Context(), catalog.NewSnapshot("no line", testTime, 1, false)); err == nil {
		t.Error("a backup of no line was begun")
	}
	u := begin(t, r, testTime, 100)
	if err := u.Facts(t.Context(), 100, testFacts); err == nil {
		t.Error("facts were stored before the data")
	}
	if _, err := u.Data(t.Context(), from([]byte("db"))); err != nil {
		t.Fatal(err)
	}
	if err := u.Facts(t.Context(), 98, testFacts); err == nil {
		t.Error("a revision below that of the stream's opening was accepted")
	}
	if err := u.Facts(t.Context(), 100, testFacts); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Commit(t.Context(), testManifest(101)); err == nil {
		t.Error("a manifest of another revision than its facts was committed")
	}
}

// TestUploadMemory: what is held does not grow with the database.
func TestUploadMemory(t *testing.T) {
	chunk := database(1<<20, 7)
	to, _ := newKey(t)
	peak := func(mib int) int {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		before, highest := m.HeapAlloc, m.HeapAlloc
		r := open(t, Options{Stores: named(discarding{memory.New(nil)}), Recipients: []age.Recipient{to}})
		u := begin(t, r, testTime, 100)
		object, err := u.Data(t.Context(), func(context.Context) (io.ReadCloser, error) {
			left := mib
			return io.NopCloser(&chunks{chunk: chunk, next: func() bool {
				runtime.ReadMemStats(&m)
				highest = max(highest, m.HeapAlloc)
				left--
				return left >= 0
			}}), nil
		})
		if err != nil || object.Bytes != int64(mib)<<20 {
			t.Fatalf("%d bytes, %v", object.Bytes, err)
		}
		return int(highest-before) >> 20
	}
	small, large := peak(16), peak(128)
	t.Logf("held %d MiB for 16 MiB, %d MiB for 128 MiB", small, large)
	if large > 48 {
		t.Errorf("held %d MiB while 128 MiB were uploaded, %d for 16 MiB", large, small)
	}
}

// chunks gives the same bytes as long as next says so.
type chunks struct {
	chunk, rest []byte
	next        func() bool
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		if !c.next() {
			return 0, io.EOF
		}
		c.rest = c.chunk
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// discarding takes everything and keeps nothing.
type discarding struct{ storage.Store }

func (discarding) Put(_ context.Context, key string, r io.Reader) (storage.Object, error) {
	n, err := io.Copy(io.Discard, r)
	return storage.Object{Key: key, Size: n}, err
}

func TestNew(t *testing.T) {
	s := memory.New(nil)
	for name, o := range map[string]Options{
		"no cluster":   {Stores: named(s)},
		"no store":     {Cluster: "dcs"},
		"same name":    {Cluster: "dcs", Stores: []Named{{"a", s}, {"a", s}}},
		"no name":      {Cluster: "dcs", Stores: []Named{{"", s}}},
		"climbs out":   {Cluster: "dcs", Path: "../other", Stores: named(s)},
		"slash at end": {Cluster: "dcs", Path: "a/", Stores: named(s)},
		"bad default":  {Cluster: "a//b", Stores: named(s)},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	r, err := New(Options{Cluster: "dcs", Path: "prod/dcs", Stores: named(s)})
	if err != nil {
		t.Fatal(err)
	}
	take(t, r, testTime, 100, []byte("db"))
	for key := range objects(t, s) {
		if !strings.HasPrefix(key, "prod/dcs/snapshots/") {
			t.Errorf("%s lies outside of the path", key)
		}
	}
	if _, err := r.Manifest(t.Context(), catalog.NewSnapshot(testLine, testTime, 1, false)); !errors.Is(err, ErrVerify) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("manifest of a backup that is not there: %v", err)
	}
}

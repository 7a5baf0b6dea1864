package repository

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/requorum/requorum/internal/seal"
	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/file"
	"github.com/requorum/requorum/storage/memory"
	"github.com/requorum/requorum/storage/storagetest"
)

const (
	testLine    = "l0123456789a"
	testCluster = "aaaaaaaaaaaaaaaa"
	testRun     = "r0123456789a"
)

var testTime = time.Date(2026, 11, 22, 5, 55, 0, 0, time.UTC)

// kinds are the stores that behave well.
var kinds = map[string]func(t *testing.T) storage.Store{
	"memory": func(*testing.T) storage.Store { return memory.New(nil) },
	"file": func(t *testing.T) storage.Store {
		s, err := file.New(file.Options{Dir: filepath.Join(t.TempDir(), "store")})
		if err != nil {
			t.Fatal(err)
		}
		return s
	},
}

// named gives stores the names main, offsite, third.
func named(stores ...storage.Store) []Named {
	var all []Named
	for i, s := range stores {
		all = append(all, Named{[]string{"main", "offsite", "third"}[i], s})
	}
	return all
}

func open(t testing.TB, o Options) *Repository {
	t.Helper()
	o.Cluster = "dcs"
	if o.Now == nil {
		o.Now = func() time.Time { return testTime }
	}
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func newKey(t testing.TB) (age.Recipient, age.Identity) {
	t.Helper()
	k, err := seal.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	to, err := seal.ParseRecipient(k.Recipient)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := seal.ParseIdentities([]byte(k.Identity))
	if err != nil {
		t.Fatal(err)
	}
	return to, ids[0]
}

// database returns n bytes that compress to about the half.
func database(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, seed))
	b := make([]byte, n)
	for i := range b {
		b[i] = "0123456789abcdef"[r.IntN(16)]
	}
	return b
}

func from(data []byte) Source {
	return func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
}

var testFacts = catalog.Facts{Leased: []catalog.LeasedPrefix{{Prefix: "/service/main/", Count: 3, TTLMin: 30, TTLMax: 30}}}

func testManifest(revision int64) catalog.Manifest {
	return catalog.Manifest{Revision: revision, Source: catalog.SourceLive, Version: "test", ClusterID: testCluster, RaftTerm: 2, Keys: 1,
		HashKV: catalog.HashKV{Hash: 1, CompactRevision: 1, Revision: revision}}
}

// begin starts a backup of line testLine that opened at the revision before the given one.
func begin(t testing.TB, r *Repository, at time.Time, revision int64) *Upload {
	t.Helper()
	u, err := r.Begin(t.Context(), catalog.NewSnapshot(testLine, at, revision-1, false))
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// take makes a whole backup.
func take(t testing.TB, r *Repository, at time.Time, revision int64, data []byte) (catalog.Snapshot, catalog.Manifest) {
	t.Helper()
	u := begin(t, r, at, revision)
	if _, err := u.Data(t.Context(), from(data)); err != nil {
		t.Fatal(err)
	}
	if err := u.Facts(t.Context(), revision, testFacts); err != nil {
		t.Fatal(err)
	}
	m, err := u.Commit(t.Context(), testManifest(revision))
	if err != nil {
		t.Fatal(err)
	}
	return u.Snapshot(), m
}

func list(t testing.TB, r *Repository) []catalog.Snapshot {
	t.Helper()
	snaps, err := r.Snapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return snaps
}

func target(t testing.TB) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// fetched fails the test unless the backup can be read and holds data.
func fetched(t testing.TB, r *Repository, snap catalog.Snapshot, data []byte) {
	t.Helper()
	m, err := r.Manifest(t.Context(), snap)
	if err != nil {
		t.Fatal(err)
	}
	f := target(t)
	var told int64
	if err := r.Fetch(t.Context(), snap, m, f, func(n int64) { told += n }); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(f.Name())
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("fetched %d bytes that are not the %d stored, %v", len(got), len(data), err)
	}
	if told != int64(len(data)) {
		t.Errorf("progress was told of %d bytes in all, want %d", told, len(data))
	}
	facts, err := r.Facts(t.Context(), snap, m)
	if err != nil || m.Facts != nil && (len(facts.Leased) != 1 || facts.Leased[0].Prefix != "/service/main/") {
		t.Errorf("facts: %+v, %v", facts, err)
	}
}

// replace puts other bytes in the place of an object.
func replace(t testing.TB, s storage.Store, key string, data []byte) {
	t.Helper()
	if err := s.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	storagetest.Put(t, s, key, data)
}

func refuse(what string, err error) func(string) error {
	return func(key string) error {
		if strings.Contains(key, what) {
			return fmt.Errorf("%s: %w", key, err)
		}
		return nil
	}
}

// objects returns everything in a store, by key.
func objects(t testing.TB, s storage.Store) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, key := range storagetest.Keys(t, s, "", "") {
		all[key] = string(storagetest.Get(t, s, key, 0))
	}
	return all
}

func unchanged(t testing.TB, what string, s storage.Store, before map[string]string) {
	t.Helper()
	if after := objects(t, s); !maps.Equal(before, after) {
		t.Errorf("%s: the store held %d objects and now %q", what, len(before), slices.Sorted(maps.Keys(after)))
	}
}

func wantError(t testing.TB, what string, err, kind error, words ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("%s: %v, want it to be: %v", what, err, kind)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: %q, want it to say %q", what, err, w)
		}
	}
}

// halfListing breaks after the first object.
type halfListing struct{ storage.Store }

func (s halfListing) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		for o, err := range s.Store.List(ctx, prefix, after) {
			_ = yield(o, err) && yield(storage.Object{}, storagetest.ErrInjected)
			return
		}
	}
}

package backup_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/requorum/requorum/backup"
	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/seal"
	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/memory"
	"github.com/requorum/requorum/storage/repository"
	"github.com/requorum/requorum/storage/storagetest"
)

func (b *bed) verify(t *testing.T, id string, scope backup.Scope, changes ...func(*backup.VerifyOptions)) (backup.Verification, error) {
	t.Helper()
	o := backup.VerifyOptions{Repository: b.repo, Scope: scope, Spool: backup.Spool{Dir: b.spool}}
	for _, change := range changes {
		change(&o)
	}
	return backup.Verify(t.Context(), b.listed(t, id), o)
}

func (b *bed) listed(t *testing.T, id string) catalog.Snapshot {
	t.Helper()
	snaps, err := b.repo.Snapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(snaps, func(s catalog.Snapshot) bool { return s.ID == id })
	if i < 0 {
		t.Fatalf("backup %s is not listed", id)
	}
	return snaps[i]
}

// replace puts other bytes in the place of an object, as damage or malice would.
func replace(t *testing.T, s storage.Store, key string, change func([]byte) []byte) {
	t.Helper()
	data := storagetest.Get(t, s, key, 0)
	if err := s.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if data = change(bytes.Clone(data)); data != nil {
		storagetest.Put(t, s, key, data)
	}
}

func TestVerify(t *testing.T) {
	servers := etcdtest.StartCluster(t, etcdtest.Options{Members: 1})
	admin := servers.Client(t)
	etcdtest.MustFill(t, admin, etcdtest.FillOptions{Keys: 500})
	etcdtest.Lease(t, admin, time.Hour, "/leased")

	t.Run("good", func(t *testing.T) {
		b := newBed(t, servers, memory.New(time.Now), directory(t))
		r := b.take(t)
		for _, scope := range []backup.Scope{backup.ScopeStored, backup.ScopeFull} {
			v, err := b.verify(t, r.ID, scope)
			if err != nil || !v.OK || v.Scope != scope || v.ID != r.ID || len(v.Checks) < 4 {
				t.Errorf("%s: %+v, %v", scope, v, err)
			}
			for _, c := range v.Checks {
				if !c.OK || c.Detail == "" {
					t.Errorf("%s: %+v", scope, c)
				}
			}
		}
		if s := b.listed(t, r.ID); s.VerifiedAt.IsZero() || s.Failed() || len(s.Damaged) != 0 {
			t.Errorf("listed as %+v", s)
		}
		b.noSpool(t)
		runs := b.runs(t)
		if kinds := len(runs); kinds != 3 || runs[2].Kind != "verify" || runs[2].Outcome != "ok" || runs[2].Snapshot != r.ID {
			t.Errorf("records %+v", runs)
		}
	})

	t.Run("deep", func(t *testing.T) {
		b := newBed(t, servers)
		r := b.take(t)
		served := r.HashKV
		deep := func(o *backup.VerifyOptions) {
			o.Deep = func(_ context.Context, f *os.File, m catalog.Manifest) (catalog.HashKV, error) {
				if info, err := f.Stat(); err != nil || info.Size() != m.Data.Bytes {
					t.Errorf("the file handed over has %v, %v; want %d bytes", info, err, m.Data.Bytes)
				}
				return served, nil
			}
		}
		if v, err := b.verify(t, r.ID, backup.ScopeDeep, deep); err != nil || !v.OK {
			t.Errorf("%+v, %v", v, err)
		}
		served.Hash++
		if v, err := b.verify(t, r.ID, backup.ScopeDeep, deep); !errors.Is(err, backup.ErrVerify) || v.OK {
			t.Errorf("another hash served: %+v, %v", v, err)
		}
		if _, err := b.verify(t, r.ID, backup.ScopeDeep); err == nil || errors.Is(err, backup.ErrVerify) {
			t.Errorf("without a way to start etcd: %v", err)
		}
	})

	for _, tc := range []struct {
		name   string
		object string // "data", "facts", "manifest"
		change func([]byte) []byte
		stored bool // found without an identity, too
		want   string
	}{
		{"truncated data", "data", func(b []byte) []byte { return b[:len(b)-100] }, true, "cut off"},
		{"a flipped bit", "data", func(b []byte) []byte { b[len(b)/2] ^= 4; return b }, true, "changed"},
		{"data removed", "data", func([]byte) []byte { return nil }, true, "missing"},
		{"more data", "data", func(b []byte) []byte { return append(b, 0) }, true, "more"},
		{"truncated facts", "facts", func(b []byte) []byte { return b[:len(b)-1] }, true, "facts"},
		{"a broken manifest", "manifest", func(b []byte) []byte { return b[:len(b)/2] }, true, "manifest"},
		{"a manifest of another revision", "manifest", func(b []byte) []byte {
			return bytes.Replace(b, []byte(`"revision": `), []byte(`"revision": 1`), 1)
		}, true, "revision"},
		{"a manifest with another HashKV", "manifest", func(b []byte) []byte {
			return regexp.MustCompile(`"hash": \d+`).ReplaceAll(b, []byte(`"hash": 1`))
		}, false, "HashKV"},
		{"a manifest with another key count", "manifest", func(b []byte) []byte {
			return bytes.Replace(b, []byte(`"keys": `), []byte(`"keys": 1`), 1)
		}, false, "key count"},
		{"a manifest with other leases", "manifest", func(b []byte) []byte {
			return bytes.Replace(b, []byte(`"lease_hash": "`), []byte(`"lease_hash": "0`), 1)
		}, false, "leases"},
		{"a manifest with another auth store", "manifest", func(b []byte) []byte {
			return bytes.Replace(b, []byte(`"auth_hash": "`), []byte(`"auth_hash": "0`), 1)
		}, false, "authentication"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, scope := range []backup.Scope{backup.ScopeStored, backup.ScopeFull} {
				b := newBed(t, servers, memory.New(time.Now), memory.New(time.Now))
				r := b.take(t)
				s := b.listed(t, r.ID)
				key := map[string]string{"data": s.DataKey(), "facts": s.FactsKey(), "manifest": s.ManifestKey()}[tc.object]
				replace(t, b.stores[0].Store, "dcs/"+key, tc.change)
				v, err := b.verify(t, r.ID, scope)
				s = b.listed(t, r.ID)
				if scope == backup.ScopeStored && !tc.stored {
					if err != nil {
						t.Errorf("%s found what it cannot see: %v", scope, err)
					}
					continue
				}
				if !errors.Is(err, backup.ErrVerify) || v.OK || !strings.Contains(err.Error(), tc.want) && scope == backup.ScopeFull {
					t.Errorf("%s: %+v, %v; want ErrVerify that says %q", scope, v, err, tc.want)
				}
				if !slices.Equal(s.Damaged, []string{"main"}) || s.Failed() || s.VerifiedAt.IsZero() {
					t.Errorf("%s: listed as %+v; want a damaged copy in main and a verified one in offsite", scope, s)
				}
			}
		})
	}

	t.Run("two backups' data swapped", func(t *testing.T) {
		b := newBed(t, servers)
		first := b.take(t)
		etcdtest.Put(t, admin, "/more", "x")
		second := b.take(t)
		other := storagetest.Get(t, b.stores[0].Store, "dcs/"+second.Data.Key, 0)
		replace(t, b.stores[0].Store, "dcs/"+first.Data.Key, func([]byte) []byte { return other })
		if v, err := b.verify(t, first.ID, backup.ScopeFull); !errors.Is(err, backup.ErrVerify) || !strings.Contains(err.Error(), "another was put in its place") {
			t.Errorf("%+v, %v", v, err)
		}
		if v, err := b.verify(t, second.ID, backup.ScopeFull); err != nil {
			t.Errorf("the other backup: %+v, %v", v, err)
		}
	})

	t.Run("a manifest that names data of its own making", func(t *testing.T) {
		// Whole, rightly sealed and hashed, and yet no database.
		b := newBed(t, servers)
		fake := bytes.Repeat([]byte("no database "), 1000)
		u, err := b.repo.Begin(t.Context(), catalog.NewSnapshot(catalog.NewID(catalog.KindLine), time.Now(), 7, true))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Data(t.Context(), func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(fake)), nil }); err != nil {
			t.Fatal(err)
		}
		m, err := u.Commit(t.Context(), catalog.Manifest{Revision: 7, Source: catalog.SourceImport})
		if err != nil {
			t.Fatal(err)
		}
		_, err = b.verify(t, m.ID, backup.ScopeFull)
		var damaged *dbfile.CheckError
		if !errors.Is(err, backup.ErrVerify) || !errors.As(err, &damaged) {
			t.Errorf("%v", err)
		}
		if s := b.listed(t, m.ID); !s.Failed() {
			t.Errorf("listed as %+v", s)
		}
	})

	t.Run("deleted meanwhile", func(t *testing.T) {
		// Retention came between the listing and the reading, or in the middle of it.
		stores := []storage.Store{memory.New(time.Now), memory.New(time.Now)}
		b := newBed(t, servers, stores...)
		kept, gone, half := b.take(t).ID, b.take(t).ID, b.take(t).ID
		o := backup.VerifyOptions{Repository: b.repo, Scope: backup.ScopeFull, Spool: backup.Spool{Dir: b.spool}}
		s := b.listed(t, gone)
		if err := b.repo.Delete(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		before := len(b.runs(t))
		if _, err := backup.Verify(t.Context(), s, o); !errors.Is(err, backup.ErrGone) || errors.Is(err, backup.ErrVerify) {
			t.Errorf("deleted everywhere: %v", err)
		}
		for i, store := range stores {
			if left := storagetest.Keys(t, store, "dcs/"+strings.TrimSuffix(s.ManifestKey(), "manifest.json"), ""); len(left) != 0 {
				t.Errorf("store %d still holds %v", i, left)
			}
		}
		if after := len(b.runs(t)); after != before {
			t.Errorf("%d records, there were %d", after, before)
		}
		s = b.listed(t, half)
		if err := b.repo.Delete(t.Context(), s.In(s.Stores[0])); err != nil {
			t.Fatal(err)
		}
		if v, err := backup.Verify(t.Context(), s, o); err != nil || !v.OK {
			t.Errorf("deleted in one store: %+v, %v", v, err)
		}
		s = b.listed(t, kept)
		replace(t, stores[0], "dcs/"+s.DataKey(), func([]byte) []byte { return nil })
		if _, err := backup.Verify(t.Context(), s, o); !errors.Is(err, backup.ErrVerify) {
			t.Errorf("data without which the manifest stands: %v", err)
		}
	})

	t.Run("what is no verdict", func(t *testing.T) {
		inner := memory.New(time.Now)
		b := newBed(t, servers, inner)
		r := b.take(t)
		none := func() {
			t.Helper()
			if s := b.listed(t, r.ID); !s.VerifiedAt.IsZero() || !s.FailedAt.IsZero() {
				t.Errorf("a verdict was recorded: %+v", s)
			}
		}
		wrong, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		for name, repo := range map[string]*repository.Repository{"no identity": b.repository(t), "a wrong identity": b.repository(t, wrong)} {
			v, err := b.verify(t, r.ID, backup.ScopeFull, func(o *backup.VerifyOptions) { o.Repository = repo })
			if !errors.Is(err, seal.ErrCannotDecrypt) || errors.Is(err, backup.ErrVerify) || v.OK {
				t.Errorf("%s: %+v, %v", name, v, err)
			}
			none()
		}
		b.stores[0].Store = storagetest.Break(inner, storagetest.Faults{Get: func(string, int64) error { return storagetest.ErrInjected }})
		down := b.repository(t, b.identity)
		for _, scope := range []backup.Scope{backup.ScopeStored, backup.ScopeFull} {
			v, err := b.verify(t, r.ID, scope, func(o *backup.VerifyOptions) { o.Repository = down })
			if !errors.Is(err, storagetest.ErrInjected) || errors.Is(err, backup.ErrVerify) || v.OK {
				t.Errorf("a store that is down: %+v, %v", v, err)
			}
			none()
		}
		b.stores[0].Store = inner
		if v, err := backup.Verify(t.Context(), b.listed(t, r.ID), backup.VerifyOptions{Repository: b.repository(t), Scope: backup.ScopeStored}); err != nil || !v.OK {
			t.Errorf("stored bytes need no identity: %+v, %v", v, err)
		}
	})
}

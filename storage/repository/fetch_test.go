package repository

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/requorum/requorum/internal/seal"
	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/memory"
	"github.com/requorum/requorum/storage/storagetest"
)

// sealedFor returns data as it is stored for some recipients.
func sealedFor(t *testing.T, data []byte, to ...age.Recipient) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := seal.Seal(&b, to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestDamage: every way in which what is stored can differ is told apart, and another store's good copy is used instead.
func TestDamage(t *testing.T) {
	to, id := newKey(t)
	otherTo, otherID := newKey(t)
	data, other := database(700<<10, 1), database(900<<10, 2)
	smaller := database(100<<10, 3)
	for _, test := range []struct {
		name      string
		encrypted bool
		ids       []age.Identity
		damage    func(t *testing.T, s storage.Store, snap catalog.Snapshot, object []byte)
		kind      error
		stage     string
		words     string
	}{
		{"cut off", true, nil, func(t *testing.T, s storage.Store, snap catalog.Snapshot, b []byte) {
			replace(t, s, snap.DataKey(), b[:len(b)/2])
		}, ErrVerify, "stored size", "it is cut off"},
		{"cut off to nothing", true, nil, func(t *testing.T, s storage.Store, snap catalog.Snapshot, b []byte) {
			replace(t, s, snap.DataKey(), nil)
		}, ErrVerify, "stored size", "it is cut off: 0 bytes"},
		{"cut off, plain", false, nil, func(t *testing.T, s storage.Store, snap catalog.Snapshot, b []byte) {
			replace(t, s, snap.DataKey(), b[:len(b)-1])
		}, ErrVerify, "stored size", "it is cut off"},
		{"longer", true, nil, func(t *testing.T, s storage.Store, snap catalog.Snapshot, b []byte) {
			replace(t, s, snap.DataKey(), append(bytes.Clone(b), "more"...))
		}, ErrVerify, "stored size", "4 bytes more"},
		{"bit flipped in the middle", true, nil, func(t *testing.T, s storage.Store, snap catalog.Snapshot, b []byte) {
			b[len(b)/2] ^= 4
			replace(t, s, snap.DataKey(), b)
		}, ErrVerify, "stored sha256", "bytes have changed"},
		{"bit flipped, plain", false, nil, func(t *testing.T, s storage.Store, snap catalog.Snapshot, b []byte) {
			b[len(b)/2] ^= 4
			replace(t, s, snap.DataKey(), b)
		}, ErrVerify, "", ""},
		{"swapped", true, nil, func(t *testing.T, s storage.Store, snap catalog.Snapshot, b []byte) {
			replace(t, s, snap.DataKey(), sealedFor(t, other, to))
		}, ErrVerify, "swapped", "another was put in its place"},
		{"swapped for a smaller one", true, nil, func(t *testing.T, s storage.Store, snap catalog.Snapshot, b []byte) {
			replace(t, s, snap.DataKey(), sealedFor(t, smaller, to))
		}, ErrVerify, "swapped", "another was put in its place"},
		{"swapped, plain", false, nil, func(t *testing.T, s storage.Store, snap catalog.Snapshot, b []byte) {
			replace(t, s, snap.DataKey(), sealedFor(t, other))
		}, ErrVerify, "swapped", "another was put in its place"},
		{"sealed anew", true, nil, func(t *testing.T, s storage.Store, snap catalog.Snapshot, b []byte) {
			replace(t, s, snap.DataKey(), sealedFor(t, data, to))
		}, ErrVerify, "swapped", "another was put in its place"},
		{"encrypted to somebody else", true, nil, func(t *testing.T, s storage.Store, snap catalog.Snapshot, b []byte) {
			replace(t, s, snap.DataKey(), sealedFor(t, data, otherTo))
		}, ErrVerify, "decrypt", "encrypted to others than the manifest says"},
		{"not encrypted", true, nil, func(t *testing.T, s storage.Store, snap catalog.Snapshot, b []byte) {
			replace(t, s, snap.DataKey(), sealedFor(t, data))
		}, ErrVerify, "", "not encrypted"},
		{"encrypted", false, nil, func(t *testing.T, s storage.Store, snap catalog.Snapshot, b []byte) {
			replace(t, s, snap.DataKey(), sealedFor(t, data, to))
		}, ErrVerify, "", "is encrypted"},
		{"missing", true, nil, func(t *testing.T, s storage.Store, snap catalog.Snapshot, b []byte) {
			if err := s.Delete(t.Context(), snap.DataKey()); err != nil {
				t.Fatal(err)
			}
		}, ErrVerify, "missing", "missing although there is a manifest"},
		{"another identity", true, []age.Identity{otherID}, nil, seal.ErrCannotDecrypt, "", "it is encrypted to age1"},
		{"no identity", true, []age.Identity{}, nil, seal.ErrCannotDecrypt, "", "no identity was given"},
	} {
		t.Run(test.name, func(t *testing.T) {
			first, second := memory.New(nil), memory.New(nil)
			o := Options{Path: "p", Stores: named(first, second), Identities: []age.Identity{id}}
			if test.ids != nil {
				o.Identities = test.ids
			}
			if test.encrypted {
				o.Recipients = []age.Recipient{to}
			}
			r := open(t, o)
			snap, m := take(t, r, testTime, 100, data)
			if err := r.Copy(t.Context(), snap, "offsite", nil); err != nil {
				t.Fatal(err)
			}
			if test.damage != nil {
				inPath := storage.Prefix(first, "p")
				test.damage(t, inPath, snap, storagetest.Get(t, inPath, snap.DataKey(), 0))
			}
			f := target(t)
			err := r.Fetch(t.Context(), snap, m, f, nil)
			wantError(t, "in one store", err, test.kind, test.words, "store main")
			if errors.Is(err, ErrVerify) && errors.Is(err, seal.ErrCannotDecrypt) {
				t.Errorf("%v is both kinds of error", err)
			}
			if v, ok := errors.AsType[*VerifyError](err); test.stage != "" && (!ok || v.Stage != test.stage || v.Store != "main" || v.Backup != snap.ID || v.Key != snap.DataKey()) {
				t.Errorf("%+v, want stage %s", v, test.stage)
			}
			if info, err := f.Stat(); err != nil || info.Size() != 0 {
				t.Errorf("the file holds %d bytes after a refusal, %v", info.Size(), err)
			}
			if errors.Is(test.kind, ErrVerify) {
				fetched(t, r, list(t, r)[0], data)
			}
		})
	}
}

func TestDamagedManifest(t *testing.T) {
	s := memory.New(nil)
	r := open(t, Options{Stores: named(s)})
	snap, _ := take(t, r, testTime, 100, []byte("db"))
	other, _ := take(t, r, testTime, 101, []byte("another"))
	inPath := storage.Prefix(s, "dcs")
	good := storagetest.Get(t, inPath, snap.ManifestKey(), 0)
	for name, test := range map[string]struct {
		b     []byte
		words string
	}{
		"of another backup": {storagetest.Get(t, inPath, other.ManifestKey(), 0), "does not belong under this key"},
		"cut off":           {good[:len(good)/2], "not a manifest"},
		"empty":             {nil, "not a manifest"},
		"newer format":      {bytes.Replace(good, []byte(`"format": 1`), []byte(`"format": 7`), 1), "use a newer requorum"},
		"too long":          {bytes.Repeat([]byte(" "), maxSmall+1), ""},
	} {
		replace(t, inPath, snap.ManifestKey(), test.b)
		_, err := r.Manifest(t.Context(), snap)
		if name == "too long" {
			if err == nil {
				t.Error("a manifest without end was read")
			}
			continue
		}
		wantError(t, name, err, ErrVerify, test.words, "store main", snap.ID)
	}
}

func TestDamagedFacts(t *testing.T) {
	s := memory.New(nil)
	r := open(t, Options{Stores: named(s)})
	snap, m := take(t, r, testTime, 100, []byte("db"))
	inPath := storage.Prefix(s, "dcs")
	b := storagetest.Get(t, inPath, snap.FactsKey(), 0)
	replace(t, inPath, snap.FactsKey(), b[:len(b)-3])
	_, err := r.Facts(t.Context(), snap, m)
	wantError(t, "cut off", err, ErrVerify, "cut off")
	m.Facts.Bytes = maxFacts + 1
	if _, err := r.Facts(t.Context(), snap, m); err == nil {
		t.Error("facts of any size are read into memory")
	}
}

// TestManifestContradictsItself: the stored bytes are right, the raw hash is not.
func TestManifestContradictsItself(t *testing.T) {
	r := open(t, Options{Stores: named(memory.New(nil))})
	snap, m := take(t, r, testTime, 100, database(50_000, 1))
	for name, change := range map[string]func(*catalog.Manifest){
		"hash":    func(m *catalog.Manifest) { m.Data.SHA256 = strings.Repeat("0", 64) },
		"longer":  func(m *catalog.Manifest) { m.Data.Bytes++ },
		"shorter": func(m *catalog.Manifest) { m.Data.Bytes-- },
	} {
		bad := m
		change(&bad)
		err := r.Fetch(t.Context(), snap, bad, target(t), nil)
		wantError(t, name, err, ErrVerify, "hold other contents")
	}
}

// TestFetchFallsOver: a store that breaks half-way is left for the next one, from the start.
func TestFetchFallsOver(t *testing.T) {
	first, second := memory.New(nil), memory.New(nil)
	data := database(3<<20, 1)
	whole := open(t, Options{Stores: named(first, second)})
	snap, _ := take(t, whole, testTime, 100, data)
	if err := whole.Copy(t.Context(), snap, "offsite", nil); err != nil {
		t.Fatal(err)
	}
	snap = list(t, whole)[0]
	broken := storagetest.CutOff(first, 1<<20, storage.ErrUnreachable)
	r := open(t, Options{Stores: named(broken, second)})
	fetched(t, r, snap, data)
	alone := open(t, Options{Stores: named(broken)})
	m, err := whole.Manifest(t.Context(), snap)
	if err != nil {
		t.Fatal(err)
	}
	f := target(t)
	err = alone.Fetch(t.Context(), snap, m, f, nil)
	wantError(t, "no other store", err, storage.ErrUnreachable, "store main")
	if errors.Is(err, ErrVerify) {
		t.Errorf("%v: a broken connection is not damage", err)
	}
	if info, err := f.Stat(); err != nil || info.Size() != 0 {
		t.Errorf("%d bytes are left, %v", info.Size(), err)
	}
	wantError(t, "a copy that is not asked for", r.Fetch(t.Context(), snap.In("main"), m, target(t), nil), storage.ErrUnreachable)
	wantError(t, "a store that is not configured", r.Fetch(t.Context(), snap.In("elsewhere"), m, target(t), nil), ErrNoStore)
}

// TestFetchDiskFails: the local disk is no fault of a store.
func TestFetchDiskFails(t *testing.T) {
	s, rec := storagetest.Record(memory.New(nil))
	r := open(t, Options{Stores: named(s, s)})
	snap, m := take(t, r, testTime, 100, database(1<<20, 1))
	writable := target(t)
	readOnly, err := os.Open(writable.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	before := len(rec.Calls())
	err = r.Fetch(t.Context(), snap.In("main", "offsite"), m, readOnly, nil)
	if err == nil || !strings.Contains(err.Error(), readOnly.Name()) {
		t.Errorf("%v, want an error that names the file", err)
	}
	if calls := rec.Calls()[before:]; len(calls) != 1 {
		t.Errorf("%q: another store cannot mend the disk", calls)
	}
}

func TestFetchCancelled(t *testing.T) {
	r := open(t, Options{Stores: named(memory.New(nil), memory.New(nil))})
	snap, m := take(t, r, testTime, 100, database(2<<20, 1))
	ctx, cancel := context.WithCancel(t.Context())
	err := r.Fetch(ctx, snap, m, target(t), func(int64) { cancel() })
	wantError(t, "cancelled", err, context.Canceled)
	if errors.Is(err, ErrVerify) {
		t.Errorf("%v: a cancelled read is not damage", err)
	}
}

func TestCopy(t *testing.T) {
	to, id := newKey(t)
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			first, second := kind(t), kind(t)
			recorded, rec := storagetest.Record(second)
			// Copying needs no identity.
			r := open(t, Options{Stores: named(first, recorded), Recipients: []age.Recipient{to}})
			line := catalog.Line{Format: catalog.Format, Line: testLine, ClusterID: testCluster, Time: testTime, Source: catalog.LineLive, Cluster: "dcs"}
			if err := r.OpenLine(t.Context(), line); err != nil {
				t.Fatal(err)
			}
			if err := second.Delete(t.Context(), "dcs/"+catalog.LineKey(line)); err != nil {
				t.Fatal(err)
			}
			data := database(2<<20, 1)
			snap, m := take(t, r, testTime, 100, data)
			if err := r.Mark(t.Context(), snap, true); err != nil {
				t.Fatal(err)
			}
			var told int64
			if err := r.Copy(t.Context(), snap, "offsite", func(n int64) { told += n }); err != nil {
				t.Fatal(err)
			}
			if want := m.Data.StoredBytes + m.Facts.StoredBytes; told != want {
				t.Errorf("progress was told of %d bytes, want %d", told, want)
			}
			var puts []string
			for _, call := range rec.Calls() {
				if strings.HasPrefix(call, "put dcs/snapshots") {
					puts = append(puts, call)
				}
			}
			if len(puts) != 3 || !strings.HasSuffix(puts[2], "manifest.json") {
				t.Errorf("written in this order: %q, want the manifest last and no verdict", puts)
			}
			a, b := objects(t, first), objects(t, second)
			for key := range b {
				if a[key] != b[key] {
					t.Errorf("%s differs in the copy", key)
				}
			}
			if len(a) != 5 || len(b) != 4 {
				t.Errorf("%d and %d objects, want all but the verdict, with the line", len(a), len(b))
			}
			got := list(t, r)[0]
			if len(got.Stores) != 2 || got.StoredBytes != m.Data.StoredBytes+m.Facts.StoredBytes+int64(len(a["dcs/"+snap.ManifestKey()]))+int64(len("verified "+testTime.Format(time.RFC3339)+"\n")) {
				t.Errorf("listed as %+v", got)
			}
			reader := open(t, Options{Stores: named(first, second), Identities: []age.Identity{id}})
			fetched(t, reader, got.In("offsite"), data)

			before := len(rec.Calls())
			if err := r.Copy(t.Context(), got, "offsite", nil); err != nil {
				t.Fatal(err)
			}
			for _, call := range rec.Calls()[before:] {
				if !strings.HasPrefix(call, "list") {
					t.Errorf("copying again: %s", call)
				}
			}
			wantError(t, "no source", r.Copy(t.Context(), got.In("offsite"), "offsite", nil), ErrNoStore)
			if err := r.Copy(t.Context(), got, "elsewhere", nil); err == nil {
				t.Error("copied to a store that is not configured")
			}
		})
	}
}

// TestCopyDamagedSource: nothing of a bad copy becomes visible, and a good one elsewhere is used.
func TestCopyDamagedSource(t *testing.T) {
	stores := []storage.Store{memory.New(nil), memory.New(nil), memory.New(nil)}
	r := open(t, Options{Stores: named(stores...)})
	data := database(1<<20, 1)
	snap, _ := take(t, r, testTime, 100, data)
	if err := r.Copy(t.Context(), snap, "offsite", nil); err != nil {
		t.Fatal(err)
	}
	inPath := storage.Prefix(stores[0], "dcs")
	b := storagetest.Get(t, inPath, snap.DataKey(), 0)
	b[1000] ^= 1
	replace(t, inPath, snap.DataKey(), b)
	for name, object := range map[string][]byte{"flipped": b, "cut off": b[:5000], "longer": append(b, 1)} {
		replace(t, inPath, snap.DataKey(), object)
		wantError(t, name, r.Copy(t.Context(), snap.In("main"), "third", nil), ErrVerify, "store main")
		if left := objects(t, stores[2]); len(left) > 0 {
			t.Errorf("%s: %d objects in the target", name, len(left))
		}
	}
	var told int64
	if err := r.Copy(t.Context(), list(t, r)[0], "third", func(n int64) { told += n }); err != nil {
		t.Fatal(err)
	}
	got := list(t, r)[0]
	fetched(t, r, got.In("third"), data)
	if m, err := r.Manifest(t.Context(), got); err != nil || told != m.Data.StoredBytes+m.Facts.StoredBytes {
		t.Errorf("progress was told of %d bytes, %v", told, err)
	}
}

// TestCopyGoesOn: what an earlier try left is proven and kept, or made room for if it is damaged.
func TestCopyGoesOn(t *testing.T) {
	for name, damage := range map[string]func(b []byte) []byte{"whole": func(b []byte) []byte { return b }, "damaged": func(b []byte) []byte { return b[1:] }} {
		first, second := memory.New(nil), memory.New(nil)
		stopped := storagetest.Break(second, storagetest.Faults{Put: refuse("manifest.json", storage.ErrFull)})
		data := database(1<<20, 1)
		r := open(t, Options{Stores: named(first, stopped)})
		snap, _ := take(t, r, testTime, 100, data)
		wantError(t, name, r.Copy(t.Context(), snap, "offsite", nil), storage.ErrFull, "store offsite")
		if got := list(t, r); len(got) != 1 || len(got[0].Stores) != 1 {
			t.Errorf("%s: half a copy is listed: %+v", name, got)
		}
		inPath := storage.Prefix(second, "dcs")
		replace(t, inPath, snap.DataKey(), damage(storagetest.Get(t, inPath, snap.DataKey(), 0)))
		recorded, rec := storagetest.Record(second)
		r = open(t, Options{Stores: named(first, recorded)})
		if err := r.Copy(t.Context(), snap, "offsite", nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		puts := 0
		for _, call := range rec.Calls() {
			if strings.HasPrefix(call, "put") {
				puts++
			}
		}
		if want := map[string]int{"whole": 1, "damaged": 2}[name]; puts != want {
			t.Errorf("%s: %d objects were written, want %d", name, puts, want)
		}
		fetched(t, r, snap.In("offsite"), data)
	}
}

// TestCopyTargetRefuses: another source would not help.
func TestCopyTargetRefuses(t *testing.T) {
	first, second := memory.New(nil), memory.New(nil)
	r := open(t, Options{Stores: named(first, second, storagetest.CutOff(memory.New(nil), 100, storage.ErrFull))})
	snap, _ := take(t, r, testTime, 100, database(1<<20, 1))
	if err := r.Copy(t.Context(), snap, "offsite", nil); err != nil {
		t.Fatal(err)
	}
	opened := 0
	counting := func(s storage.Store) storage.Store {
		return storagetest.Break(s, storagetest.Faults{Get: func(key string, _ int64) error {
			if strings.HasSuffix(key, "db.zst") {
				opened++
			}
			return nil
		}})
	}
	r = open(t, Options{Stores: named(counting(first), counting(second), storagetest.CutOff(memory.New(nil), 100, storage.ErrFull))})
	wantError(t, "full", r.Copy(t.Context(), list(t, r)[0], "third", nil), storage.ErrFull, "store third")
	if opened != 1 {
		t.Errorf("the data was opened %d times, want once", opened)
	}
}

func TestVerifyErrorUnwraps(t *testing.T) {
	err := error(&VerifyError{"b", "main", "k", "missing", "it is not there", fs.ErrNotExist})
	if !errors.Is(err, ErrVerify) || !errors.Is(err, fs.ErrNotExist) || errors.Is(err, io.EOF) {
		t.Errorf("%v matches the wrong errors", err)
	}
}

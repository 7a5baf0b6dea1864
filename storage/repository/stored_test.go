package repository

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/memory"
	"github.com/requorum/requorum/storage/storagetest"
)

// TestStored reads back without any identity.
func TestStored(t *testing.T) {
	first, second := memory.New(nil), memory.New(nil)
	r := open(t, Options{Stores: named(first, second)})
	snap, m := take(t, r, testTime, 100, database(1<<20, 1))
	if err := r.Copy(t.Context(), snap, "offsite", nil); err != nil {
		t.Fatal(err)
	}
	both := list(t, r)[0]
	var told int64
	if err := r.Stored(t.Context(), both, m, func(n int64) { told += n }); err != nil {
		t.Fatal(err)
	}
	if want := 2 * (m.Data.StoredBytes + m.Facts.StoredBytes); told != want {
		t.Errorf("progress was told of %d bytes, want %d", told, want)
	}
	inPath := storage.Prefix(second, "dcs")
	data, facts := storagetest.Get(t, inPath, snap.DataKey(), 0), storagetest.Get(t, inPath, snap.FactsKey(), 0)
	bad := bytes.Clone(data)
	bad[77] ^= 1
	for name, test := range map[string]struct {
		data, facts []byte
		words       string
	}{
		"data flipped":  {bad, facts, "bytes have changed"},
		"data cut off":  {data[:99], facts, "99 bytes are stored"},
		"facts cut off": {data, facts[:9], "9 bytes are stored"},
	} {
		replace(t, inPath, snap.DataKey(), test.data)
		replace(t, inPath, snap.FactsKey(), test.facts)
		wantError(t, name, r.Stored(t.Context(), both, m, nil), ErrVerify, test.words, "store offsite")
		if err := r.Stored(t.Context(), both.In("main"), m, nil); err != nil {
			t.Errorf("%s: the other copy: %v", name, err)
		}
	}
	if err := inPath.Delete(t.Context(), snap.DataKey()); err != nil {
		t.Fatal(err)
	}
	wantError(t, "data missing", r.Stored(t.Context(), both, m, nil), ErrVerify, "missing", "store offsite")

	for name, faults := range map[string]storagetest.Faults{
		"refused": {Get: func(string, int64) error { return storage.ErrUnreachable }},
		"cut off": {Down: func(_ string, r io.Reader) io.Reader { return storagetest.Cut(r, 10, storage.ErrUnreachable) }},
	} {
		err := open(t, Options{Stores: named(storagetest.Break(first, faults))}).Stored(t.Context(), snap, m, nil)
		wantError(t, name, err, storage.ErrUnreachable, "store main")
		if errors.Is(err, ErrVerify) {
			t.Errorf("%s: %v is no verdict", name, err)
		}
	}
}

// TestSlowStore: a store that lags loses nothing, and holds nobody's memory.
func TestSlowStore(t *testing.T) {
	r := open(t, Options{Stores: named(storagetest.Slow(memory.New(nil), 4<<20))})
	data := database(1<<20, 1)
	snap, _ := take(t, r, testTime, 100, data)
	fetched(t, r, snap, data)
}

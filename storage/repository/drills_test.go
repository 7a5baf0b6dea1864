package repository

import (
	"bytes"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/memory"
	"github.com/requorum/requorum/storage/storagetest"
)

// A report that is stored in every store is listed once and read back; half of one is none.
func TestDrillReports(t *testing.T) {
	a, b := memory.New(nil), memory.New(nil)
	r := open(t, Options{Stores: named(a, b)})
	first := catalog.Drill{ID: "d0000000000a", Time: testTime}
	second := catalog.Drill{ID: "d0000000000b", Time: testTime.Add(time.Hour)}
	files := map[string][]byte{catalog.DrillJSON: []byte(`{"ok":true}`), catalog.DrillHTML: []byte("<html>"), catalog.DrillSignature: make([]byte, 64)}
	for _, d := range []catalog.Drill{second, first} {
		if err := r.StoreDrill(t.Context(), d, files); err != nil {
			t.Fatal(err)
		}
	}
	half := catalog.Drill{ID: "d0000000000c", Time: testTime.Add(2 * time.Hour)}
	if _, err := storage.Prefix(a, "dcs").Put(t.Context(), half.Key(catalog.DrillHTML), bytes.NewReader([]byte("<html>"))); err != nil {
		t.Fatal(err)
	}
	all, err := r.Drills(t.Context())
	if err != nil || len(all) != 2 || all[0].ID != first.ID || all[1].ID != second.ID || !slices.Equal(all[0].Stores, []string{"main", "offsite"}) {
		t.Fatalf("drills: %+v, %v", all, err)
	}
	for _, store := range []string{"", "main", "offsite"} {
		got, err := r.DrillFile(t.Context(), first, catalog.DrillHTML, store)
		if err != nil || string(got) != "<html>" {
			t.Errorf("store %q: %q, %v", store, got, err)
		}
	}
	if _, err := r.DrillFile(t.Context(), half, catalog.DrillJSON, ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is nowhere: %v", err)
	}
	if err := r.StoreDrill(t.Context(), catalog.Drill{ID: "r0000000000a", Time: testTime}, files); err == nil {
		t.Error("a run's id makes a drill")
	}
}

// One store that takes nothing does not keep a report from the others, and is named.
func TestDrillReportWithAStoreThatFails(t *testing.T) {
	bad := storagetest.Break(memory.New(nil), storagetest.Faults{Put: func(string) error { return storagetest.ErrInjected }})
	r := open(t, Options{Stores: named(bad, memory.New(nil))})
	d := catalog.Drill{ID: "d0000000000a", Time: testTime}
	err := r.StoreDrill(t.Context(), d, map[string][]byte{catalog.DrillJSON: []byte("{}")})
	if found := StoreErrors(err); len(found) != 1 || found[0].Store != "main" || errors.Is(err, ErrNoStore) {
		t.Errorf("stored with %v, want an error of store main alone", err)
	}
	if all, err := r.Drills(t.Context()); err != nil || len(all) != 1 || !slices.Equal(all[0].Stores, []string{"offsite"}) {
		t.Errorf("drills: %+v, %v", all, err)
	}
	only := open(t, Options{Stores: named(bad)})
	if err := only.StoreDrill(t.Context(), d, map[string][]byte{catalog.DrillJSON: []byte("{}")}); !errors.Is(err, ErrNoStore) {
		t.Errorf("no store took it: %v", err)
	}
}

// What drills found about a backup stands in its listing, one marker for each finding, and why one failed in its record; the backup stays what its verifications say.
func TestMarkDrilled(t *testing.T) {
	a, b := memory.New(nil), memory.New(nil)
	r := open(t, Options{Stores: named(a, b)})
	snap, _ := take(t, r, testTime, 100, []byte("db"))
	if err := r.Copy(t.Context(), snap, "offsite", nil); err != nil {
		t.Fatal(err)
	}
	for i, failed := range []bool{false, true, true, false} {
		found := catalog.Rehearsal{Drill: catalog.Drill{ID: "d0000000000" + string("abcd"[i]), Time: testTime.Add(time.Duration(i+1) * time.Hour)}, Failed: failed}
		if failed {
			run := catalog.Run{ID: found.ID, Kind: catalog.DrillRecords, Outcome: catalog.DrillFailed, Cluster: "dcs", Started: found.Time, Error: "check: the HashKV differs"}
			if err := r.Record(t.Context(), run); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 { // said again it is one finding
			if err := r.MarkDrilled(t.Context(), list(t, r)[0], found); err != nil {
				t.Fatal(err)
			}
		}
		got := list(t, r)[0]
		if got.Drilled != found || got.Failed() || len(got.Damaged) > 0 || len(got.Stores) != 2 {
			t.Errorf("after %+v: %+v", found, got)
		}
		why, err := r.DrillFailure(t.Context(), found.Drill)
		if failed != (why == "check: the HashKV differs") || failed != (err == nil) || !failed && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("why drill %s failed (%t): %q, %v", found.ID, failed, why, err)
		}
	}
	for _, s := range []storage.Store{a, b} {
		markers := 0
		for key := range objects(t, s) {
			if strings.Contains(key, "/drilled-") || strings.Contains(key, "/drill-failed-") {
				markers++
			}
		}
		if markers > 3 { // the one that restored before the others failed was no longer known when the last one was marked
			t.Errorf("%d markers are kept in one store", markers)
		}
	}
	if err := r.Delete(t.Context(), list(t, r)[0]); err != nil {
		t.Fatal(err)
	}
	for key := range objects(t, a) {
		if strings.Contains(key, catalog.SnapshotsPrefix) {
			t.Errorf("the deleted backup left %s", key)
		}
	}
	if err := r.MarkDrilled(t.Context(), snap, catalog.Rehearsal{Drill: catalog.Drill{ID: "r0000000000a", Time: testTime}}); err == nil {
		t.Error("a run's id makes a drill")
	}

	refused := open(t, Options{Stores: named(storagetest.Break(memory.New(nil), storagetest.Faults{Put: refuse("drilled-", storage.ErrDenied)}))})
	other, _ := take(t, refused, testTime, 100, []byte("db"))
	wantError(t, "put refused", refused.MarkDrilled(t.Context(), other, catalog.Rehearsal{Drill: catalog.Drill{ID: "d0000000000a", Time: testTime}}), storage.ErrDenied, "store main", other.ID, "could not be recorded")
}

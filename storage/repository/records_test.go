package repository

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/memory"
	"github.com/requorum/requorum/storage/storagetest"
)

func run(n int) catalog.Run {
	return catalog.Run{ID: fmt.Sprintf("r%011d", n), Kind: "backup", Outcome: "ok", Cluster: "dcs", Started: testTime.Add(time.Duration(n) * time.Hour)}
}

func TestRuns(t *testing.T) {
	first, second := memory.New(nil), memory.New(nil)
	both := open(t, Options{Stores: named(first, second)})
	one := open(t, Options{Stores: named(first)})
	for n := range 12 {
		r := both
		if n%3 == 0 {
			r = one
		}
		if err := r.Record(t.Context(), run(n)); err != nil {
			t.Fatal(err)
		}
	}
	ids := func(since time.Time, r *Repository) (got []string, err error) {
		runs, err := r.Runs(t.Context(), since)
		for _, r := range runs {
			got = append(got, strings.TrimLeft(r.ID[1:], "0"))
		}
		return got, err
	}
	got, err := ids(testTime.Add(8*time.Hour), both)
	if err != nil || strings.Join(got, " ") != "8 9 10 11" {
		t.Errorf("runs since the eighth: %q, %v", got, err)
	}
	if got, err := ids(time.Time{}, both); err != nil || len(got) != 12 {
		t.Errorf("all runs: %q, %v", got, err)
	}
	down := open(t, Options{Stores: named(first, storagetest.Refused(second, storage.ErrUnreachable))})
	got, err = ids(testTime.Add(10*time.Hour), down)
	wantError(t, "one store down", err, storage.ErrUnreachable, "store offsite")
	if strings.Join(got, " ") != "10 11" {
		t.Errorf("one store down: %q", got)
	}
	inPath := storage.Prefix(first, "dcs")
	replace(t, inPath, catalog.RunKey(run(10)), []byte("{"))
	if got, err := ids(testTime.Add(10*time.Hour), both); err != nil || strings.Join(got, " ") != "10 11" {
		t.Errorf("one copy damaged: %q, %v; want the other", got, err)
	}
	replace(t, inPath, catalog.RunKey(run(9)), []byte("{"))
	got, err = ids(testTime.Add(9*time.Hour), both)
	if err == nil || strings.Join(got, " ") != "10 11" {
		t.Errorf("the only copy damaged: %q, %v; want the rest and an error", got, err)
	}
}

// What ran is known from keys alone: a record that cannot be read counts, and one that two stores hold is one.
func TestRecorded(t *testing.T) {
	first, second := memory.New(nil), memory.New(nil)
	both := open(t, Options{Stores: named(first, second)})
	for n := range 3 {
		if err := both.Record(t.Context(), run(n)); err != nil {
			t.Fatal(err)
		}
	}
	replace(t, storage.Prefix(first, "dcs"), catalog.RunKey(run(1)), []byte("{"))
	got, err := both.Recorded(t.Context(), run(1).Started)
	if err != nil || len(got) != 2 || got[0].ID != run(1).ID || got[1].Kind != "backup" || !got[1].Started.Equal(run(2).Started) {
		t.Errorf("recorded since the first: %+v, %v", got, err)
	}
	down := open(t, Options{Stores: named(first, storagetest.Refused(second, storage.ErrUnreachable))})
	got, err = down.Recorded(t.Context(), run(2).Started)
	wantError(t, "one store down", err, storage.ErrUnreachable, "store offsite")
	if len(got) != 1 {
		t.Errorf("one store down: %+v, want what the other holds", got)
	}
}

func TestRecordRefused(t *testing.T) {
	s := memory.New(nil)
	refused := storagetest.Refused(memory.New(nil), storage.ErrDenied)
	r := open(t, Options{Stores: named(refused, s)})
	err := r.Record(t.Context(), run(1))
	wantError(t, "one store refuses", err, storage.ErrDenied, "store main")
	if len(objects(t, s)) != 1 {
		t.Error("the other store has no record")
	}
	wantError(t, "all refuse", open(t, Options{Stores: named(refused)}).Record(t.Context(), run(2)), ErrNoStore)
	if err := r.Record(t.Context(), catalog.Run{ID: "x"}); err == nil {
		t.Error("a record without a kind was written")
	}
}

func TestMark(t *testing.T) {
	now := testTime
	s, other := memory.New(nil), memory.New(nil)
	r := open(t, Options{Stores: named(s, other), Now: func() time.Time { return now }})
	snap, _ := take(t, r, testTime, 100, []byte("db"))
	if err := r.Copy(t.Context(), snap, "offsite", nil); err != nil {
		t.Fatal(err)
	}
	mark := func(ok bool, stores ...string) catalog.Snapshot {
		t.Helper()
		now = now.Add(time.Hour)
		snap := list(t, r)[0]
		if stores != nil {
			snap = snap.In(stores...)
		}
		for range 2 { // in the same second it is one verdict
			if err := r.Mark(t.Context(), snap, ok); err != nil {
				t.Fatal(err)
			}
		}
		return list(t, r)[0]
	}
	if got := mark(true); got.Failed() || !got.VerifiedAt.Equal(now) {
		t.Errorf("after a good verdict: %+v", got)
	}
	if got := mark(false, "main"); got.Failed() || len(got.Damaged) != 1 || got.Damaged[0] != "main" {
		t.Errorf("one copy failed: %+v", got)
	}
	if got := mark(false); !got.Failed() || len(got.Damaged) != 2 {
		t.Errorf("both failed: %+v", got)
	}
	if got := mark(true); got.Failed() || len(got.Damaged) != 0 || !got.VerifiedAt.Equal(now) {
		t.Errorf("good again: %+v", got)
	}
	markers := 0
	for key := range objects(t, s) {
		if strings.Contains(key, "/verified-") || strings.Contains(key, "/failed-") {
			markers++
		}
	}
	if markers > 3 { // the failed one that the merged listing no longer showed may stay
		t.Errorf("%d verdicts are kept in one store", markers)
	}
}

func TestMarkForbidden(t *testing.T) {
	inner := memory.New(nil)
	r := open(t, Options{Stores: named(storagetest.Break(inner, storagetest.Faults{Put: refuse("verified-", storage.ErrDenied)}))})
	snap, _ := take(t, r, testTime, 100, []byte("db"))
	wantError(t, "put refused", r.Mark(t.Context(), snap, true), storage.ErrDenied, "store main", snap.ID, "could not be recorded", "needs the right to put")

	now := testTime
	r = open(t, Options{Stores: named(storagetest.Break(inner, storagetest.Faults{Delete: refuse("", storage.ErrDenied)})), Now: func() time.Time { return now }})
	for range 3 {
		now = now.Add(time.Hour)
		if err := r.Mark(t.Context(), list(t, r)[0], true); err != nil {
			t.Errorf("a verdict that cannot delete the one before: %v", err)
		}
	}
	if got := list(t, r)[0]; !got.VerifiedAt.Equal(now) {
		t.Errorf("%+v", got)
	}
}

// Only what is old by both clocks goes, in each store by itself, and nothing while a restore holds the repository.
func TestSpentRecords(t *testing.T) {
	ours, theirs := testTime.Add(100*time.Hour), testTime.Add(100*time.Hour)
	first, second := memory.New(func() time.Time { return theirs }), memory.New(func() time.Time { return ours })
	both := open(t, Options{Stores: named(first, second), Now: func() time.Time { return ours }})
	for n := range 6 {
		r := both
		if n == 2 {
			r = open(t, Options{Stores: named(first)})
		}
		if err := r.Record(t.Context(), run(n)); err != nil {
			t.Fatal(err)
		}
	}
	spent := func() string {
		t.Helper()
		all, err := both.Spent(t.Context(), run(4).Started)
		if err != nil {
			t.Fatal(err)
		}
		var text []string
		for _, s := range all {
			text = append(text, s.Store)
			for _, r := range s.Runs {
				text = append(text, strings.TrimLeft(r.ID[1:], "0"))
			}
		}
		return strings.Join(text, " ")
	}
	if got := spent(); got != "main  1 2 offsite  1" { // id 0 is all zeros; 3 is the newest of the old ones
		t.Errorf("to remove %q", got)
	}
	theirs = ours.Add(-2 * time.Hour)
	if got := spent(); got != "main  offsite  1" {
		t.Errorf("with a store whose clock is two hours behind: %q", got)
	}
	theirs = ours
	all, err := both.Spent(t.Context(), run(4).Started)
	if err != nil {
		t.Fatal(err)
	}
	if err := both.CreateHold(t.Context(), catalog.Hold{Run: run(9).ID, Cluster: "dcs", Started: ours}); err != nil {
		t.Fatal(err)
	}
	if removed, err := both.RemoveSpent(t.Context(), all[0]); !errors.Is(err, ErrHeld) || len(removed) > 0 {
		t.Errorf("while a restore is under way: %d removed, %v", len(removed), err)
	}
	if err := both.ReleaseHold(t.Context(), run(9).ID); err != nil {
		t.Fatal(err)
	}
	locked := open(t, Options{Stores: named(storagetest.Break(first, storagetest.Faults{Delete: refuse("00002.json", storage.ErrLocked)}), second), Now: func() time.Time { return ours }})
	removed, err := locked.RemoveSpent(t.Context(), all[0])
	wantError(t, "a locked record", err, storage.ErrLocked, "store main")
	if len(removed) > 2 {
		t.Errorf("%d records are said to be removed, and one is locked", len(removed))
	}
	for _, s := range all {
		if _, err := both.RemoveSpent(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range []int{3, 3} {
		if got := len(objects(t, []storage.Store{first, second}[i])); got != want {
			t.Errorf("store %d has %d records left, want %d", i, got, want)
		}
	}
}

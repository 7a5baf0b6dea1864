package catalog

import (
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func listing(entries ...Entry) iter.Seq2[Entry, error] {
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Key, b.Key) })
	return func(yield func(Entry, error) bool) {
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func TestGroup(t *testing.T) {
	at := func(minutes int) time.Time { return testTime.Add(time.Duration(minutes) * time.Minute) }
	quiet := testSnapshot(100)
	busy := Snapshot{ID: "bbsy00000000", Line: testLine, Time: testTime, DataRevision: 90, Encrypted: true}.At(107)
	torn := Snapshot{ID: "btrn00000000", Line: otherLine, Time: testTime, DataRevision: 5}.At(5)
	var unknown []string
	got, err := Group(listing(
		Entry{quiet.DataKey(), 1000, at(1)}, Entry{quiet.FactsKey(), 10, at(2)}, Entry{quiet.ManifestKey(), 100, at(3)},
		Entry{quiet.VerifiedKey(at(10)), 1, at(10)}, Entry{quiet.VerifiedKey(at(20)), 1, at(20)}, Entry{quiet.FailedKey(at(15)), 1, at(15)},
		// Of the same second; the keys of both are mixed in the listing.
		Entry{busy.DataKey(), 2000, at(1)}, Entry{busy.ManifestKey(), 200, at(4)}, Entry{busy.FailedKey(at(30)), 2, at(30)},
		Entry{torn.DataKey(), 50, at(1)}, Entry{torn.FactsKey(), 5, at(7)},
		Entry{"snapshots/readme.txt", 1, at(0)}, Entry{quiet.Prefix + "manifest.json.bak", 1, at(0)}, Entry{quiet.Prefix + "verified-yesterday", 1, at(0)},
	), func(e Entry) { unknown = append(unknown, e.Key) })
	if err != nil {
		t.Fatal(err)
	}
	quiet.StoredBytes, quiet.Committed, quiet.Modified, quiet.VerifiedAt, quiet.FailedAt = 1113, true, at(3), at(20), at(15)
	busy.StoredBytes, busy.Committed, busy.Modified, busy.FailedAt = 2202, true, at(4), at(30)
	torn.StoredBytes, torn.Modified = 55, at(7)
	if want := []Snapshot{quiet, busy, torn}; !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
	if len(unknown) != 3 {
		t.Errorf("unknown keys: %q, want three", unknown)
	}
	if got[0].Failed() || !got[1].Failed() {
		t.Error("failed is said of the wrong one: the newest verdict counts")
	}
	for _, s := range got {
		if err := s.Check(); err != nil {
			t.Error(err)
		}
	}
}

// What drills found is read from names alone: the newest finding counts, of a listing and of several stores', and what is no drill's name is none.
func TestDrilled(t *testing.T) {
	found := func(minutes int, id string, failed bool) Rehearsal {
		return Rehearsal{Drill{ID: id, Time: testTime.Add(time.Duration(minutes) * time.Minute)}, failed}
	}
	const one, two = "d00000000001", "d00000000002"
	for _, test := range []struct {
		name   string
		stores [][]Rehearsal
		want   Rehearsal
	}{
		{"none", [][]Rehearsal{nil, nil}, Rehearsal{}},
		{"restored", [][]Rehearsal{{found(5, one, false)}}, found(5, one, false)},
		{"failed since", [][]Rehearsal{{found(5, one, false), found(6, two, true)}}, found(6, two, true)},
		{"restored since", [][]Rehearsal{{found(7, one, false), found(6, two, true)}}, found(7, one, false)},
		{"of one second", [][]Rehearsal{{found(5, two, false), found(5, one, true)}}, found(5, one, true)},
		{"of one second, the other way around", [][]Rehearsal{{found(5, one, true), found(5, two, false)}}, found(5, one, true)},
		{"known to one store", [][]Rehearsal{nil, {found(5, one, true)}}, found(5, one, true)},
		{"of two stores", [][]Rehearsal{{found(9, two, true)}, {found(5, one, false)}}, found(9, two, true)},
	} {
		s := testSnapshot(5)
		all := Merge(func(yield func(string, []Snapshot) bool) {
			for i, marks := range test.stores {
				entries := []Entry{{s.DataKey(), 10, testTime}, {s.ManifestKey(), 1, testTime}}
				for _, r := range marks {
					entries = append(entries, Entry{s.DrilledKey(r), 1, testTime})
				}
				snaps, err := Group(listing(entries...), func(e Entry) { t.Errorf("%s: %s is not known", test.name, e.Key) })
				if err != nil {
					t.Fatal(err)
				}
				if !yield(fmt.Sprintf("store%d", i), snaps) {
					return
				}
			}
		})
		if len(all) != 1 || all[0].Drilled != test.want || all[0].Failed() || all[0].Drilled.Known() != (test.want.ID != "") {
			t.Errorf("%s: %+v, want %+v", test.name, all, test.want)
		}
	}
	for _, name := range []string{"drilled-", "drilled-20261122T055500Z", "drilled-20261122T055500Z-", "drilled-20261122T055500Z-b00000000001", "drill-failed-yesterday-d00000000001",
		"drill-20261122T055500Z-d00000000001", "drilled-20261122T055500Z-d00000000001.age"} {
		if r, ok := parseRehearsal(name); ok {
			t.Errorf("%s is read as %+v", name, r)
		}
	}
}

func TestGroupFailsWithItsListing(t *testing.T) {
	broken := errors.New("page 2")
	got, err := Group(func(yield func(Entry, error) bool) {
		_ = yield(Entry{testSnapshot(1).ManifestKey(), 1, testTime}, nil) && yield(Entry{}, broken)
	}, nil)
	if !errors.Is(err, broken) || got != nil {
		t.Errorf("%v, %v: half a listing must not look like a whole one", got, err)
	}
}

// TestGroupManyInOneSecond: their keys are mixed, since revisions come before ids.
func TestGroupManyInOneSecond(t *testing.T) {
	var entries []Entry
	for i := range 300 {
		s := Snapshot{ID: fmt.Sprintf("b%011d", i%100), Line: testLine, Time: testTime.Add(time.Duration(i/100) * time.Second), DataRevision: int64(i % 7)}.At(int64(10 + i%13))
		entries = append(entries, Entry{s.DataKey(), 1, testTime}, Entry{s.ManifestKey(), 1, testTime})
	}
	got, err := Group(listing(entries...), nil)
	if err != nil || len(got) != 300 {
		t.Fatalf("%d backups, %v; want 300", len(got), err)
	}
	for _, s := range got {
		if !s.Committed || s.StoredBytes != 2 || s.DataRevision >= s.Revision {
			t.Errorf("%+v", s)
		}
	}
}

func TestMerge(t *testing.T) {
	at := func(minutes int) time.Time { return testTime.Add(time.Duration(minutes) * time.Minute) }
	copyOf := func(verified, failed int) Snapshot {
		s := testSnapshot(5)
		s.Committed, s.Modified, s.StoredBytes = true, at(100-verified), 10
		if verified > 0 {
			s.VerifiedAt = at(verified)
		}
		if failed > 0 {
			s.FailedAt = at(failed)
		}
		return s
	}
	for _, test := range []struct {
		name     string
		copies   []Snapshot
		failed   bool
		verified int
		damaged  int
	}{
		{"one good", []Snapshot{copyOf(5, 0)}, false, 5, 0},
		{"one failed", []Snapshot{copyOf(5, 6)}, true, 5, 1},
		{"both good", []Snapshot{copyOf(5, 0), copyOf(7, 0)}, false, 7, 0},
		{"first failed", []Snapshot{copyOf(5, 9), copyOf(3, 0)}, false, 3, 1},
		{"second failed", []Snapshot{copyOf(3, 0), copyOf(5, 9)}, false, 3, 1},
		{"failed, unknown", []Snapshot{copyOf(5, 9), copyOf(0, 0)}, false, 0, 1},
		{"both failed", []Snapshot{copyOf(20, 21), copyOf(0, 5)}, true, 20, 2},
		{"failed once, good since", []Snapshot{copyOf(5, 4), copyOf(3, 2)}, false, 5, 0},
		{"three", []Snapshot{copyOf(1, 2), copyOf(9, 0), copyOf(3, 4)}, false, 9, 2},
	} {
		all := Merge(func(yield func(string, []Snapshot) bool) {
			for i, s := range test.copies {
				torn := Snapshot{ID: "btrn00000000", Line: testLine, Time: testTime}.At(0)
				if !yield(fmt.Sprintf("store%d", i), []Snapshot{torn, s}) {
					return
				}
			}
		})
		if len(all) != 1 {
			t.Fatalf("%s: %d backups, want 1", test.name, len(all))
		}
		got := all[0]
		want := time.Time{}
		if test.verified > 0 {
			want = at(test.verified)
		}
		if got.Failed() != test.failed || !got.VerifiedAt.Equal(want) || len(got.Damaged) != test.damaged || len(got.Stores) != len(test.copies) || got.StoredBytes != 10 {
			t.Errorf("%s: failed %t, verified %v, damaged %q, stores %q", test.name, got.Failed(), got.VerifiedAt, got.Damaged, got.Stores)
		}
	}
}

func TestMergeOrder(t *testing.T) {
	older := Snapshot{ID: "b00000000001", Line: otherLine, Time: testTime, Committed: true}.At(900)
	newer := Snapshot{ID: "b00000000002", Line: testLine, Time: testTime.Add(time.Hour), Committed: true}.At(5)
	all := Merge(func(yield func(string, []Snapshot) bool) { yield("a", []Snapshot{newer, older}) })
	if len(all) != 2 || all[0].ID != older.ID {
		t.Errorf("not by time: %+v", all)
	}
}

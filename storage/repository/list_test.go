package repository

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/memory"
	"github.com/requorum/requorum/storage/storagetest"
)

// fill puts the objects of n backups that nobody will read.
func fill(t testing.TB, s storage.Store, n int) {
	t.Helper()
	for i := range n {
		snap := catalog.NewSnapshot(testLine, testTime.Add(time.Duration(i)*time.Minute), int64(i), true).At(int64(i + i%2))
		for _, key := range []string{snap.DataKey(), snap.FactsKey(), snap.ManifestKey()} {
			storagetest.Put(t, s, "dcs/"+key, []byte("x"))
		}
		if i%10 == 0 {
			storagetest.Put(t, s, "dcs/"+snap.VerifiedKey(testTime), []byte("x"))
		}
	}
}

// TestListing: 10,000 backups are one pass over the listing, and no manifest is read.
func TestListing(t *testing.T) {
	const n = 10_000
	inner := memory.New(nil)
	fill(t, inner, n)
	s, rec := storagetest.Record(inner)
	snaps := list(t, open(t, Options{Stores: named(s)}))
	if len(snaps) != n {
		t.Errorf("%d backups, want %d", len(snaps), n)
	}
	if calls := rec.Calls(); !slices.Equal(calls, []string{"list dcs/snapshots/"}) {
		t.Errorf("requests: %q, want one listing", calls)
	}
	if !slices.IsSortedFunc(snaps, func(a, b catalog.Snapshot) int { return a.Time.Compare(b.Time) }) {
		t.Error("not the oldest first")
	}
}

// TestFewRequests: choosing a line reads few objects, however many backups there are.
func TestFewRequests(t *testing.T) {
	inner := memory.New(nil)
	r := open(t, Options{Stores: named(inner)})
	line, _, _, err := r.Continue(t.Context(), catalog.Seen{ClusterID: testCluster, Revision: 1, RaftTerm: 1, Time: testTime})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.OpenLine(t.Context(), line); err != nil {
		t.Fatal(err)
	}
	fill(t, inner, 300)
	for n := range 200 {
		if err := r.Record(t.Context(), run(n)); err != nil {
			t.Fatal(err)
		}
	}
	s, rec := storagetest.Record(inner)
	if _, _, _, err := open(t, Options{Stores: named(s)}).Continue(t.Context(), catalog.Seen{ClusterID: testCluster, Revision: 10_000, RaftTerm: 1, Time: testTime.AddDate(1, 0, 0)}); err != nil {
		t.Fatal(err)
	}
	lists, gets := 0, 0
	for _, call := range rec.Calls() {
		switch {
		case strings.HasPrefix(call, "list"):
			lists++
		case strings.HasPrefix(call, "get"):
			gets++
		}
	}
	if lists > 4 || gets > maxRecords+2 {
		t.Errorf("%d listings and %d reads", lists, gets)
	}
}

// TestOneStoreDown: the others' backups are shown, with an error that says whose are missing.
func TestOneStoreDown(t *testing.T) {
	first, second := memory.New(nil), memory.New(nil)
	r := open(t, Options{Stores: named(first, second)})
	snap, _ := take(t, r, testTime, 100, []byte("db"))
	if err := r.Copy(t.Context(), snap, "offsite", nil); err != nil {
		t.Fatal(err)
	}
	line := catalog.Line{Format: catalog.Format, Line: testLine, ClusterID: testCluster, Time: testTime, Source: catalog.LineLive}
	if err := r.OpenLine(t.Context(), line); err != nil {
		t.Fatal(err)
	}
	down := open(t, Options{Stores: named(storagetest.Refused(first, storage.ErrUnreachable), second)})
	snaps, err := down.Snapshots(t.Context())
	wantError(t, "list", err, storage.ErrUnreachable, "store main")
	if len(snaps) != 1 || !slices.Equal(snaps[0].Stores, []string{"offsite"}) {
		t.Errorf("%+v", snaps)
	}
	fetched(t, down, snaps[0], []byte("db"))
	found, note, err := down.Find(t.Context(), "latest", testTime)
	if err != nil || found.ID != snap.ID || !strings.Contains(note, "not all could be seen") || !strings.Contains(note, "store main") {
		t.Errorf("found %s with %q, %v", found.ID, note, err)
	}
	if got, opened, alerts, err := down.Continue(t.Context(), catalog.Seen{ClusterID: testCluster, Revision: 200, RaftTerm: 2, Time: testTime}); err != nil || opened || got.Line != testLine || len(alerts) > 0 {
		t.Errorf("a backup with a store down: line %s, opened %t, %q, %v; the other store knows the line", got.Line, opened, alerts, err)
	}
	part := open(t, Options{Stores: named(storagetest.Refused(first, storage.ErrUnreachable), storagetest.Break(second, storagetest.Faults{List: func(prefix, _ string) error {
		if prefix == catalog.RunsPrefix || strings.HasSuffix(prefix, "/"+catalog.RunsPrefix) {
			return storage.ErrUnreachable
		}
		return nil
	}}))})
	if got, opened, alerts, err := part.Continue(t.Context(), catalog.Seen{ClusterID: testCluster, Revision: 200, RaftTerm: 2, Time: testTime}); err != nil || opened || got.Line != testLine || !strings.Contains(strings.Join(alerts, ""), "store offsite") {
		t.Errorf("a backup when no store tells all: line %s, opened %t, %q, %v", got.Line, opened, alerts, err)
	}
	all := open(t, Options{Stores: named(storagetest.Refused(first, storage.ErrUnreachable), storagetest.Refused(second, storage.ErrDenied))})
	if snaps, err := all.Snapshots(t.Context()); len(snaps) > 0 || err == nil {
		t.Errorf("all down: %+v, %v", snaps, err)
	}
	_, _, err = all.Find(t.Context(), "latest", testTime)
	wantError(t, "find, all down", err, storage.ErrUnreachable)
	_, _, _, err = all.Continue(t.Context(), catalog.Seen{ClusterID: testCluster, Revision: 200, RaftTerm: 2, Time: testTime})
	wantError(t, "a backup, all down", err, storage.ErrUnreachable)
	_, _, err = r.Find(t.Context(), "b000", testTime)
	wantError(t, "find", err, catalog.ErrNothingToRestore)
}

// TestListingBreaks: half a listing is not taken for a whole one.
func TestListingBreaks(t *testing.T) {
	inner := memory.New(nil)
	fill(t, inner, 5)
	r := open(t, Options{Stores: named(halfListing{inner})})
	snaps, err := r.Snapshots(t.Context())
	wantError(t, "half a listing", err, storagetest.ErrInjected)
	if len(snaps) > 0 {
		t.Errorf("%d backups of half a listing", len(snaps))
	}
}

// lineage takes backups of changing clusters through a real repository.
func TestContinueStored(t *testing.T) {
	s := memory.New(nil)
	r := open(t, Options{Stores: named(s)})
	backup := func(hours int, revision int64, term uint64) (catalog.Line, bool, []string) {
		t.Helper()
		seen := catalog.Seen{ClusterID: testCluster, Revision: revision, RaftTerm: term, Time: testTime.Add(time.Duration(hours) * time.Hour)}
		line, opened, alerts, err := r.Continue(t.Context(), seen)
		if err != nil {
			t.Fatal(err)
		}
		if opened {
			if err := r.OpenLine(t.Context(), line); err != nil {
				t.Fatal(err)
			}
		}
		u, err := r.Begin(t.Context(), catalog.NewSnapshot(line.Line, seen.Time, revision, false))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Data(t.Context(), from([]byte("db"))); err != nil {
			t.Fatal(err)
		}
		m := testManifest(revision)
		m.RaftTerm = term
		if _, err := u.Commit(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		return line, opened, alerts
	}
	first, opened, alerts := backup(0, 100, 5)
	if !opened || len(alerts) > 0 || first.Cluster != "dcs" {
		t.Fatalf("the first: %+v, %q", first, alerts)
	}
	if line, opened, alerts := backup(1, 150, 6); opened || line.Line != first.Line || len(alerts) > 0 {
		t.Errorf("the second: %+v, opened %t, %q", line, opened, alerts)
	}
	second, opened, alerts := backup(2, 5000, 2)
	if !opened || len(alerts) != 1 || second.Parent != first.Line {
		t.Errorf("a lower term, which only the manifest says: %+v, opened %t, %q", second, opened, alerts)
	}
	// What serve saw since counts too, also in a record of a drill's neighbour.
	if err := r.Record(t.Context(), catalog.Run{ID: testRun, Kind: "watch", Outcome: "ok", Started: testTime.Add(150 * time.Minute),
		Seen: &catalog.Seen{ClusterID: testCluster, Line: second.Line, Revision: 9000, RaftTerm: 2, Time: testTime.Add(150 * time.Minute)}}); err != nil {
		t.Fatal(err)
	}
	newest, err := r.Newest(t.Context())
	if err != nil || newest[second.Line].Revision != 9000 || newest[first.Line].Revision != 150 || newest[first.Line].RaftTerm != 6 {
		t.Errorf("newest: %+v, %v", newest, err)
	}
	if line, opened, _ := backup(3, 6000, 2); !opened {
		t.Errorf("revision 6000 after 9000 was seen went on in %+v", line)
	}
	lines, err := r.Lines(t.Context())
	if err != nil || len(lines) != 3 || lines[0].Line != first.Line || lines[1].Line != second.Line {
		t.Errorf("lines: %+v, %v", lines, err)
	}
	// A restore opens its line itself.
	restored := catalog.Line{Format: catalog.Format, Line: catalog.NewID(catalog.KindLine), Cluster: "dcs", ClusterID: "cccccccccccccccc", Time: testTime.Add(4 * time.Hour),
		FirstRevision: 1_000_009_000, RaftTerm: 1, Parent: second.Line, ParentKnown: true, Run: testRun, Source: catalog.LineRestore}
	if err := r.OpenLine(t.Context(), restored); err != nil {
		t.Fatal(err)
	}
	line, opened, alerts, err := r.Continue(t.Context(), catalog.Seen{ClusterID: restored.ClusterID, Revision: 1_000_009_001, RaftTerm: 2, Time: testTime.Add(5 * time.Hour)})
	if err != nil || opened || line != restored || len(alerts) > 0 {
		t.Errorf("after a restore: %+v, opened %t, %q, %v", line, opened, alerts, err)
	}
	if err := r.OpenLine(t.Context(), catalog.Line{Line: "x"}); err == nil {
		t.Error("a line without anything was opened")
	}
}

func BenchmarkSnapshots(b *testing.B) {
	s := memory.New(nil)
	fill(b, s, 10_000)
	r := open(b, Options{Stores: named(s)})
	b.Run("bare", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			n := 0
			for _, err := range s.List(b.Context(), "dcs/snapshots/", "") {
				if err != nil {
					b.Fatal(err)
				}
				n++
			}
			if n != 31_000 {
				b.Fatal(n)
			}
		}
	})
	b.Run("repository", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if snaps := list(b, r); len(snaps) != 10_000 {
				b.Fatal(fmt.Sprint(len(snaps)))
			}
		}
	})
}

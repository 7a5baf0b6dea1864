package backup_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/backup"
	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/memory"
	"github.com/requorum/requorum/storage/repository"
	"github.com/requorum/requorum/storage/storagetest"
)

// shelf is a repository with backups that hold nothing of interest.
type shelf struct {
	stores []repository.Named
	repo   *repository.Repository
	line   catalog.Line
	now    time.Time
	ids    []string // the oldest first
}

func newShelf(t *testing.T, count int, stores ...storage.Store) *shelf {
	t.Helper()
	s := &shelf{now: time.Date(2026, 11, 22, 6, 0, 0, 0, time.UTC)}
	for i, store := range stores {
		s.stores = append(s.stores, repository.Named{Name: []string{"main", "offsite"}[i], Store: store})
	}
	s.repo = s.open(t)
	s.line = catalog.Line{
		Format: catalog.Format, Line: catalog.NewID(catalog.KindLine), Cluster: "dcs", ClusterID: "00000000000000aa",
		Time: s.now.Add(-100 * time.Hour), FirstRevision: 1, ParentKnown: true, Source: catalog.LineLive,
	}
	if err := s.repo.OpenLine(t.Context(), s.line); err != nil {
		t.Fatal(err)
	}
	for i := range count {
		s.add(t, s.now.Add(time.Duration(i-count)*time.Hour), int64(10+i))
	}
	return s
}

func (s *shelf) open(t *testing.T) *repository.Repository {
	t.Helper()
	r, err := repository.New(repository.Options{Cluster: "dcs", Stores: s.stores, SweepAfter: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (s *shelf) add(t *testing.T, at time.Time, revision int64) {
	t.Helper()
	u, err := s.repo.Begin(t.Context(), catalog.NewSnapshot(s.line.Line, at, revision, false))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Data(t.Context(), func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader([]byte("data"))), nil
	}); err != nil {
		t.Fatal(err)
	}
	m, err := u.Commit(t.Context(), catalog.Manifest{Revision: revision, Source: catalog.SourceLive, ClusterID: s.line.ClusterID})
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range s.stores[1:] {
		if err := s.repo.Copy(t.Context(), u.Snapshot(), other.Name, nil); err != nil {
			t.Fatal(err)
		}
	}
	s.ids = append(s.ids, m.ID)
}

func (s *shelf) expire(t *testing.T, policy catalog.Policy, dryRun bool) (backup.Expiry, error) {
	t.Helper()
	return backup.Expire(t.Context(), policy, dryRun, backup.ExpireOptions{Repository: s.repo, Now: func() time.Time { return s.now }})
}

// left lists the ids of backups in one store, the oldest first.
func (s *shelf) left(t *testing.T, store string) (ids []string) {
	t.Helper()
	snaps, err := s.open(t).Snapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, snap := range snaps {
		if slices.Contains(snap.Stores, store) {
			ids = append(ids, snap.ID)
		}
	}
	return ids
}

func TestExpire(t *testing.T) {
	s := newShelf(t, 5, memory.New(time.Now), memory.New(time.Now))
	policy := catalog.Policy{Last: 2}
	plan, err := s.expire(t, policy, true)
	if err != nil || len(plan.Verdicts) != 10 || len(s.left(t, "main")) != 5 {
		t.Fatalf("dry run: %d verdicts, %v, %d backups left", len(plan.Verdicts), err, len(s.left(t, "main")))
	}
	for _, v := range plan.Verdicts {
		if len(v.Reasons) == 0 || v.Deleted || v.Keep != slices.Contains(s.ids[3:], v.Snapshot.ID) {
			t.Errorf("dry run: %+v", v)
		}
	}
	if runs, err := s.repo.Runs(t.Context(), time.Time{}); err != nil || len(runs) != 0 {
		t.Errorf("a dry run left records %+v, %v", runs, err)
	}
	done, err := s.expire(t, policy, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range done.Verdicts {
		if v.Deleted == v.Keep || v.Err != nil {
			t.Errorf("%+v", v)
		}
	}
	for _, store := range []string{"main", "offsite"} {
		if left := s.left(t, store); !slices.Equal(left, s.ids[3:]) {
			t.Errorf("store %s has %q, want %q", store, left, s.ids[3:])
		}
	}
	if runs, err := s.repo.Runs(t.Context(), time.Time{}); err != nil || len(runs) != 1 || runs[0].Kind != "expire" || runs[0].Outcome != "ok" {
		t.Errorf("records %+v, %v", runs, err)
	}
}

// A copy that failed its verification protects nothing in its store, whatever the other store's copy is.
func TestExpireJudgesEachCopy(t *testing.T) {
	s := newShelf(t, 4, memory.New(time.Now), memory.New(time.Now))
	snaps, err := s.repo.Snapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	newest := snaps[3]
	if err := errors.Join(s.repo.Mark(t.Context(), newest.In("main"), false), s.repo.Mark(t.Context(), newest.In("offsite"), true)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.expire(t, catalog.Policy{Last: 1}, false); err != nil {
		t.Fatal(err)
	}
	if left := s.left(t, "main"); !slices.Equal(left, s.ids[2:3]) {
		t.Errorf("main has %q, want the newest good one there, %q", left, s.ids[2:3])
	}
	if left := s.left(t, "offsite"); !slices.Equal(left, s.ids[3:]) {
		t.Errorf("offsite has %q, want %q", left, s.ids[3:])
	}
}

func TestExpireDeletesNothing(t *testing.T) {
	policy := catalog.Policy{Last: 1}
	t.Run("when a store cannot be listed", func(t *testing.T) {
		s := newShelf(t, 3, memory.New(time.Now), memory.New(time.Now))
		whole := s.stores[1].Store
		s.stores[1].Store = storagetest.Refused(whole, storagetest.ErrInjected)
		s.repo = s.open(t)
		if _, err := s.expire(t, policy, false); !errors.Is(err, storagetest.ErrInjected) {
			t.Errorf("%v", err)
		}
		s.stores[1].Store = whole
		if left := s.left(t, "main"); len(left) != 3 {
			t.Errorf("%d of 3 are left", len(left))
		}
	})
	t.Run("when a line cannot be read", func(t *testing.T) {
		inner := memory.New(time.Now)
		s := newShelf(t, 3, inner)
		s.stores[0].Store = storagetest.Break(inner, storagetest.Faults{Get: func(key string, _ int64) error {
			if strings.Contains(key, "/lines/") {
				return storagetest.ErrInjected
			}
			return nil
		}})
		s.repo = s.open(t)
		if _, err := s.expire(t, policy, false); !errors.Is(err, storagetest.ErrInjected) {
			t.Errorf("%v", err)
		}
		if left := s.left(t, "main"); len(left) != 3 {
			t.Errorf("%d of 3 are left", len(left))
		}
	})
	t.Run("while a restore is under way", func(t *testing.T) {
		s := newShelf(t, 3, memory.New(time.Now))
		hold := catalog.Hold{Run: catalog.NewID(catalog.KindRun), Cluster: "dcs", Owner: "someone", Started: s.now}
		if err := s.repo.CreateHold(t.Context(), hold); err != nil {
			t.Fatal(err)
		}
		if _, err := s.expire(t, policy, false); !errors.Is(err, backup.ErrHeld) || !strings.Contains(err.Error(), hold.Run) || !strings.Contains(err.Error(), "requorum restore dcs --resume") {
			t.Errorf("%v", err)
		}
		if plan, err := s.expire(t, policy, true); err != nil || len(plan.Verdicts) != 3 {
			t.Errorf("a dry run meanwhile: %+v, %v", plan, err)
		}
		if left := s.left(t, "main"); len(left) != 3 {
			t.Errorf("%d of 3 are left", len(left))
		}
		if err := s.repo.ReleaseHold(t.Context(), hold.Run); err != nil {
			t.Fatal(err)
		}
		if _, err := s.expire(t, policy, false); err != nil || len(s.left(t, "main")) != 1 {
			t.Errorf("after the restore: %v, %d left", err, len(s.left(t, "main")))
		}
	})
}

func TestExpireReportsWhatItMustKeep(t *testing.T) {
	inner := memory.New(time.Now)
	s := newShelf(t, 4, inner)
	refuse := func(kind error, id string) *repository.Repository {
		s.stores[0].Store = storagetest.Break(inner, storagetest.Faults{Delete: func(key string) error {
			if strings.Contains(key, id) {
				return kind
			}
			return nil
		}})
		return s.open(t)
	}
	s.repo = refuse(storage.ErrLocked, s.ids[0])
	out, err := s.expire(t, catalog.Policy{Last: 1}, false)
	if err != nil {
		t.Errorf("a locked object is no failure: %v", err)
	}
	for _, v := range out.Verdicts {
		if locked := v.Snapshot.ID == s.ids[0]; v.Locked != locked || v.Deleted != (!locked && !v.Keep) {
			t.Errorf("%+v", v)
		}
	}
	if left := s.left(t, "main"); !slices.Equal(left, []string{s.ids[0], s.ids[3]}) {
		t.Errorf("left %q", left)
	}
	s.repo = refuse(storage.ErrDenied, s.ids[0])
	if out, err = s.expire(t, catalog.Policy{Last: 1}, false); !errors.Is(err, backup.ErrPartial) || !errors.Is(err, storage.ErrDenied) {
		t.Errorf("a deletion that is not allowed: %+v, %v", out, err)
	}
}

// Records of runs must not pile up for ever; what a restore, a schedule or an auditor may ask for stays.
func TestExpireRemovesOldRecords(t *testing.T) {
	const day = 24 * time.Hour
	s := newShelf(t, 0, memory.New(time.Now))
	record := func(kind, outcome string, age time.Duration) string {
		t.Helper()
		r := catalog.Run{ID: catalog.NewID(catalog.KindRun), Kind: kind, Outcome: outcome, Cluster: "dcs", Started: s.now.Add(-age)}
		if err := s.repo.Record(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		return r.ID
	}
	gone := []string{record("backup", "ok", 200*day), record("watch", "ok", 150*day), record("verify", "ok", 92*day)}
	kept := []string{record("restore", "ok", 300*day), record("backup", "failed", 120*day), record("backup", "ok", 100*day), record("watch", "ok", 95*day), record("verify", "ok", 91*day), record("expire", "ok", 89*day)}
	left := func() (ids []string) {
		t.Helper()
		runs, err := s.repo.Recorded(t.Context(), time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range runs {
			if !slices.Contains(ids, r.ID) {
				ids = append(ids, r.ID)
			}
		}
		return ids
	}
	plan, err := s.expire(t, catalog.Policy{}, true)
	if err != nil || len(plan.Records) != 0 {
		t.Errorf("without a backup %+v may go, %v: records alone say what the cluster has served", plan.Records, err)
	}
	s.add(t, s.now.Add(-160*day), 10)
	if plan, err = s.expire(t, catalog.Policy{}, true); err != nil || len(plan.Records) != 0 {
		t.Errorf("since the only backup %+v may go, %v", plan.Records, err)
	}
	s.add(t, s.now.Add(-time.Hour), 20)
	plan, err = s.expire(t, catalog.Policy{}, true)
	if err != nil || len(plan.Records) != 1 || len(plan.Records[0].Runs) != len(gone) || len(plan.Records[0].Removed) != 0 || len(left()) != len(gone)+len(kept) {
		t.Fatalf("a dry run: %+v, %v", plan.Records, err)
	}
	whole := s.stores[0].Store
	s.stores[0].Store = storagetest.Break(whole, storagetest.Faults{Delete: func(key string) error {
		if strings.Contains(key, "/runs/") {
			return storage.ErrDenied
		}
		return nil
	}})
	s.repo = s.open(t)
	if done, err := s.expire(t, catalog.Policy{}, false); err != nil || len(done.Records) != 1 || !errors.Is(done.Records[0].Err, storage.ErrDenied) {
		t.Errorf("where records may not be deleted: %+v, %v; want no failure", done.Records, err)
	}
	s.stores[0].Store = whole
	s.repo = s.open(t)
	done, err := s.expire(t, catalog.Policy{}, false)
	if err != nil || len(done.Records) != 1 || len(done.Records[0].Removed) != len(gone) {
		t.Fatalf("%+v, %v", done.Records, err)
	}
	ids := left()
	for _, id := range gone {
		if slices.Contains(ids, id) {
			t.Errorf("record %s of a routine run is left", id)
		}
	}
	for _, id := range kept {
		if !slices.Contains(ids, id) {
			t.Errorf("record %s is gone", id)
		}
	}
}

// A cluster that comes up empty on Friday evening, and is backed up and expired every hour since, must not have aged the good backups out by Monday.
func TestAnEmptyClusterDoesNotAgeTheGoodBackupsOut(t *testing.T) {
	policy := catalog.Policy{Last: 24, Within: 48 * time.Hour, Hourly: 48, Daily: 7, Minimum: 3, OldLines: 90 * 24 * time.Hour}
	s := newShelf(t, 0, memory.New(time.Now))
	friday := time.Date(2026, 11, 20, 18, 0, 0, 0, time.UTC)
	monday := time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)
	var good []string
	revision := int64(1000)
	for at := friday.Add(-3 * 24 * time.Hour); !at.After(monday); at = at.Add(time.Hour) {
		s.now = at
		revision += 10
		seen := catalog.Seen{ClusterID: s.line.ClusterID, Revision: revision, RaftTerm: 5, Time: at}
		if at.After(friday) {
			if revision > 1000 {
				revision = 1
			}
			seen = catalog.Seen{ClusterID: "00000000000000bb", Revision: revision, RaftTerm: 2, Time: at}
		}
		line, opens, alerts, err := s.repo.Continue(t.Context(), seen)
		if err != nil {
			t.Fatal(err)
		}
		if opens {
			if !at.Equal(friday.Add(time.Hour)) || len(alerts) == 0 {
				t.Fatalf("at %s a line is opened, with the alerts %q", at, alerts)
			}
			if err := s.repo.OpenLine(t.Context(), line); err != nil {
				t.Fatal(err)
			}
		}
		s.line = line
		s.add(t, at, revision)
		if !at.After(friday) {
			good = append(good, s.ids[len(s.ids)-1])
		}
		if _, err := s.expire(t, policy, false); err != nil {
			t.Fatal(err)
		}
	}
	left := s.left(t, "main")
	for _, id := range good[len(good)-policy.Last:] {
		if !slices.Contains(left, id) {
			t.Errorf("the good backup %s, one of the newest %d before the cluster came up empty, is gone by Monday", id, policy.Last)
		}
	}
	if len(left) >= len(s.ids) {
		t.Error("nothing was expired, so this test says nothing")
	}
}

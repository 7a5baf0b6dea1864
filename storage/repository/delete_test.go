package repository

import (
	"context"
	"errors"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/file"
	"github.com/requorum/requorum/storage/memory"
	"github.com/requorum/requorum/storage/storagetest"
)

func TestDelete(t *testing.T) {
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			first, second := kind(t), kind(t)
			recorded, rec := storagetest.Record(first)
			r := open(t, Options{Stores: named(recorded, second)})
			keep, _ := take(t, r, testTime, 100, []byte("db")) // of the same second
			snap, _ := take(t, r, testTime, 101, []byte("db"))
			for _, ok := range []bool{true, false} {
				if err := r.Mark(t.Context(), snap, ok); err != nil {
					t.Fatal(err)
				}
			}
			if err := r.Copy(t.Context(), snap, "offsite", nil); err != nil {
				t.Fatal(err)
			}
			before := len(rec.Calls())
			if err := r.Delete(t.Context(), list(t, r)[1]); err != nil {
				t.Fatal(err)
			}
			var deleted []string
			for _, call := range rec.Calls()[before:] {
				if strings.HasPrefix(call, "delete") {
					deleted = append(deleted, call)
				}
			}
			if len(deleted) != 5 || !strings.HasSuffix(deleted[0], "manifest.json") {
				t.Errorf("deleted in this order: %q, want the manifest first", deleted)
			}
			for key := range objects(t, second) {
				t.Errorf("left in the second store: %s", key)
			}
			if left := objects(t, first); len(left) != 3 {
				t.Errorf("%d objects are left, want the 3 of the other backup", len(left))
			}
			fetched(t, r, keep, []byte("db"))
			if err := r.Delete(t.Context(), snap); err != nil {
				t.Errorf("deleting what is gone: %v", err)
			}
		})
	}
}

// TestDeleteCutOff: whenever a deletion stops, no backup is listed without its data.
func TestDeleteCutOff(t *testing.T) {
	for stop := range 4 {
		inner, n := memory.New(nil), 0
		r := open(t, Options{Stores: named(storagetest.Break(inner, storagetest.Faults{Delete: func(string) error {
			if n++; n > stop {
				return storagetest.ErrInjected
			}
			return nil
		}}))})
		snap, _ := take(t, r, testTime, 100, []byte("db"))
		err := r.Delete(t.Context(), snap)
		if (err != nil) != (stop < 3) {
			t.Errorf("stopped after %d deletions: %v", stop, err)
		}
		for _, s := range list(t, r) {
			if stop > 0 {
				t.Errorf("stopped after %d deletions: still listed", stop)
			}
			fetched(t, r, s, []byte("db"))
		}
	}
}

// TestDeleteLocked: a locked backup is reported and kept whole; other stores delete theirs.
func TestDeleteLocked(t *testing.T) {
	for name, kind := range map[string]error{"locked": storage.ErrLocked, "denied": storage.ErrDenied} {
		locked, second := memory.New(nil), memory.New(nil)
		r := open(t, Options{Stores: named(storagetest.Break(locked, storagetest.Faults{Delete: refuse("", kind)}), second)})
		snap, _ := take(t, r, testTime, 100, []byte("db"))
		if err := r.Copy(t.Context(), snap, "offsite", nil); err != nil {
			t.Fatal(err)
		}
		before := objects(t, locked)
		wantError(t, name, r.Delete(t.Context(), list(t, r)[0]), kind, "store main", snap.ID)
		unchanged(t, name, locked, before)
		if left := objects(t, second); len(left) > 0 {
			t.Errorf("%s: %d objects are left in the other store", name, len(left))
		}
		fetched(t, r, list(t, r)[0], []byte("db"))
	}
}

func TestHeld(t *testing.T) {
	s, other := memory.New(nil), memory.New(nil)
	r := open(t, Options{Stores: named(s, other), SweepAfter: time.Nanosecond})
	snap, _ := take(t, r, testTime, 100, []byte("db"))
	u := begin(t, r, testTime, 101)
	if _, err := u.Data(t.Context(), from([]byte("db"))); err != nil {
		t.Fatal(err)
	}
	hold := catalog.Hold{Run: testRun, Cluster: "dcs", Owner: "root@host", Started: testTime}
	// In any store, also in one that the backup is not in.
	if err := open(t, Options{Stores: named(other)}).CreateHold(t.Context(), hold); err != nil {
		t.Fatal(err)
	}
	// The run goes on in another process: the hold is there already.
	again := hold
	again.Owner = "another@host"
	if err := open(t, Options{Stores: named(other)}).CreateHold(t.Context(), again); err != nil {
		t.Errorf("the same run's hold once more: %v", err)
	}
	before := objects(t, s)
	wantError(t, "delete", r.Delete(t.Context(), snap), ErrHeld, testRun, "store offsite", "requorum restore dcs --resume", "requorum rollback dcs")
	_, err := r.Sweep(t.Context())
	wantError(t, "sweep", err, ErrHeld, testRun)
	unchanged(t, "while held", s, before)
	if holds, err := r.Holds(t.Context()); err != nil || len(holds) != 1 || holds[0] != hold {
		t.Errorf("holds: %+v, %v", holds, err)
	}

	// If a store cannot say, nothing is deleted either.
	blind := open(t, Options{Stores: named(s, storagetest.Refused(other, storage.ErrUnreachable)), SweepAfter: time.Nanosecond})
	wantError(t, "delete", blind.Delete(t.Context(), snap), storage.ErrUnreachable)
	_, err = blind.Sweep(t.Context())
	wantError(t, "sweep", err, storage.ErrUnreachable)
	unchanged(t, "while unknown", s, before)

	for range 2 {
		if err := r.ReleaseHold(t.Context(), testRun); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Delete(t.Context(), snap); err != nil {
		t.Error(err)
	}
	if err := r.CreateHold(t.Context(), catalog.Hold{Run: "../up"}); err == nil {
		t.Error("a hold of a run without an id was created")
	}
}

// TestSweep goes by the store's clock: that of the program is far off.
func TestSweep(t *testing.T) {
	clock := testTime
	s := memory.New(func() time.Time { return clock })
	r := open(t, Options{Path: "p", Stores: named(s), SweepAfter: 24 * time.Hour, Now: func() time.Time { return testTime.AddDate(5, 0, 0) }})
	upload := func(revision int64, facts bool) string {
		u := begin(t, r, testTime, revision)
		if _, err := u.Data(t.Context(), from([]byte("db"))); err != nil {
			t.Fatal(err)
		}
		if facts {
			clock = clock.Add(time.Hour)
			if err := u.Facts(t.Context(), revision, testFacts); err != nil {
				t.Fatal(err)
			}
			clock = clock.Add(-time.Hour)
		}
		return u.Snapshot().ID
	}
	whole, _ := take(t, r, testTime, 100, []byte("db"))
	old := upload(101, false)
	resumed := upload(102, true) // its newest object is an hour younger
	for _, key := range []string{"p/snapshots/readme", "p/snapshots/" + testLine + "/other/db.zst", "p/other", "q/x"} {
		storagetest.Put(t, s, key, []byte("none of ours"))
	}
	if err := r.Record(t.Context(), catalog.Run{ID: testRun, Kind: "backup", Outcome: "ok", Started: testTime}); err != nil {
		t.Fatal(err)
	}
	clock = clock.Add(24*time.Hour + 30*time.Minute)
	young := upload(103, false)

	before := objects(t, s)
	leftovers, err := r.Leftovers(t.Context())
	if err != nil || len(leftovers) != 1 || !strings.Contains(leftovers[0].Key, old) || leftovers[0].Age != 24*time.Hour+30*time.Minute || leftovers[0].Bytes == 0 || leftovers[0].Store != "main" {
		t.Fatalf("leftovers: %+v, %v; want that of %s", leftovers, err, old)
	}
	unchanged(t, "looking for leftovers", s, before)
	swept, err := r.Sweep(t.Context())
	if err != nil || len(swept) != 1 || swept[0].Err != nil {
		t.Fatalf("swept %+v, %v", swept, err)
	}
	after := objects(t, s)
	if len(after) != len(before)-1 {
		t.Errorf("%d of %d objects are left, want one less", len(after), len(before))
	}
	for _, id := range []string{whole.ID, resumed, young} {
		if !slices.ContainsFunc(storagetest.Keys(t, s, "", ""), func(key string) bool { return strings.Contains(key, id) }) {
			t.Errorf("%s was swept", id)
		}
	}
	fetched(t, r, whole, []byte("db"))
	clock = clock.Add(time.Hour)
	if swept, err := r.Sweep(t.Context()); err != nil || len(swept) != 1 || !strings.Contains(swept[0].Key, resumed) {
		t.Errorf("an hour later: swept %+v, %v; want that of %s", swept, err, resumed)
	}
}

// TestSweepCommitted: a manifest that appears while a sweep runs saves its backup.
func TestSweepCommitted(t *testing.T) {
	clock := testTime
	s := memory.New(func() time.Time { return clock })
	r := open(t, Options{Stores: named(s), SweepAfter: time.Hour})
	u := begin(t, r, testTime, 100)
	if _, err := u.Data(t.Context(), from([]byte("db"))); err != nil {
		t.Fatal(err)
	}
	clock = clock.Add(2 * time.Hour)
	leftovers, err := r.Leftovers(t.Context())
	if err != nil || len(leftovers) != 1 {
		t.Fatalf("%+v, %v", leftovers, err)
	}
	if _, err := u.Commit(t.Context(), testManifest(100)); err != nil {
		t.Fatal(err)
	}
	if err := leftovers[0].remove(t.Context()); err == nil {
		t.Error("a committed backup was removed without an error")
	}
	fetched(t, r, list(t, r)[0], []byte("db"))
}

func TestSweepReports(t *testing.T) {
	clock := testTime
	s := memory.New(func() time.Time { return clock })
	locked := storagetest.Break(s, storagetest.Faults{Delete: refuse("", storage.ErrLocked)})
	down := storagetest.Break(memory.New(nil), storagetest.Faults{List: func(prefix, _ string) error { return refuse("snapshots", storage.ErrUnreachable)(prefix) }})
	r := open(t, Options{Stores: named(locked, down), SweepAfter: time.Hour})
	u := begin(t, r, testTime, 100)
	if _, err := u.Data(t.Context(), from([]byte("db"))); err != nil {
		t.Fatal(err)
	}
	clock = clock.Add(2 * time.Hour)
	swept, err := r.Sweep(t.Context())
	wantError(t, "a store that is down", err, storage.ErrUnreachable, "store offsite")
	if len(swept) != 1 || !errors.Is(swept[0].Err, storage.ErrLocked) {
		t.Errorf("swept %+v, want the locked one with its reason", swept)
	}
	timeless := open(t, Options{Stores: named(struct{ storage.Store }{s}), SweepAfter: time.Hour})
	swept, err = timeless.Sweep(t.Context())
	wantError(t, "a store without a clock", err, errors.ErrUnsupported)
	if len(swept) > 0 {
		t.Errorf("swept %+v although their age is unknown", swept)
	}
}

// TestSweepUnfinished removes uploads that never became objects, of this repository only.
func TestSweepUnfinished(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s, err := file.New(file.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	// Two uploads hang: that of this repository, and that of another one in the same store.
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	waiting := make(chan struct{}, 2)
	for _, key := range []string{"dcs/snapshots/x/db.zst", "other/snapshots/x/db.zst"} {
		go func() {
			_, err := s.Put(ctx, key, &signalling{waiting, &blocked{ctx: ctx}})
			done <- err
		}()
	}
	<-waiting
	<-waiting
	old := testTime.Add(-1000 * time.Hour)
	err = filepath.WalkDir(dir, func(name string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(name, old, old)
	})
	if err != nil {
		t.Fatal(err)
	}
	count := func() (n int) {
		for _, err := range s.Unfinished(t.Context(), "") {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		return n
	}
	swept, err := open(t, Options{Stores: named(s)}).Sweep(t.Context())
	if err != nil || len(swept) != 1 || swept[0].Key != "snapshots/x/db.zst" || swept[0].Err != nil || swept[0].Age < DefaultSweepAfter {
		t.Errorf("swept %+v, %v", swept, err)
	}
	if n := count(); n != 1 {
		t.Errorf("%d unfinished uploads are left, want that of the other repository", n)
	}
	cancel()
	<-done
	<-done
}

// signalling tells when it is first read.
type signalling struct {
	to chan struct{}
	r  io.Reader
}

func (s *signalling) Read(p []byte) (int, error) {
	s.to <- struct{}{}
	return s.r.Read(p)
}

// TestUnfinishedUnknown: a store that cannot say what is unfinished is an error, not a clean bill.
func TestUnfinishedUnknown(t *testing.T) {
	r := open(t, Options{Stores: named(blindSweeper{memory.New(nil)})})
	_, err := r.Sweep(t.Context())
	wantError(t, "unfinished uploads cannot be listed", err, storage.ErrDenied, "store main")
}

type blindSweeper struct{ *memory.Store }

func (blindSweeper) Unfinished(context.Context, string) iter.Seq2[storage.Unfinished, error] {
	return func(yield func(storage.Unfinished, error) bool) { yield(storage.Unfinished{}, storage.ErrDenied) }
}

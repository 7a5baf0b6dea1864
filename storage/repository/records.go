package repository

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/catalog"
)

// readers is how many small objects are read at once.
const readers = 8

// Record writes the record of a run to every store. An error names the stores that did not take it; [ErrNoStore] if none did.
func (r *Repository) Record(ctx context.Context, run catalog.Run) error {
	if err := run.Check(); err != nil {
		return err
	}
	if err := r.putAll(ctx, catalog.RunKey(run), run, put); err != nil {
		return fmt.Errorf("record of run %s: %w", run.ID, err)
	}
	return nil
}

// Runs returns the records of runs that started at since or later, the oldest first. What could not be read comes as an error
// beside the others.
func (r *Repository) Runs(ctx context.Context, since time.Time) ([]catalog.Run, error) {
	return r.runs(ctx, since, 0)
}

// RunsOf is [Repository.Runs] for one kind. It reads no records of other kinds.
func (r *Repository) RunsOf(ctx context.Context, kind string, since time.Time) ([]catalog.Run, error) {
	of := func(key string) bool {
		run, ok := catalog.ParseRunKey(key)
		return ok && run.Kind == kind
	}
	return readAll(ctx, r, "records", catalog.RunsPrefix, catalog.RunsSince(since), of, 0, catalog.ParseRun)
}

// runs reads only the newest records if limit is above zero.
func (r *Repository) runs(ctx context.Context, since time.Time, limit int) ([]catalog.Run, error) {
	return readAll(ctx, r, "records", catalog.RunsPrefix, catalog.RunsSince(since), isJSON, limit, catalog.ParseRun)
}

func isJSON(key string) bool { return strings.HasSuffix(key, ".json") }

// Recorded returns what the keys of records say of the runs that started at since or later, the oldest first: id, kind, outcome and
// start. It reads no record, so it is what to ask when the question is only whether something ran. Stores that cannot be listed come as an
// error beside what the others hold.
func (r *Repository) Recorded(ctx context.Context, since time.Time) ([]catalog.Run, error) {
	found := make([][]string, len(r.stores))
	err := r.each(r.stores, func(i int, s Named) error {
		for o, err := range s.Store.List(ctx, catalog.RunsPrefix, catalog.RunsSince(since)) {
			if err != nil {
				return err
			}
			found[i] = append(found[i], o.Key)
		}
		return nil
	})
	keys := slices.Concat(found...)
	slices.Sort(keys)
	var runs []catalog.Run
	for _, key := range slices.Compact(keys) {
		if run, ok := catalog.ParseRunKey(key); ok {
			run.Cluster = r.cluster
			runs = append(runs, run)
		}
	}
	if err != nil {
		return runs, fmt.Errorf("records of %s: %w", r.cluster, err)
	}
	return runs, nil
}

// CreateHold says in every store that a restore is under way. A store that has the run's hold already, since the run goes on
// after an interruption, keeps it as it is. An error names the stores that did not take it; [ErrNoStore] if none did.
func (r *Repository) CreateHold(ctx context.Context, h catalog.Hold) error {
	key := catalog.HoldKey(h.Run)
	if _, ok := catalog.ParseHoldKey(key); !ok {
		return fmt.Errorf("hold of run %q: not the id of a run", h.Run)
	}
	err := r.putAll(ctx, key, h, func(ctx context.Context, s storage.Store, key string, b []byte) error {
		if err := put(ctx, s, key, b); !errors.Is(err, storage.ErrExists) {
			return err
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("hold of run %s: %w", h.Run, err)
	}
	return nil
}

// Holds returns the restores that are under way according to any store. What could not be read comes as an error beside the others.
func (r *Repository) Holds(ctx context.Context) ([]catalog.Hold, error) {
	return readAll(ctx, r, "holds", catalog.HoldsPrefix, "", isJSON, 0, catalog.ParseHold)
}

// ReleaseHold removes the hold of a run from every store. None being there is no error.
func (r *Repository) ReleaseHold(ctx context.Context, run string) error {
	key := catalog.HoldKey(run)
	if _, ok := catalog.ParseHoldKey(key); !ok {
		return fmt.Errorf("hold of run %q: not the id of a run", run)
	}
	err := r.each(r.stores, func(_ int, s Named) error { return s.Store.Delete(ctx, key) })
	if err != nil {
		return fmt.Errorf("releasing the hold of run %s: %w", run, err)
	}
	return nil
}

// held returns ErrHeld if a hold is in any store, and an error if that cannot be known. Whether it can be read
// does not matter.
func (r *Repository) held(ctx context.Context) error {
	holds := make([]string, len(r.stores))
	err := r.each(r.stores, func(i int, s Named) error {
		for o, err := range s.Store.List(ctx, catalog.HoldsPrefix, "") {
			if err != nil {
				return err
			}
			if run, ok := catalog.ParseHoldKey(o.Key); ok {
				holds[i] = fmt.Sprintf("run %s since %s in store %s", run, o.Modified.UTC().Format(time.RFC3339), s.Name)
			}
		}
		return nil
	})
	if i := slices.IndexFunc(holds, func(s string) bool { return s != "" }); i >= 0 {
		return fmt.Errorf("%w: %s; finish it with requorum restore %[3]s --resume or undo it with requorum rollback %[3]s", ErrHeld, holds[i], r.cluster)
	}
	if err != nil {
		return fmt.Errorf("looking for holds: %w", err)
	}
	return nil
}

// readAll reads the wanted objects below prefix whose keys are greater than after, each from the first store that gives it, in the order of
// their keys. With a limit only the last ones are read.
func readAll[T any](ctx context.Context, r *Repository, what, prefix, after string, wanted func(key string) bool, limit int, parse func(key string, b []byte) (T, error)) ([]T, error) {
	keys := make([][]string, len(r.stores))
	errList := r.each(r.stores, func(i int, s Named) error {
		for o, err := range s.Store.List(ctx, prefix, after) {
			if err != nil {
				return err
			}
			if wanted(o.Key) {
				keys[i] = append(keys[i], o.Key)
			}
		}
		return nil
	})
	holders := map[string][]Named{}
	var all []string
	for i, s := range r.stores {
		for _, key := range keys[i] {
			if holders[key] == nil {
				all = append(all, key)
			}
			holders[key] = append(holders[key], s)
		}
	}
	slices.Sort(all)
	if limit > 0 && len(all) > limit {
		all = all[len(all)-limit:]
	}
	values, errs := make([]T, len(all)), make([]error, len(all))
	slots := make(chan struct{}, readers)
	var wg sync.WaitGroup
	for i, key := range all {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			values[i], errs[i] = readOne(ctx, holders[key], key, parse)
		})
	}
	wg.Wait()
	var good []T
	for i, v := range values {
		if errs[i] == nil {
			good = append(good, v)
		}
	}
	if err := errors.Join(errList, errors.Join(errs...)); err != nil {
		return good, fmt.Errorf("%s of %s: %w", what, r.cluster, err)
	}
	return good, nil
}

func readOne[T any](ctx context.Context, stores []Named, key string, parse func(key string, b []byte) (T, error)) (value T, err error) {
	for _, s := range stores {
		b, getErr := get(ctx, s.Store, key)
		if getErr == nil {
			value, getErr = parse(key, b)
		}
		if getErr == nil {
			return value, nil
		}
		err = errors.Join(err, &StoreError{s.Name, getErr})
	}
	return value, err
}

// Mark records a verdict on the copies in the stores that snap names: verified or failed. It is a tiny object; a listing shows
// it, and retention goes by it. Older markers of the same verdict are removed where that is allowed.
//
// An error means that the verdict is known only to the caller, which should warn: it names the stores that did not take it.
func (r *Repository) Mark(ctx context.Context, snap catalog.Snapshot, ok bool) error {
	stores, err := r.of(snap.Stores)
	if err != nil {
		return err
	}
	now := r.now().UTC().Truncate(time.Second)
	key, older, word := snap.VerifiedKey(now), "", "verified"
	if ok && !snap.VerifiedAt.IsZero() {
		older = snap.VerifiedKey(snap.VerifiedAt)
	}
	if !ok {
		key, word = snap.FailedKey(now), "failed"
		if !snap.FailedAt.IsZero() {
			older = snap.FailedKey(snap.FailedAt)
		}
	}
	return r.mark(ctx, stores, snap, key, older, word+" "+now.Format(time.RFC3339))
}

// MarkDrilled records in the stores that snap names what a drill found about it; see [Repository.Mark]. The older marker of the same finding that
// snap knows is removed where that is allowed.
func (r *Repository) MarkDrilled(ctx context.Context, snap catalog.Snapshot, found catalog.Rehearsal) error {
	stores, err := r.of(snap.Stores)
	if err != nil {
		return err
	}
	if err := found.Check(); err != nil {
		return err
	}
	older, word := "", "restored"
	if found.Failed {
		word = "failed"
	}
	if snap.Drilled.Known() && snap.Drilled.Failed == found.Failed {
		older = snap.DrilledKey(snap.Drilled)
	}
	return r.mark(ctx, stores, snap, snap.DrilledKey(found), older, fmt.Sprintf("%s in drill %s of %s", word, found.ID, found.Time.UTC().Format(time.RFC3339)))
}

// mark writes a marker and removes the older one that it takes the place of, if there is one.
func (r *Repository) mark(ctx context.Context, stores []Named, snap catalog.Snapshot, key, older, words string) error {
	err := r.each(stores, func(_ int, s Named) error {
		if err := put(ctx, s.Store, key, []byte(words+"\n")); err != nil {
			return err
		}
		if older == "" || older >= key {
			return nil
		}
		if err := s.Store.Delete(ctx, older); err != nil && !errors.Is(err, storage.ErrDenied) && !errors.Is(err, storage.ErrLocked) {
			r.log.Warn("an older verdict could not be removed", "store", s.Name, "key", older, "error", err)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("the verdict %q on backup %s could not be recorded, so list and retention do not know it (writing %s needs the right to put): %w",
			words, snap.ID, key, err)
	}
	return nil
}

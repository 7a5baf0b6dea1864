package repository

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/catalog"
)

// Delete removes a backup from the stores that snap names: in each the manifest first, then the rest. Cut off half-way it
// leaves what a sweep removes, never a backup without its data.
//
// While a restore holds the repository it is [ErrHeld] and nothing is deleted. A store whose manifest is locked
// (storage.ErrLocked) or may not be deleted keeps all of the backup. The error names each store that kept something; the others
// have deleted their copy.
func (r *Repository) Delete(ctx context.Context, snap catalog.Snapshot) error {
	stores, err := r.of(snap.Stores)
	if err != nil {
		return err
	}
	if err := r.held(ctx); err != nil {
		return fmt.Errorf("deleting %s: %w", snap.ID, err)
	}
	err = r.each(stores, func(_ int, s Named) error {
		if err := s.Store.Delete(ctx, snap.ManifestKey()); err != nil {
			return err
		}
		return remove(ctx, s, snap)
	})
	if err != nil {
		return fmt.Errorf("deleting %s: %w", snap.ID, err)
	}
	return nil
}

// remove deletes all objects of a backup that has no manifest any more. If one has appeared, it is left alone.
func remove(ctx context.Context, s Named, snap catalog.Snapshot) error {
	there, err := sizes(ctx, s, snap)
	if err != nil {
		return err
	}
	keys := slices.Sorted(maps.Keys(there))
	if slices.ContainsFunc(keys, catalog.IsManifest) {
		return fmt.Errorf("backup %s has a manifest by now: it is left alone", snap.ID)
	}
	var errs []error
	for _, key := range keys {
		errs = append(errs, s.Store.Delete(ctx, key))
	}
	return errors.Join(errs...)
}

// Leftover is what an upload that never finished has left.
type Leftover struct {
	Store string
	Key   string        // of the unfinished upload, or the prefix of objects without a manifest
	Bytes int64         // 0 for an unfinished upload, whose size a store does not tell
	Age   time.Duration // by the store's own clock

	remove func(context.Context) error
}

// Swept is a leftover and what became of it.
type Swept struct {
	Leftover
	Err error // why it is still there, or nil
}

// Leftovers returns what Sweep would remove: objects without a manifest and unfinished uploads, all older than
// SweepAfter by the store's own clock. The newest object of a backup decides. A store that cannot be looked through comes as a
// [StoreError] beside the others' leftovers.
func (r *Repository) Leftovers(ctx context.Context) ([]Leftover, error) {
	found := make([][]Leftover, len(r.stores))
	err := r.each(r.stores, func(i int, s Named) (err error) {
		found[i], err = r.leftovers(ctx, s)
		return err
	})
	if err != nil {
		err = fmt.Errorf("looking for leftovers of %s: %w", r.cluster, err)
	}
	return slices.Concat(found...), err
}

func (r *Repository) leftovers(ctx context.Context, s Named) ([]Leftover, error) {
	snaps, err := r.scan(ctx, s)
	if err != nil {
		return nil, err
	}
	sweeper := storage.AsSweeper(s.Store)
	var now time.Time // asked only if there is something to judge
	var found []Leftover
	for _, snap := range snaps {
		if snap.Committed {
			continue
		}
		if now.IsZero() {
			if now, err = sweeper.Now(ctx); err != nil {
				return nil, fmt.Errorf("the age of leftovers is unknown: %w", err)
			}
		}
		if age := now.Sub(snap.Modified); age > r.sweepAfter {
			found = append(found, Leftover{s.Name, snap.Prefix, snap.StoredBytes, age, func(ctx context.Context) error { return remove(ctx, s, snap) }})
		}
	}
	for u, err := range sweeper.Unfinished(ctx, "") {
		if err != nil {
			return found, err
		}
		if u.Age > r.sweepAfter {
			found = append(found, Leftover{s.Name, u.Key, 0, u.Age, func(ctx context.Context) error { return sweeper.Abort(ctx, u) }})
		}
	}
	return found, nil
}

// Sweep removes what Leftovers returns. It never touches a backup that has a manifest, nor what it does not know. While a restore
// holds the repository it is [ErrHeld] and nothing is removed. What could not be removed, locked or not allowed, says so in
// Swept.Err; the error is about stores that could not be looked through.
func (r *Repository) Sweep(ctx context.Context) ([]Swept, error) {
	if err := r.held(ctx); err != nil {
		return nil, fmt.Errorf("sweeping: %w", err)
	}
	leftovers, err := r.Leftovers(ctx)
	var swept []Swept
	for _, l := range leftovers {
		swept = append(swept, Swept{l, l.remove(ctx)})
	}
	return swept, err
}

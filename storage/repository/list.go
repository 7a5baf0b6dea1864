package repository

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/requorum/requorum/storage/catalog"
)

// Snapshots returns the committed backups of all stores, the oldest first; one that several stores hold is there once. It
// is one pass over each store's listing and reads no manifest.
//
// If a store cannot be listed, the backups of the others come with an error that holds a [StoreError] for each that
// failed. What to do with a part is the caller's to say: it can be shown, and nothing may be deleted because of it.
func (r *Repository) Snapshots(ctx context.Context) ([]catalog.Snapshot, error) {
	found := make([][]catalog.Snapshot, len(r.stores))
	err := r.each(r.stores, func(i int, s Named) (err error) {
		found[i], err = r.scan(ctx, s)
		return err
	})
	if err != nil {
		err = fmt.Errorf("listing backups of %s: %w", r.cluster, err)
	}
	return catalog.Merge(func(yield func(string, []catalog.Snapshot) bool) {
		for i, s := range r.stores {
			if !yield(s.Name, found[i]) {
				return
			}
		}
	}), err
}

// scan lists one store: backups and what uploads left.
func (r *Repository) scan(ctx context.Context, s Named) ([]catalog.Snapshot, error) {
	strange, first := 0, ""
	snaps, err := catalog.Group(entries(s.Store.List(ctx, catalog.SnapshotsPrefix, "")), func(e catalog.Entry) {
		if strange++; first == "" {
			first = e.Key
		}
	})
	if strange > 0 {
		r.log.Warn("objects that are none of a backup lie among the backups; they are left alone", "store", s.Name, "count", strange, "first", first)
	}
	return snaps, err
}

// Find picks the backup that ref asks for; see [catalog.Find] for what ref can be. A store that cannot be listed does not prevent
// a choice among the others' backups; the note then says so.
func (r *Repository) Find(ctx context.Context, ref string, now time.Time) (found catalog.Snapshot, note string, err error) {
	snaps, listErr := r.Snapshots(ctx)
	lines, lineErr := r.Lines(ctx)
	partial := errors.Join(listErr, lineErr)
	if len(snaps) == 0 && partial != nil {
		return catalog.Snapshot{}, "", partial
	}
	found, note, err = catalog.Find(lines, snaps, ref, now)
	if err != nil {
		return catalog.Snapshot{}, "", errors.Join(err, partial)
	}
	if partial != nil {
		if note != "" {
			note += "; "
		}
		note += "not all could be seen: " + partial.Error()
	}
	return found, note, nil
}

// Manifest reads the manifest of a backup, from the first of its stores that gives a good one, and checks that it
// agrees with its key. A bad one is [ErrVerify].
func (r *Repository) Manifest(ctx context.Context, snap catalog.Snapshot) (catalog.Manifest, error) {
	var m catalog.Manifest
	err := r.first(ctx, snap, func(s Named) (err error) {
		m, _, err = r.manifest(ctx, s, snap)
		return err
	})
	if err != nil {
		return catalog.Manifest{}, fmt.Errorf("manifest of %s: %w", snap.ID, err)
	}
	return m, nil
}

// manifest reads the manifest in one store, and gives its bytes too.
func (r *Repository) manifest(ctx context.Context, s Named, snap catalog.Snapshot) (catalog.Manifest, []byte, error) {
	key := snap.ManifestKey()
	b, err := get(ctx, s.Store, key)
	if errors.Is(err, fs.ErrNotExist) {
		return catalog.Manifest{}, nil, &VerifyError{snap.ID, s.Name, key, "missing", "it is not there", err}
	}
	if err != nil {
		return catalog.Manifest{}, nil, err
	}
	m, err := catalog.ParseManifest(b)
	if err == nil {
		err = m.Check(key)
	}
	if err != nil {
		return catalog.Manifest{}, nil, &VerifyError{snap.ID, s.Name, key, "manifest", "it is not the manifest of this backup: " + err.Error(), err}
	}
	return m, b, nil
}

// first runs f for the stores of snap, one after the other, until one succeeds. The error is that of all.
func (r *Repository) first(ctx context.Context, snap catalog.Snapshot, f func(Named) error) error {
	stores, err := r.of(snap.Stores)
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range stores {
		err := f(s)
		if err == nil {
			return nil
		}
		if own, ok := errors.AsType[*localError](err); ok {
			return own.err
		}
		if _, named := errors.AsType[*VerifyError](err); !named {
			err = &StoreError{s.Name, err}
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
		if len(stores) > len(errs) {
			r.log.Warn("this copy cannot be used, trying the next store", "backup", snap.ID, "store", s.Name, "error", err)
		}
	}
	return errors.Join(errs...)
}

// localError is one that trying the next store cannot mend: of this machine's disk, of the caller's reader or context, of the store
// that is written to.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }

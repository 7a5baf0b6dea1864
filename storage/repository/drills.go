package repository

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/requorum/requorum/storage/catalog"
)

// StoredDrill is a drill whose report is stored.
type StoredDrill struct {
	catalog.Drill
	Stores []string // that hold it, in the order of the configuration
}

// StoreDrill writes the files of a drill's report, by their names in package catalog, to every store: the JSON last, which makes the report
// exist. An error names the stores that did not take all of them; [ErrNoStore] if none did.
func (r *Repository) StoreDrill(ctx context.Context, d catalog.Drill, files map[string][]byte) error {
	if err := d.Check(); err != nil {
		return err
	}
	took := make([]bool, len(r.stores))
	err := r.each(r.stores, func(i int, s Named) error {
		for _, file := range []string{catalog.DrillHTML, catalog.DrillSignature, catalog.DrillJSON} {
			if b, ok := files[file]; ok {
				if err := put(ctx, s.Store, d.Key(file), b); err != nil {
					return err
				}
			}
		}
		took[i] = true
		return nil
	})
	switch {
	case err == nil:
		return nil
	case !slices.Contains(took, true):
		return fmt.Errorf("report of drill %s: %w: %w", d.ID, ErrNoStore, err)
	}
	return fmt.Errorf("report of drill %s: %w", d.ID, err)
}

// Drills returns the drills whose reports are stored, the oldest first, from listings alone. Stores that cannot be listed come as an error beside
// what the others hold.
func (r *Repository) Drills(ctx context.Context) ([]StoredDrill, error) {
	found := make([][]catalog.Drill, len(r.stores))
	err := r.each(r.stores, func(i int, s Named) error {
		for o, err := range s.Store.List(ctx, catalog.DrillsPrefix, "") {
			if err != nil {
				return err
			}
			if d, file, ok := catalog.ParseDrillKey(o.Key); ok && file == catalog.DrillJSON {
				found[i] = append(found[i], d)
			}
		}
		return nil
	})
	var all []StoredDrill
	at := map[string]int{}
	for i, s := range r.stores {
		for _, d := range found[i] {
			n, known := at[d.ID]
			if !known {
				n = len(all)
				at[d.ID] = n
				all = append(all, StoredDrill{Drill: d})
			}
			all[n].Stores = append(all[n].Stores, s.Name)
		}
	}
	slices.SortFunc(all, func(a, b StoredDrill) int {
		return strings.Compare(a.Key(catalog.DrillJSON), b.Key(catalog.DrillJSON))
	})
	if err != nil {
		return all, fmt.Errorf("drills of %s: %w", r.cluster, err)
	}
	return all, nil
}

// DrillFile reads one file of a drill's report from the named store, or from the first that gives it if none is named. A file that
// is nowhere is fs.ErrNotExist.
func (r *Repository) DrillFile(ctx context.Context, d catalog.Drill, file, store string) ([]byte, error) {
	var names []string
	if store != "" {
		names = []string{store}
	}
	stores, err := r.of(names)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, s := range stores {
		b, err := get(ctx, s.Store, d.Key(file))
		if err == nil {
			return b, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, &StoreError{s.Name, err})
		}
	}
	if len(errs) == 0 {
		return nil, fmt.Errorf("report of drill %s: %s: %w", d.ID, d.Key(file), fs.ErrNotExist)
	}
	return nil, fmt.Errorf("report of drill %s: %w", d.ID, errors.Join(errs...))
}

// DrillFailure returns why a drill failed, from its record: the step and what was found there. One that did not fail, or that left no
// record, is fs.ErrNotExist.
func (r *Repository) DrillFailure(ctx context.Context, d catalog.Drill) (string, error) {
	key := d.FailureKey()
	run, err := readOne(ctx, r.stores, key, catalog.ParseRun)
	if err != nil {
		return "", fmt.Errorf("record of drill %s: %w", d.ID, err)
	}
	return run.Error, nil
}

package repository

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/catalog"
)

// Spent is the records in one store that have served their purpose.
type Spent struct {
	Store string
	Runs  []catalog.Run // the oldest first; of each what its key says
}

// Spent returns of each store the records that [catalog.Spent] names among those of runs that started before a moment. The moment is moved back by
// as much as the store's own clock is behind ours. A store that cannot be looked through comes as a [StoreError] beside the others.
func (r *Repository) Spent(ctx context.Context, before time.Time) ([]Spent, error) {
	found := make([]Spent, len(r.stores))
	err := r.each(r.stores, func(i int, s Named) (err error) {
		found[i].Store = s.Name
		found[i].Runs, err = r.spent(ctx, s, before)
		return err
	})
	if err != nil {
		err = fmt.Errorf("looking for old records of %s: %w", r.cluster, err)
	}
	return slices.DeleteFunc(found, func(s Spent) bool { return len(s.Runs) == 0 }), err
}

func (r *Repository) spent(ctx context.Context, s Named, before time.Time) ([]catalog.Run, error) {
	runs, err := recordsBefore(ctx, s, before)
	if err != nil || len(catalog.Spent(runs)) == 0 {
		return nil, err
	}
	now, err := storage.AsSweeper(s.Store).Now(ctx)
	if err != nil {
		return nil, fmt.Errorf("the age of records is unknown: %w", err)
	}
	if behind := r.now().Sub(now); behind > 0 {
		before = before.Add(-behind)
	}
	old := slices.DeleteFunc(runs, func(r catalog.Run) bool { return !r.Started.Before(before) })
	return catalog.Spent(old), nil
}

// recordsBefore are the records in a store of runs that started before a moment, the oldest first. The listing ends there.
func recordsBefore(ctx context.Context, s Named, before time.Time) (runs []catalog.Run, err error) {
	end := catalog.RunsSince(before)
	for o, err := range s.Store.List(ctx, catalog.RunsPrefix, "") {
		if err != nil {
			return nil, err
		}
		if o.Key >= end {
			break
		}
		if run, ok := catalog.ParseRunKey(o.Key); ok {
			runs = append(runs, run)
		}
	}
	return runs, nil
}

// RemoveSpent removes what [Repository.Spent] returned of one store, and returns what is gone. While a restore holds the repository it is [ErrHeld]
// and nothing is removed. After the first record that cannot be removed no more are begun.
func (r *Repository) RemoveSpent(ctx context.Context, of Spent) (removed []catalog.Run, err error) {
	stores, err := r.of([]string{of.Store})
	if err != nil {
		return nil, err
	}
	if err := r.held(ctx); err != nil {
		return nil, fmt.Errorf("removing old records: %w", err)
	}
	s := stores[0]
	gone := make([]bool, len(of.Runs))
	group, inside := errgroup.WithContext(ctx)
	group.SetLimit(readers)
	for i, run := range of.Runs {
		group.Go(func() error {
			if inside.Err() != nil {
				return context.Cause(inside)
			}
			err := s.Store.Delete(inside, catalog.RunKey(run))
			gone[i] = err == nil
			return err
		})
	}
	err = group.Wait()
	for i, run := range of.Runs {
		if gone[i] {
			removed = append(removed, run)
		}
	}
	if err != nil {
		return removed, fmt.Errorf("removing old records: %w", &StoreError{s.Name, err})
	}
	return removed, nil
}

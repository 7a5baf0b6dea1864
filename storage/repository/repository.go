// Package repository keeps the backups of one cluster in its stores: it lists, writes, reads back to a checked file, copies,
// deletes and sweeps them, and keeps the lines, records and holds beside them. It is the only place where
// catalog, storage and seal meet. DESIGN.md beside this file has the invariants.
package repository

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"time"

	"filippo.io/age"

	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/catalog"
)

// DefaultSweepAfter is how old leftovers are at least before they are swept: longer than any run.
const DefaultSweepAfter = 7 * 24 * time.Hour

// maxSmall bounds what is read of an object that is held in memory: manifests, lines, records, holds. In bytes.
const maxSmall = 16 << 20

var (
	// ErrVerify means that what is stored is not what the manifest says.
	ErrVerify = errors.New("verification failed")

	// ErrNoStore means that none of the stores did what was asked; what each of them said is beside it.
	ErrNoStore = errors.New("no store is left")

	// ErrHeld means that a restore is under way, so nothing is deleted.
	ErrHeld = errors.New("a restore is under way")
)

// Named is a store under the name that the configuration gives it.
type Named struct {
	Name  string
	Store storage.Store
}

// Options say where the backups of a cluster are.
type Options struct {
	Cluster string
	Path    string  // in each store; default the cluster's name
	Stores  []Named // the first that accepts gets a new backup

	Recipients []age.Recipient // encrypt to; none: plain
	Identities []age.Identity  // decrypt with; none: what is encrypted cannot be read

	Log        *slog.Logger     // default: nothing is logged
	Now        func() time.Time // default time.Now
	SweepAfter time.Duration    // default DefaultSweepAfter
}

// Repository is the backups of one cluster. It is safe for concurrent use, also by several processes at once.
type Repository struct {
	cluster    string
	stores     []Named // each seen from the path on
	recipients []age.Recipient
	identities []age.Identity
	log        *slog.Logger
	now        func() time.Time
	sweepAfter time.Duration
}

// New returns the repository that o describes. It touches no store.
func New(o Options) (*Repository, error) {
	r := &Repository{cluster: o.Cluster, recipients: o.Recipients, identities: o.Identities, log: o.Log, now: o.Now, sweepAfter: o.SweepAfter}
	if o.Cluster == "" {
		return nil, errors.New("repository: no cluster is named")
	}
	path := o.Path
	if path == "" {
		path = o.Cluster
	}
	if err := storage.CheckKey(path); err != nil {
		return nil, fmt.Errorf("repository of cluster %s: path: %w", o.Cluster, err)
	}
	if len(o.Stores) == 0 {
		return nil, fmt.Errorf("repository of cluster %s: no store is configured", o.Cluster)
	}
	seen := map[string]bool{}
	for _, s := range o.Stores {
		if s.Name == "" || s.Store == nil || seen[s.Name] {
			return nil, fmt.Errorf("repository of cluster %s: store %q: each needs a name of its own", o.Cluster, s.Name)
		}
		seen[s.Name] = true
		r.stores = append(r.stores, Named{s.Name, storage.Prefix(s.Store, path)})
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.now == nil {
		r.now = time.Now
	}
	if r.sweepAfter <= 0 {
		r.sweepAfter = DefaultSweepAfter
	}
	return r, nil
}

// Cluster returns the name of the cluster.
func (r *Repository) Cluster() string { return r.cluster }

// Stores returns the names of the stores in their order.
func (r *Repository) Stores() []string {
	var names []string
	for _, s := range r.stores {
		names = append(names, s.Name)
	}
	return names
}

// StoreError is what went wrong in one store while others may have done what was asked.
type StoreError struct {
	Store string
	Err   error
}

func (e *StoreError) Error() string { return "store " + e.Store + ": " + e.Err.Error() }

// Unwrap returns the error of the store.
func (e *StoreError) Unwrap() error { return e.Err }

// StoreErrors are all that an error, joined and wrapped as it may be, holds of what went wrong in single stores.
func StoreErrors(err error) []*StoreError {
	switch e := err.(type) { //nolint:errorlint // it walks the tree itself
	case *StoreError:
		return []*StoreError{e}
	case interface{ Unwrap() error }:
		return StoreErrors(e.Unwrap())
	case interface{ Unwrap() []error }:
		var all []*StoreError
		for _, inner := range e.Unwrap() {
			all = append(all, StoreErrors(inner)...)
		}
		return all
	}
	return nil
}

// of returns the named stores in the order of the configuration, or all when none is named.
func (r *Repository) of(names []string) ([]Named, error) {
	if len(names) == 0 {
		return r.stores, nil
	}
	var stores []Named
	for _, s := range r.stores {
		if slices.Contains(names, s.Name) {
			stores = append(stores, s)
		}
	}
	if len(stores) == 0 {
		return nil, fmt.Errorf("%w: none of the configured stores %q is among %q", ErrNoStore, r.Stores(), names)
	}
	return stores, nil
}

// each runs f for every store at once and returns the errors as StoreErrors, joined.
func (r *Repository) each(stores []Named, f func(i int, s Named) error) error {
	errs := make([]error, len(stores))
	var wg sync.WaitGroup
	for i, s := range stores {
		wg.Go(func() {
			if err := f(i, s); err != nil {
				errs[i] = &StoreError{s.Name, err}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// putAll writes a small object to every store, by put. The error names those that did not take it; if none did, it is also
// ErrNoStore.
func (r *Repository) putAll(ctx context.Context, key string, value any, put func(context.Context, storage.Store, string, []byte) error) error {
	b, err := encode(value)
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	took := make([]bool, len(r.stores))
	err = r.each(r.stores, func(i int, s Named) error {
		err := put(ctx, s.Store, key, b)
		took[i] = err == nil
		return err
	})
	if !slices.Contains(took, true) {
		return fmt.Errorf("%w: %s was not written: %w", ErrNoStore, key, err)
	}
	return err
}

func encode(value any) ([]byte, error) {
	b, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(b, '\n'), nil
}

// put writes a small object whose key carries an id of its own: if the key is taken, or the answer was lost, it is ours
// when it has our size. It needs no right to read.
func put(ctx context.Context, s storage.Store, key string, b []byte) error {
	_, err := s.Put(ctx, key, bytes.NewReader(b))
	if err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTime)
	defer cancel()
	for o, listErr := range s.List(ctx, key, "") {
		if listErr == nil && o.Key == key && o.Size == int64(len(b)) {
			return nil
		}
		break
	}
	return err
}

// get reads a small object whole.
func get(ctx context.Context, s storage.Store, key string) ([]byte, error) {
	body, err := s.Get(ctx, key, 0)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	b, err := io.ReadAll(io.LimitReader(body, maxSmall+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxSmall {
		return nil, fmt.Errorf("%s: longer than %d bytes: it is none of ours", key, maxSmall)
	}
	return b, nil
}

// entries turns a listing into the catalog's form.
func entries(objects iter.Seq2[storage.Object, error]) iter.Seq2[catalog.Entry, error] {
	return func(yield func(catalog.Entry, error) bool) {
		for o, err := range objects {
			if !yield(catalog.Entry{Key: o.Key, Size: o.Size, Modified: o.Modified}, err) {
				return
			}
		}
	}
}

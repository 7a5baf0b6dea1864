package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/repository"
)

// ExpireOptions say where retention applies.
type ExpireOptions struct {
	Repository *repository.Repository

	ID                  string // of this run; one is made if it is empty
	Version, Host, User string // for the record of the run

	Log *slog.Logger
	Now func() time.Time
}

// A Verdict is what retention says of one backup in one store, and what became of that.
type Verdict struct {
	Store string `json:"store"`
	catalog.Decision
	Deleted bool  `json:"deleted"`
	Locked  bool  `json:"locked"` // it should go, but a retention period or a legal hold of the store keeps it
	Err     error `json:"-"`      // why it is still there
}

// Records are old records of runs in one store, and what became of them.
type Records struct {
	repository.Spent
	Removed []catalog.Run
	Err     error // why others are still there, or nil
}

// An Expiry is what became of the backups, leftovers and records of a cluster.
type Expiry struct {
	Verdicts []Verdict
	Swept    []repository.Swept // in a dry run what would be swept, with no error
	Records  []Records          // stores that have none to remove are left out; in a dry run what would be removed
}

const (
	// RecordsFor is how long the records of routine runs are kept; see [catalog.Spent].
	RecordsFor = 90 * 24 * time.Hour
	// recordsAtOnce is how many of them one run removes from a store at most: a first one must not take hours.
	recordsAtOnce = 5000
)

// Expire applies the policy to each store by itself, sweeps what uploads that never finished have left, and removes what routine runs have recorded
// more than RecordsFor ago. A dry run only says what it would do, and why.
//
// Records since the newest good backup of the current line stay however old they are, and so do all where there is none: they say which revisions the
// cluster has served.
// Where records may not be deleted, or are locked, they stay, which is no error.
//
// Whatever cannot be read - a listing, the lines, the holds - ends it before the first deletion: nothing is decided on a part. While
// a restore is under way it is ErrHeld; a dry run goes on. A locked object is kept and no error. With ErrPartial the expiry is
// valid, and some deletion or sweep failed.
func Expire(ctx context.Context, policy catalog.Policy, dryRun bool, o ExpireOptions) (Expiry, error) {
	log, now := orDiscard(o.Log), orNow(o.Now)
	run := catalog.Run{
		ID: cmp.Or(o.ID, catalog.NewID(catalog.KindRun)), Kind: "expire", Cluster: o.Repository.Cluster(), Host: o.Host, User: o.User, Version: o.Version,
		Started: now().UTC(),
	}
	out, err := expire(ctx, policy, dryRun, o.Repository, now())
	if dryRun || errors.Is(err, ErrHeld) {
		return out, err
	}
	if err := leaveRecord(ctx, o.Repository, run, now(), err); err != nil {
		log.Warn("the record of this run is not in every store", "error", err)
	}
	return out, err
}

func expire(ctx context.Context, policy catalog.Policy, dryRun bool, repo *repository.Repository, now time.Time) (Expiry, error) {
	var out Expiry
	if err := notHeld(ctx, repo); err != nil && !(dryRun && errors.Is(err, ErrHeld)) {
		return out, err
	}
	snaps, err := repo.Snapshots(ctx)
	if err != nil {
		return out, fmt.Errorf("nothing is expired, because not all is known: %w", err)
	}
	lines, err := repo.Lines(ctx)
	if err != nil {
		return out, fmt.Errorf("nothing is expired, because not all is known: %w", err)
	}
	current, _ := catalog.Current(lines)
	for _, store := range repo.Stores() {
		for _, d := range policy.Decide(now, current.Line, copiesIn(store, snaps)) {
			out.Verdicts = append(out.Verdicts, Verdict{Store: store, Decision: d})
		}
	}
	spent, spentErr := spentRecords(ctx, repo, current.Line, snaps, now)
	if dryRun {
		leftovers, err := repo.Leftovers(ctx)
		for _, l := range leftovers {
			out.Swept = append(out.Swept, repository.Swept{Leftover: l})
		}
		for _, s := range spent {
			out.Records = append(out.Records, Records{Spent: s})
		}
		return out, errors.Join(err, spentErr)
	}
	var failed []error
	for i := range out.Verdicts {
		v := &out.Verdicts[i]
		if v.Keep {
			continue
		}
		v.Err = repo.Delete(ctx, v.Snapshot)
		v.Deleted, v.Locked = v.Err == nil, errors.Is(v.Err, storage.ErrLocked)
		switch {
		case v.Err == nil, v.Locked:
		case errors.Is(v.Err, ErrHeld), ctx.Err() != nil:
			return out, v.Err
		default:
			failed = append(failed, v.Err)
		}
	}
	out.Swept, err = repo.Sweep(ctx)
	if err != nil {
		failed = append(failed, err)
	}
	for _, s := range out.Swept {
		if s.Err != nil && !errors.Is(s.Err, storage.ErrLocked) {
			failed = append(failed, fmt.Errorf("%s in store %s: %w", s.Key, s.Store, s.Err))
		}
	}
	if spentErr != nil {
		failed = append(failed, spentErr)
	}
	for _, s := range spent {
		r := Records{Spent: s}
		r.Runs = r.Runs[:min(len(r.Runs), recordsAtOnce)]
		r.Removed, r.Err = repo.RemoveSpent(ctx, r.Spent)
		out.Records = append(out.Records, r)
		switch {
		case ctx.Err() != nil:
			return out, r.Err
		case r.Err != nil && !errors.Is(r.Err, storage.ErrLocked) && !errors.Is(r.Err, storage.ErrDenied):
			failed = append(failed, r.Err)
		}
	}
	if len(failed) > 0 {
		return out, fmt.Errorf("%w: %w", ErrPartial, errors.Join(failed...))
	}
	return out, nil
}

// spentRecords are the records that may go.
func spentRecords(ctx context.Context, repo *repository.Repository, current string, snaps []catalog.Snapshot, now time.Time) ([]repository.Spent, error) {
	var newest time.Time
	for _, s := range snaps {
		if s.Line == current && !s.Failed() && s.Time.After(newest) {
			newest = s.Time
		}
	}
	before := now.Add(-RecordsFor)
	if newest.Before(before) {
		before = newest
	}
	if before.IsZero() {
		return nil, nil
	}
	return repo.Spent(ctx, before)
}

// notHeld is ErrHeld while a restore is under way, and an error when that is not known.
func notHeld(ctx context.Context, repo *repository.Repository) error {
	holds, err := repo.Holds(ctx)
	if len(holds) > 0 {
		h := holds[0]
		return fmt.Errorf("%w: run %s of %s, since %s: nothing is expired meanwhile (finish it with requorum restore %[5]s --resume, or undo it with requorum rollback %[5]s)",
			ErrHeld, h.Run, h.Owner, h.Started.UTC().Format(time.RFC3339), repo.Cluster())
	}
	if err != nil {
		return fmt.Errorf("nothing is expired, because it is not known whether a restore is under way: %w", err)
	}
	return nil
}

// copiesIn is what one store holds. A copy whose own verdict is failed counts as failed there, whatever the other copies are.
func copiesIn(store string, snaps []catalog.Snapshot) (own []catalog.Snapshot) {
	for _, s := range snaps {
		if !slices.Contains(s.Stores, store) {
			continue
		}
		if slices.Contains(s.Damaged, store) && !s.Failed() {
			s.FailedAt = s.Modified
			if s.VerifiedAt.After(s.FailedAt) {
				s.FailedAt = s.VerifiedAt
			}
		}
		own = append(own, s.In(store))
	}
	return own
}

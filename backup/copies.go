package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/repository"
)

// MakeUp copies to each store what it lacks of the backups that the policy keeps, the newest first, and returns how many copies were made. Backups that
// failed their verification, and damaged copies, are not passed on. What retention would delete again is not copied.
//
// A store that cannot be listed gets nothing now and is in the error, as is every copy that could not be made; the others are made. The error is
// ErrPartial if some were made, or none was needed.
func MakeUp(ctx context.Context, policy catalog.Policy, repo *repository.Repository, now time.Time, progress Progress) (copied int, err error) {
	progress = orQuiet(progress)
	snaps, err := repo.Snapshots(ctx)
	if err != nil && len(snaps) == 0 {
		return 0, err
	}
	failed := []error{err}
	down := map[string]bool{}
	for _, e := range repository.StoreErrors(err) {
		down[e.Store] = true
	}
	lines, err := repo.Lines(ctx)
	if err != nil && len(down) == 0 {
		return 0, err
	}
	current, _ := catalog.Current(lines)
	missing := 0
	for _, d := range policy.Decide(now, current.Line, snaps) {
		s := d.Snapshot
		if !d.Keep || s.Failed() {
			continue
		}
		for _, store := range repo.Stores() {
			if slices.Contains(s.Stores, store) || down[store] {
				continue
			}
			missing++
			progress.Start(StageCopy, s.StoredBytes)
			err := repo.Copy(ctx, s, store, func(n int64) { progress.Advance(StageCopy, n) })
			progress.Done(StageCopy, s.ID+" to "+store)
			switch {
			case ctx.Err() != nil:
				return copied, context.Cause(ctx)
			case err != nil:
				failed = append(failed, fmt.Errorf("copy of %s to store %s: %w", s.ID, store, err))
				for _, e := range repository.StoreErrors(err) {
					down[e.Store] = down[e.Store] || e.Store == store // the next one would wait for it as long
				}
			default:
				copied++
			}
		}
	}
	err = errors.Join(failed...)
	if err != nil && (copied > 0 || missing == 0) {
		err = fmt.Errorf("%w: %w", ErrPartial, err)
	}
	return copied, err
}

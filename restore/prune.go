package restore

import (
	"context"
	"errors"
	"fmt"
)

// A Kept is an old data dir that a run kept.
type Kept struct {
	Member string `json:"member"`
	Run    string `json:"run"`
	Dir    string `json:"dir"`
}

// Prune removes the old dirs that a run kept, the latest run's if run is empty, and returns them. Only those of a run that ended
// proven are removed: until then they are the way back. A dry run only returns them.
func (r *Restorer) Prune(ctx context.Context, run string, dryRun bool) ([]Kept, error) {
	last, err := r.Latest(ctx)
	if err != nil {
		return nil, err
	}
	if run == "" && last != nil {
		run = last.Plan.Run
	}
	if run == "" {
		return nil, fmt.Errorf("%w: no host remembers a run of cluster %s, so no data dirs are kept", ErrNothingToRestore, r.Cluster)
	}
	if last != nil && !last.Ended {
		return nil, r.unfinished(last)
	}
	states, errs, err := r.inspect(ctx, run, false, false)
	if err == nil {
		err = joinMap(errs)
	}
	if err != nil {
		return nil, fmt.Errorf("prune run %s: %w", run, err)
	}
	found := latest(states)
	if found == nil || found.Plan.Run != run {
		return nil, fmt.Errorf("%w: no host remembers a run %s of cluster %s", ErrNothingToRestore, run, r.Cluster)
	}
	proven := found.Plan.at(StepProve)
	if proven == nil || proven.Done.IsZero() {
		return nil, fmt.Errorf("run %s did not end proven: its old data dirs are the way back and are kept", run)
	}
	var kept []Kept
	var failed []error
	for _, m := range r.targets() {
		s := states[m.Name]
		if s.Before == "" {
			continue
		}
		if !dryRun {
			if err := m.On.Apply(ctx, ApplyRequest{Action: ActPrune, Member: m.Member, Run: run, Owner: r.Owner}); err != nil {
				failed = append(failed, err)
				continue
			}
		}
		kept = append(kept, Kept{Member: m.Name, Run: run, Dir: s.Before})
	}
	return kept, errors.Join(failed...)
}

package restore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Strays are members that could not be reached when a run was rolled back by a restore from the old dirs. They hold what the run left on them: alone they
// are no quorum of the cluster that it built, or were fenced, and the present cluster has another id. But nothing of theirs is of use any more, and
// neither that cluster nor the one before it may ever serve again.
type strays struct {
	of      Plan // the run that they still are a part of
	names   []string
	missing map[string]error // those that still cannot be reached
}

// stray says which members a rollback has to retire before it does anything else: those that the latest run left behind. It is nil if there are none.
func (r *Restorer) stray(ctx context.Context, last *HostRun) (*strays, error) {
	of, lost := last.Plan.Run, []string(nil)
	switch p := last.Plan; {
	case !last.Ended && p.Kind == PlanRestore:
	case last.Ended && p.Kind == PlanRollback && len(p.Lost) > 0:
		of, lost = p.Of, p.Lost
	default:
		return nil, nil
	}
	states, errs, err := r.inspect(ctx, of, false, false)
	if err != nil || lost == nil && leftBy(states) == "" {
		return nil, err
	}
	s := &strays{missing: map[string]error{}}
	for _, name := range lost {
		if errs[name] != nil {
			s.missing[name] = errs[name]
		}
	}
	for _, name := range sortedKeys(states) {
		j, place := states[name].Journal, states[name].Place
		if j == nil || !j.Ended.IsZero() && place != PlaceNew && place != PlaceHalf || lost != nil && !slices.Contains(lost, name) {
			continue
		}
		s.of, s.names = j.Plan, append(s.names, name)
	}
	if len(s.names) == 0 && len(s.missing) > 0 {
		return nil, fmt.Errorf("run %s rolled run %s back without %s, which cannot be reached yet: %w; when it is there again, the same command takes it out of the cluster that is no more",
			last.Plan.Run, of, strings.Join(sortedKeys(s.missing), ", "), joinMap(s.missing))
	}
	if len(s.names) == 0 {
		return nil, nil
	}
	return s, nil
}

// leftBy is a member on which a run has ended because it was rolled back by a restore from the old dirs; "" if there is none. The states are of that run.
func leftBy(states map[string]State) string {
	for _, name := range sortedKeys(states) {
		// With the run's own dirs in place the last step may have been cut off; an abandoned run is still undone as a whole.
		if j := states[name].Journal; j != nil && !j.Ended.IsZero() && !j.Plan.Abandoned && states[name].Place != PlaceNew {
			return name
		}
	}
	return ""
}

// retire stops the strays and puts their old dirs back. They are not started, and nobody else may: what they hold belongs to no cluster that serves.
func (r *Restorer) retire(ctx context.Context, s *strays, begun time.Time) (Report, error) {
	alone := *r
	alone.Without = nil
	for _, m := range r.Members {
		if !slices.Contains(s.names, m.Name) {
			alone.Without = append(alone.Without, m.Name)
		}
	}
	plan := s.of
	resumed := plan.retires()
	plan.Abandoned, plan.Lost = true, sortedKeys(s.missing)
	if !resumed {
		plan.Steps = nil
		for _, kind := range []StepKind{StepStop, StepRevert, StepDiscard, StepEnd} {
			plan.Steps = append(plan.Steps, r.step(kind))
		}
	}
	return alone.undo(ctx, plan, resumed, begun)
}

// retires says whether the plan takes strays out of service.
func (p *Plan) retires() bool { return p.at(StepRevert) != nil && p.at(StepStart) == nil }

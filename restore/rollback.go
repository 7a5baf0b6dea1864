package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

// Rollback undoes a run, the latest one if run is empty, or goes on with an unfinished rollback. Until a member of the
// new cluster was started it renames the old dirs back, and starts again what had been running. After that it is a restore
// from the old dirs: a client may have seen what the new cluster served. Report and errors are those of [Restorer.Run]; the writes that
// it would discard are refused until DiscardWrites allows it.
//
// A member in Without that took part in the run is lost: the others are rolled back without it. It is rolled back by the same call without that, once
// it is there again: where the old dirs just returned, into the cluster that it belongs to; after a restore from the old dirs there is no such cluster
// any more, so that its etcd stays stopped, and starts forbidden, until it is added to the present one ([ErrPartly]).
func (r *Restorer) Rollback(ctx context.Context, run string) (Report, error) {
	begun := r.Now()
	last, err := r.find(ctx, run)
	if err != nil {
		return Report{}, err
	}
	plan := last.Plan
	left, err := r.stray(ctx, last)
	if err != nil {
		return Report{}, err
	}
	if left != nil {
		return r.retire(ctx, left, begun)
	}
	lost := plan.Lost // of them, those that a rollback does not know as its own stay lost
	plan.Lost = slices.DeleteFunc(slices.Clone(plan.Without), func(name string) bool { return !slices.Contains(lost, name) })
	r.Without = slices.Concat(plan.Without, plan.taking(r.Without))
	plan.Lost = append(plan.Lost, plan.taking(r.Without)...)
	if plan.Kind == PlanReplace {
		if err := r.replaceUndone(plan, last.Ended); err != nil {
			return Report{}, err
		}
	}
	switch {
	case !last.Ended && plan.at(StepRevert) != nil:
		return r.revertRun(ctx, plan, begun, true)
	case !last.Ended && plan.Kind == PlanRollback && run == "":
		if err := r.adopt(plan); err != nil {
			return Report{}, err
		}
		x := &execution{Restorer: r, plan: &plan, begun: begun, resumed: true}
		return x.execute(ctx)
	case last.Ended && plan.at(StepRevert) != nil:
		return Report{}, fmt.Errorf("run %s has been rolled back already", plan.Run)
	}
	states, errs, err := r.inspect(ctx, plan.Run, false, true)
	if err == nil {
		err = joinMap(errs)
	}
	if err != nil {
		return Report{}, fmt.Errorf("roll back run %s: %w", plan.Run, err)
	}
	if !last.Ended && !served(states, len(plan.Lost)) {
		return r.revertRun(ctx, plan, begun, false)
	}
	return r.restoreBefore(ctx, plan, !last.Ended, begun)
}

// taking are those of the members that take part in the run.
func (p *Plan) taking(names []string) (part []string) {
	for _, m := range p.Members {
		if slices.Contains(names, m.Name) {
			part = append(part, m.Name)
		}
	}
	return part
}

// find returns the run that a rollback is about.
func (r *Restorer) find(ctx context.Context, run string) (*HostRun, error) {
	last, err := r.Latest(ctx)
	if err != nil {
		return nil, err
	}
	if last != nil && last.Lock != nil && !last.LockDead && r.TakeOver != last.Plan.Run {
		return nil, &LockedError{Member: last.Members[0], Lock: *last.Lock, Age: r.Now().Sub(last.Lock.Heartbeat)}
	}
	if last != nil && (run == "" || run == last.Plan.Run) {
		return last, nil
	}
	if last != nil && !last.Ended {
		return nil, r.unfinished(last)
	}
	if run != "" {
		states, _, err := r.inspect(ctx, run, false, false)
		if err != nil {
			return nil, err
		}
		if found := latest(states); found != nil {
			return found, nil
		}
		return nil, fmt.Errorf("%w: no host remembers a run %s of cluster %s", ErrNothingToRestore, run, r.Cluster)
	}
	return nil, fmt.Errorf("%w: no host remembers a run of cluster %s, so there is nothing to roll back", ErrNothingToRestore, r.Cluster)
}

// served says whether the new cluster can have answered a client: this run began to start it, or somebody else started so many members that they are a quorum. What
// became of lost members nobody knows.
func served(states map[string]State, lost int) bool {
	opened := lost
	for _, s := range states {
		if s.Journal != nil && !s.Journal.Here.StartBegun.IsZero() {
			return true
		}
		if s.Opened() {
			opened++
		}
	}
	return opened > (len(states)+lost)/2
}

// revertRun puts the old dirs back. The plan is marked first, so that nothing goes on with it.
func (r *Restorer) revertRun(ctx context.Context, plan Plan, begun time.Time, resumed bool) (Report, error) {
	if err := r.adopt(plan); err != nil {
		return Report{}, err
	}
	if plan.at(StepRevert) == nil {
		plan.Abandoned = true
		plan.Steps = nil
		for _, kind := range []StepKind{StepStop, StepRevert, StepDiscard, StepAllow, StepStart, StepResume, StepEnd} {
			if kind == StepResume && !r.resumes() {
				continue
			}
			plan.Steps = append(plan.Steps, r.step(kind))
		}
	}
	return r.undo(ctx, plan, resumed, begun)
}

// undo does the steps that put old dirs back, once a person has agreed to them.
func (r *Restorer) undo(ctx context.Context, plan Plan, resumed bool, begun time.Time) (Report, error) {
	x := &execution{Restorer: r, plan: &plan, begun: begun, resumed: resumed}
	if r.Confirm != nil && !resumed {
		asked := r.Now()
		yes, err := r.Confirm(ctx, plan)
		x.waiting.Person += r.Now().Sub(asked).Seconds()
		if err != nil || !yes {
			return Report{}, errors.Join(err, ErrDeclined)
		}
	}
	return x.execute(ctx)
}

// restoreBefore rolls a started run back: a restore from the dirs that it kept.
func (r *Restorer) restoreBefore(ctx context.Context, of Plan, unfinished bool, begun time.Time) (Report, error) {
	plan, err := r.newPlan(PlanRollback)
	if err != nil {
		return Report{}, err
	}
	plan.Of, plan.Request, plan.Lost = of.Run, Request{From: "before:" + of.Run}, of.Lost
	fail := func(err error) (Report, error) {
		return Report{}, errors.Join(err, r.removeSpool(plan.Run))
	}
	replacing := *r // that the new cluster is healthy is what a rollback of it expects
	replacing.ReplaceHealthy = r.Cluster
	p, err := replacing.planOn(ctx, &plan, func(_ *known, o *observed) (*source, error) {
		var err error
		if plan.Discards, err = r.discards(ctx, of, o); err != nil {
			return nil, err
		}
		src, err := r.bestBefore(ctx, of)
		if err != nil {
			return nil, err
		}
		for _, m := range of.Members {
			src.undone = append(src.undone, m.Name)
		}
		return src, r.askDiscard(plan.Discards, of)
	})
	if err != nil {
		return fail(err)
	}
	x := &execution{Restorer: r, plan: &plan, begun: begun, p: p}
	if unfinished {
		x.supersedes = &of
	}
	return x.confirmed(ctx)
}

// supersede ends the run that is rolled back: from here on the rollback is the unfinished one.
func (x *execution) supersede(ctx context.Context, of Plan) error {
	old := &execution{Restorer: x.Restorer, plan: &of, begun: x.begun}
	if err := old.lockAll(ctx); err != nil {
		return err
	}
	if err := x.releaseHolds(ctx, of.Run); err != nil {
		x.note("the hold of run %s could not be released, so nothing is expired until it is: %v", of.Run, err)
	}
	if err := x.removeSpool(of.Run); err != nil { // it may have been killed before it did so itself
		x.note("%v", err)
	}
	return old.applyAll(ctx, ActUnlock)
}

// bestBefore is the data that goes farthest among the dirs that a run kept, by the term and index of its raft log. What only the log held is
// brought into the database; where that cannot be done, the next best is taken.
func (r *Restorer) bestBefore(ctx context.Context, of Plan) (*source, error) {
	found, unreadable, err := r.survivors(ctx, nil, of.Run)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%w: run %s kept no database on any member: %w", ErrNothingToRestore, of.Run, errors.Join(append(unreadable, errors.New("none is there"))...))
	}
	src := r.beforeSource(of, found[0], found)
	src.fetch = func(ctx context.Context, dst *os.File, progress func(int64)) error {
		var passed []error
		for _, s := range found {
			one := r.beforeSource(of, s, found)
			err := dst.Truncate(0)
			if err == nil {
				_, err = dst.Seek(0, io.SeekStart)
			}
			if err == nil {
				err = one.fetch(ctx, dst, progress)
			}
			if err == nil {
				src.Source = one.Source
				if len(passed) > 0 {
					src.Note += fmt.Sprintf("; passed over: %v", errors.Join(passed...))
				}
				return nil
			}
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			passed = append(passed, fmt.Errorf("%s: %w", s.Name, err))
		}
		return errors.Join(passed...)
	}
	return src, nil
}

// beforeSource is what a run kept of one member.
func (r *Restorer) beforeSource(of Plan, s survivor, all []survivor) *source {
	src := r.recoveredSource(s, all, "before")
	src.ID, src.Where, src.serverVersion = of.Run, s.Name, of.TargetVersion
	src.Time = of.Started
	if stop := of.at(StepStop); stop != nil && !stop.Begun.IsZero() {
		src.Time = stop.Begun
	}
	return src
}

type progressWriter struct {
	w        *os.File
	progress func(int64)
}

func (p progressWriter) Write(b []byte) (int, error) {
	n, err := p.w.Write(b)
	if p.progress != nil {
		p.progress(int64(n))
	}
	return n, err
}

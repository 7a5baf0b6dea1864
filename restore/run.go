package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/requorum/requorum/agents"
)

// An execution is one process's work on a run.
type execution struct {
	*Restorer
	plan    *Plan
	begun   time.Time // of this command
	resumed bool
	p       *prepared // nil until it is needed, on a resumed run
	waiting Waiting
	// supersedes is the unfinished run that this one, a rollback, takes the place of.
	supersedes *Plan
	states     map[string]State // as last inspected, with Verify; nil after a step that changed something
	did        StepKind         // the last step that this process has done, not only found done

	healthyAt time.Time
	members   []ReportMember
	proof     []Check
	verdicts  []agents.Verdict
	backup    string
	raftTerm  uint64
	partly    []string // what was not done beside a proven restore
}

// Run restores the cluster, or goes on with the unfinished restore that the hosts remember. The report is filled as far as the run came; the
// error tells what is missing: [*Stopped] with what stands where and the next commands, [ErrAgents] and [ErrPartly] beside a complete
// report, and before anything was changed [*ChecksError], [Refusal], [ErrNothingToRestore], [ErrLocked] or what the source gave.
func (r *Restorer) Run(ctx context.Context) (Report, error) {
	begun := r.Now()
	last, err := r.Latest(ctx)
	if err != nil {
		last = nil // every host is out of reach: the checks say so together with all the rest
	}
	if last != nil && !last.Ended {
		return r.resume(ctx, last, begun)
	}
	if r.Resume {
		return Report{}, fmt.Errorf("--resume: cluster %s has no unfinished run to go on with", r.Cluster)
	}
	r.sweepSpool()
	plan, p, err := r.planRestore(ctx)
	if err != nil {
		return Report{}, errors.Join(err, r.removeSpool(plan.Run))
	}
	x := &execution{Restorer: r, plan: &plan, begun: begun, p: p}
	return x.confirmed(ctx)
}

// confirmed puts the ordinary question and, if the answer is yes, does the plan.
func (x *execution) confirmed(ctx context.Context) (Report, error) {
	if x.Confirm != nil {
		err := x.awaitPrediction(ctx, x.plan, x.p) // it is part of what is asked about
		if err == nil {
			asked, yes := x.Now(), false
			yes, err = x.Confirm(ctx, *x.plan)
			x.waiting.Person += x.Now().Sub(asked).Seconds()
			if err == nil && !yes {
				err = ErrDeclined
			}
		}
		if err != nil {
			x.p.close()
			return Report{}, errors.Join(err, x.removeSpool(x.plan.Run))
		}
	}
	if x.supersedes != nil {
		if err := x.supersede(ctx, *x.supersedes); err != nil {
			x.p.close()
			return Report{}, errors.Join(err, x.removeSpool(x.plan.Run))
		}
	}
	return x.execute(ctx)
}

// resume goes on with an unfinished run.
func (r *Restorer) resume(ctx context.Context, last *HostRun, begun time.Time) (Report, error) {
	plan := last.Plan
	if plan.Kind != PlanRestore || plan.Abandoned ||
		r.At != "" && r.At != plan.Request.At && r.At != plan.Source.ID || r.From != "" && r.From != plan.Request.From {
		return Report{}, r.unfinished(last)
	}
	if err := r.adopt(plan); err != nil {
		return Report{}, err
	}
	if err := r.leftBehind(ctx, last); err != nil {
		return Report{}, err
	}
	x := &execution{Restorer: r, plan: &plan, begun: begun, resumed: true}
	return x.execute(ctx)
}

// leftBehind refuses to go on with a run that ended without a member which was lost then, and is there again with what the run left on it.
func (r *Restorer) leftBehind(ctx context.Context, last *HostRun) error {
	states, _, err := r.inspect(ctx, last.Plan.Run, false, false)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(sortedKeys(states), func(name string) bool {
		j := states[name].Journal
		return j != nil && !j.Ended.IsZero() && j.Plan.Abandoned
	}) {
		last.Plan.Abandoned = true
		return r.unfinished(last)
	}
	if name := leftBy(states); name != "" {
		left := strings.Join(last.Members, ", ")
		return fmt.Errorf("run %s was rolled back on %s while %s could not be reached: nothing goes on with it. Take %s out of the cluster that is no more with %q, and add it to the present one with %q",
			last.Plan.Run, name, left, left, r.command("rollback"), r.command("replace-member", last.Members[0]))
	}
	return nil
}

// adopt makes sure that the configuration is still the plan's.
func (r *Restorer) adopt(plan Plan) error {
	if plan.Format > PlanFormat {
		return fmt.Errorf("run %s was planned by a newer requorum (format %d): go on with that version", plan.Run, plan.Format)
	}
	if len(r.Without) == 0 {
		r.Without = plan.Without
	}
	var now []Member
	for _, m := range r.targets() {
		now = append(now, m.Member)
	}
	then := slices.DeleteFunc(slices.Clone(plan.Members), func(m Member) bool { return slices.Contains(plan.Lost, m.Name) })
	if !slices.Equal(now, then) {
		return fmt.Errorf("run %s is unfinished, and the members of cluster %s are configured otherwise now than when it was planned: "+
			"go on with the configuration and the --without of then, or undo it with them by %q", plan.Run, r.Cluster, r.command("rollback"))
	}
	return nil
}

// execute locks every member, does the steps that are not done, and reports.
func (x *execution) execute(ctx context.Context) (Report, error) {
	defer func() { x.p.close() }()
	if err := x.lockAll(ctx); err != nil {
		if errors.Is(err, ErrLocked) || context.Cause(ctx) != nil {
			return Report{}, err
		}
		return Report{}, x.standing(ctx, StepLock, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var beats sync.WaitGroup
	beats.Go(func() { x.beat(ctx, cancel) })
	defer beats.Wait()
	defer cancel(nil)
	x.hold(ctx)

	for i := range x.plan.Steps {
		step := &x.plan.Steps[i]
		if err := x.take(ctx, step); err != nil {
			if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
				err = fmt.Errorf("%w (%w)", cause, err)
			}
			cancel(nil)
			beats.Wait()
			return x.stopped(ctx, step.Kind, err)
		}
	}
	return x.outcome()
}

// take does one step unless the hosts show that it is done.
func (x *execution) take(ctx context.Context, step *Step) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	done, err := x.done(ctx, step)
	if err != nil || done {
		if done && step.Done.IsZero() {
			step.Done = x.Now().UTC()
		}
		return err
	}
	begun := x.Now()
	if step.Begun.IsZero() {
		step.Begun = begun.UTC()
	}
	x.Progress.Start(string(step.Kind), 0)
	detail, err := x.do(ctx, step)
	switch step.Kind { // after StepStage members are stopped, after which they are looked at
	case StepJoin, StepExchange, StepAllow, StepStart, StepRevert, StepDiscard:
		x.states = nil
	}
	step.Seconds += x.Now().Sub(begun).Seconds()
	if err != nil {
		return err
	}
	step.Done, x.did = x.Now().UTC(), step.Kind
	x.Progress.Done(string(step.Kind), detail)
	if step.Kind == StepEnd {
		return nil
	}
	return x.record(ctx)
}

// do does one step.
func (x *execution) do(ctx context.Context, step *Step) (detail string, err error) {
	switch step.Kind {
	case StepPrepare:
		return "", x.prepareAgain(ctx)
	case StepStage:
		return x.stage(ctx)
	case StepStop:
		return "", x.stop(ctx, step)
	case StepGate:
		return "", x.gate(ctx)
	case StepExchange:
		return "", x.exchange(ctx, step)
	case StepAllow:
		return "", x.allow(ctx)
	case StepStart:
		return "", x.start(ctx, step)
	case StepRemove:
		return x.removeMember(ctx)
	case StepAdd:
		return x.addLearner(ctx)
	case StepJoin:
		return "", x.stageIdentity(ctx)
	case StepPromote:
		return x.promote(ctx)
	case StepProve:
		if x.plan.Replace != nil {
			return x.proveReplaced(ctx)
		}
		return x.prove(ctx)
	case StepResume:
		return "", x.applyAll(ctx, ActResume)
	case StepAgents:
		return x.askAgents(ctx)
	case StepBackup:
		return x.firstBackup(ctx)
	case StepRevert:
		return "", x.revert(ctx, step)
	case StepDiscard:
		return "", x.applyAll(ctx, ActDiscard)
	case StepEnd:
		return "", x.end(ctx)
	}
	return "", fmt.Errorf("unknown step %q: the plan was made by another version of requorum", step.Kind)
}

// done judges by what the hosts show. Steps that change nothing, or that are not dear, are done again.
func (x *execution) done(ctx context.Context, step *Step) (bool, error) {
	switch step.Kind {
	case StepPrepare, StepStage, StepStop, StepGate, StepExchange, StepAllow, StepStart, StepRevert:
	default:
		return false, nil
	}
	if step.Kind == StepAllow && x.did == StepExchange {
		return false, nil // all of it is known: it was exchanged just now, under an inhibition
	}
	if x.states == nil || step.Kind == StepExchange { // nothing is exchanged on an old look
		if err := x.see(ctx); err != nil {
			return false, err
		}
	}
	all := func(f func(State) bool) bool {
		for _, s := range x.states {
			if !f(s) {
				return false
			}
		}
		return true
	}
	if x.plan.retires() && step.Kind == StepStop {
		return all(func(s State) bool { return s.Stopped() && s.Inhibited }), nil
	}
	isNew := func(s State) bool { return s.Place == PlaceNew }
	staged := func(s State) bool {
		return x.plan.Prepared != nil && (isNew(s) || s.Place == PlaceHalf || s.Staged == x.plan.Prepared.Checksum && s.Intact)
	}
	if x.reverting() {
		return x.revertDone(step.Kind, all), nil
	}
	switch step.Kind {
	case StepPrepare:
		return x.plan.Prepared != nil && (x.p != nil || all(staged) && x.plan.Prepared.predicted()), nil
	case StepStage:
		return all(staged) && x.plan.Prepared.predicted(), nil
	case StepStop, StepExchange:
		return all(isNew), nil
	case StepGate: // it was passed before the first exchange
		return !all(func(s State) bool { return s.Place == PlaceOld }), nil
	case StepAllow:
		return all(func(s State) bool { return isNew(s) && !s.Inhibited }), nil
	case StepStart:
		return all(func(s State) bool { return s.Journal != nil && !s.Journal.Here.StartBegun.IsZero() && !s.Stopped() }), nil
	}
	return false, nil
}

// revertDone is done for a run whose old dirs return.
func (x *execution) revertDone(kind StepKind, all func(func(State) bool) bool) bool {
	switch kind {
	case StepStop, StepRevert: // a member that was never exchanged may go on running
		return all(func(s State) bool { return s.Journal != nil && s.Journal.Here.SwapBegun.IsZero() })
	case StepAllow:
		return all(func(s State) bool { return !s.Inhibited })
	case StepStart:
		return all(func(s State) bool { return s.Journal == nil || !s.Journal.Here.WasRunning || !s.Stopped() })
	}
	return false
}

// see inspects every member anew; one that cannot be is an error.
func (x *execution) see(ctx context.Context) error {
	states, errs, err := x.inspect(ctx, x.plan.Run, false, true)
	if err == nil {
		err = joinMap(errs)
	}
	if err != nil {
		return err
	}
	x.states = states
	return nil
}

// lockAll takes every member's lock: the first by name alone, so that of two runs one gets all and the other none, then the others at once.
func (x *execution) lockAll(ctx context.Context) error {
	targets := x.targets()
	slices.SortFunc(targets, func(a, b Placed) int { return strings.Compare(a.Name, b.Name) })
	var mu sync.Mutex
	var held []Placed
	lock := func(members []Placed) error {
		return each(ctx, members, func(ctx context.Context, _ int, m Placed) error {
			req := x.request(ActLock, m)
			req.Plan, req.TakeOver = x.plan, x.TakeOver
			err := m.On.Apply(ctx, req)
			var h *HostError
			if errors.As(err, &h) && h.Code == HostLocked && h.Lock != nil {
				return &LockedError{Member: m.Name, Lock: *h.Lock, Age: x.Now().Sub(h.Lock.Heartbeat), Dead: h.Dead}
			}
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				held = append(held, m)
			}
			return err
		})
	}
	first := min(1, len(targets))
	err := lock(targets[:first])
	if err == nil {
		err = lock(targets[first:])
	}
	if err != nil {
		x.releaseLocks(ctx, held)
	}
	return err
}

func (x *execution) request(a Action, m Placed) ApplyRequest {
	return ApplyRequest{Action: a, Member: m.Member, Run: x.plan.Run, Owner: x.Owner}
}

// releaseLocks gives locks back so that the same command can go on from anywhere. What fails is only logged: a lock whose owner is gone does no harm.
func (x *execution) releaseLocks(ctx context.Context, targets []Placed) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	_ = each(ctx, targets, func(ctx context.Context, _ int, m Placed) error {
		if err := m.On.Apply(ctx, x.request(ActRelease, m)); err != nil {
			x.Log.Warn("give the lock back", "member", m.Name, "error", err)
		}
		return nil
	})
}

// beat renews the locks until ctx ends, and ends it when one was taken over. A member that does not answer does not keep the others' locks from
// being renewed.
func (x *execution) beat(ctx context.Context, cancel context.CancelCauseFunc) {
	_ = each(ctx, x.targets(), func(ctx context.Context, _ int, m Placed) error {
		ticker := time.NewTicker(Beat)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-ticker.C:
			}
			err := m.On.Apply(ctx, x.request(ActBeat, m))
			switch {
			case isHost(err, HostLocked):
				cancel(fmt.Errorf("another process took this run over: %w", err))
			case err != nil && ctx.Err() == nil:
				x.Log.Warn("renew the lock", "member", m.Name, "error", err)
			}
		}
	})
}

// applyAll does one action on every member at once.
func (x *execution) applyAll(ctx context.Context, a Action) error {
	return x.applyTo(ctx, x.targets(), a)
}

func (x *execution) applyTo(ctx context.Context, members []Placed, a Action) error {
	return each(ctx, members, func(ctx context.Context, _ int, m Placed) error {
		return m.On.Apply(ctx, x.request(a, m))
	})
}

// record saves the plan, with what has been done, on every host.
func (x *execution) record(ctx context.Context) error {
	err := each(ctx, x.targets(), func(ctx context.Context, _ int, m Placed) error {
		req := x.request(ActRecord, m)
		req.Plan = x.plan
		return m.On.Apply(ctx, req)
	})
	if err != nil {
		return fmt.Errorf("save the plan: %w", err)
	}
	return nil
}

func (x *execution) note(format string, args ...any) {
	n := fmt.Sprintf(format, args...)
	x.Log.Warn(n)
	if !slices.Contains(x.plan.Notes, n) {
		x.plan.Notes = append(x.plan.Notes, n)
	}
}

// happened notes on a step what somebody else did meanwhile.
func (x *execution) happened(step *Step, format string, args ...any) {
	n := fmt.Sprintf(format, args...)
	x.Progress.Say("%s", n)
	step.Notes = append(step.Notes, n)
}

// prepareAgain makes the database of a resumed run anew, unless it is still in the spool.
func (x *execution) prepareAgain(ctx context.Context) error {
	if want := x.plan.Prepared; want != nil {
		lock, err := x.lockSpool(x.plan.Run) // from here on no sweep takes the database
		if err != nil {
			return err
		}
		if sum, size, err := ChecksumOf(ctx, x.spoolFile(x.plan.Run, "db")); err == nil && sum == want.Checksum && size == want.Size {
			x.p = &prepared{path: x.spoolFile(x.plan.Run, "db"), lock: lock}
			if !want.predicted() {
				x.predict(ctx, x.p, want.Revision)
			}
			return nil
		}
		_ = lock.Close() // nothing was written to it
	}
	src, err := x.sourceAgain(ctx)
	if err != nil {
		return err
	}
	p, report, err := x.fetch(ctx, x.plan.Run, src)
	if err != nil {
		return err
	}
	x.p = p
	d, err := x.decide(x.plan, report.Index)
	if err == nil {
		err = agents.JoinRefusals(d.Refusals)
	}
	if err != nil {
		return err
	}
	before := x.plan.Prepared
	if err := x.edit(ctx, x.plan, p, report, d); err != nil {
		return err
	}
	for name, s := range x.states {
		if before != nil && before.Checksum != x.plan.Prepared.Checksum && s.Place != PlaceOld {
			return fmt.Errorf("%s is on a database that cannot be made again byte for byte; undo this run", name)
		}
	}
	return nil
}

// sourceAgain finds the plan's source.
func (x *execution) sourceAgain(ctx context.Context) (*source, error) {
	switch s := x.plan.Source; s.Kind {
	case "file":
		return fileSource(s.ID)
	case "survivor", "before":
		return x.survivorAgain(ctx)
	}
	known, err := x.look(ctx)
	if err != nil {
		return nil, err
	}
	again := *x.Restorer
	again.At = x.plan.Source.ID
	return again.chooseStored(ctx, known, strings.TrimPrefix(strings.TrimPrefix(x.plan.Request.From, "store"), ":"))
}

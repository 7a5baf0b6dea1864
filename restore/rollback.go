package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/internal/dbfile"
)

// Rollback undoes a run, the latest one if run is empty, or goes on with an unfinished rollback. Until a member of the
// new cluster was started it renames the old dirs back, and starts again what had been running. After that it is a restore
// from the old dirs: a client may have seen what the new cluster served. Report and errors are those of [Restorer.Run]; the writes that
// it would discard are refused until DiscardWrites allows it.
func (r *Restorer) Rollback(ctx context.Context, run string) (Report, error) {
	begun := r.Now()
	last, err := r.find(ctx, run)
	if err != nil {
		return Report{}, err
	}
	plan := last.Plan
	r.Without = plan.Without
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
	if !last.Ended && !served(states) {
		return r.revertRun(ctx, plan, begun, false)
	}
	return r.restoreBefore(ctx, plan, !last.Ended, states, begun)
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

// served says whether the new cluster can have answered a client: this run began to start it, or somebody else started so many members that they are a quorum.
func served(states map[string]State) bool {
	opened := 0
	for _, s := range states {
		if s.Journal != nil && !s.Journal.Here.StartBegun.IsZero() {
			return true
		}
		if s.Opened() {
			opened++
		}
	}
	return opened > len(states)/2
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
func (r *Restorer) restoreBefore(ctx context.Context, of Plan, unfinished bool, states map[string]State, begun time.Time) (Report, error) {
	plan, err := r.newPlan(PlanRollback)
	if err != nil {
		return Report{}, err
	}
	plan.Of, plan.Request = of.Run, Request{From: "before:" + of.Run}
	fail := func(err error) (Report, error) {
		return Report{}, errors.Join(err, r.removeSpool(plan.Run))
	}
	replacing := *r // that the new cluster is healthy is what a rollback of it expects
	replacing.ReplaceHealthy = r.Cluster
	p, err := replacing.planOn(ctx, &plan, func(_ *known, o *observed) (*source, error) {
		plan.Discards = discards(of, o)
		src, err := r.bestBefore(ctx, of, states)
		if err != nil {
			return nil, err
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
	if err := x.Repository.ReleaseHold(ctx, of.Run); err != nil {
		x.note("the hold of run %s could not be released, so nothing is expired until it is: %v", of.Run, err)
	}
	return old.applyAll(ctx, ActUnlock)
}

// discards counts what the new cluster has beyond what it was opened with.
func discards(of Plan, o *observed) *Discards {
	d := &Discards{}
	for _, s := range o.statuses {
		if s.Err == nil && of.Prepared != nil && hexID(s.ClusterID) == of.Prepared.ClusterID {
			d.Known = true
			d.Revisions = max(d.Revisions, s.Revision-of.Prepared.Revision)
		}
	}
	d.Detail = fmt.Sprintf("%d revisions written since the cluster was opened", d.Revisions)
	if !d.Known {
		d.Detail = "how much was written since the cluster was opened is unknown: none of its members answers"
	}
	return d
}

func (r *Restorer) askDiscard(d *Discards, of Plan) error {
	if r.DiscardWrites || d.Known && d.Revisions == 0 {
		return nil
	}
	return agents.Refusal{
		What: fmt.Sprintf("rolling back run %s discards what clients wrote to the new cluster: %s", of.Run, d.Detail),
		Risk: "these writes are lost, registrations that agents made anew among them; agents will register once more",
		Flag: "--discard-writes",
	}
}

// bestBefore finds the most advanced database among the dirs that a run kept, by raft term and then raft index. All are checked.
func (r *Restorer) bestBefore(ctx context.Context, of Plan, states map[string]State) (*source, error) {
	var best *source
	var bestReport dbfile.Report
	var looked []error
	var passed []Candidate
	for _, m := range r.targets() {
		src := r.beforeOf(of, m, states[m.Name])
		report, err := r.probeBefore(ctx, src)
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		if err != nil {
			looked = append(looked, fmt.Errorf("%s: %w", m.Name, err))
			passed = append(passed, Candidate{Kind: "before", ID: m.Name, Why: err.Error()})
			continue
		}
		src.Revision, src.size = report.Revision, report.Size
		ahead := best == nil || report.RaftTerm > bestReport.RaftTerm || report.RaftTerm == bestReport.RaftTerm && report.ConsistentIndex > bestReport.ConsistentIndex
		why := fmt.Sprintf("raft term %d, index %d", report.RaftTerm, report.ConsistentIndex)
		passed = append(passed, Candidate{Kind: "before", ID: m.Name, Revision: report.Revision, Time: src.Time, Why: why})
		if ahead {
			best, bestReport = src, report
		}
	}
	if best == nil {
		return nil, fmt.Errorf("%w: run %s kept no database on any member: %w", ErrNothingToRestore, of.Run, errors.Join(looked...))
	}
	best.Note = fmt.Sprintf("the old data dir of %s, raft term %d, index %d", best.Where, bestReport.RaftTerm, bestReport.ConsistentIndex)
	for i := range passed {
		passed[i].Chosen = passed[i].ID == best.Where
	}
	best.Candidates = passed
	return best, nil
}

// beforeOf is the old database of one member.
func (r *Restorer) beforeOf(of Plan, m Placed, s State) *source {
	req := FetchRequest{Member: m.Member, Before: of.Run}
	if s.Before == "" && s.Place == PlaceOld && s.Journal != nil && s.Journal.Ended.IsZero() {
		req.Before = "" // this member was not exchanged
	}
	src := &source{Source: Source{Kind: "before", ID: of.Run, Where: m.Name, Time: of.Started, Note: "the old data dir of " + m.Name},
		serverVersion: of.TargetVersion}
	if stop := of.at(StepStop); stop != nil && !stop.Begun.IsZero() {
		src.Time = stop.Begun
	}
	src.fetch = func(ctx context.Context, dst *os.File, progress func(int64)) error {
		err := m.On.Fetch(ctx, req, progressWriter{dst, progress})
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s had no database before run %s", m.Name, of.Run)
		}
		return err
	}
	return src
}

// beforeSource is that of a plan made earlier.
func (x *execution) beforeSource(run, member string) (*source, error) {
	i := slices.IndexFunc(x.Members, func(m Placed) bool { return m.Name == member })
	if i < 0 {
		return nil, fmt.Errorf("member %s, whose old data dir run %s restores, is no longer configured", member, x.plan.Run)
	}
	return x.beforeOf(Plan{Run: run, Started: x.plan.Source.Time, TargetVersion: x.plan.TargetVersion}, x.Members[i], State{Place: PlaceNew}), nil
}

// probeBefore checks an old database without keeping it.
func (r *Restorer) probeBefore(ctx context.Context, src *source) (dbfile.Report, error) {
	if err := os.MkdirAll(r.SpoolDir, 0o700); err != nil {
		return dbfile.Report{}, fmt.Errorf("make the spool directory: %w", err)
	}
	f, err := os.CreateTemp(r.SpoolDir, "before-*.db")
	if err != nil {
		return dbfile.Report{}, fmt.Errorf("make a file in the spool: %w", err)
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return dbfile.Report{}, err
	}
	if err := src.fetch(ctx, f, nil); err != nil {
		return dbfile.Report{}, err
	}
	return dbfile.CheckInChild(ctx, f, dbfile.CheckOptions{})
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

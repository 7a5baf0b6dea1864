package restore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// outcome is the end of a run that did all its steps.
func (x *execution) outcome() (Report, error) {
	out := slices.DeleteFunc(slices.Clone(x.plan.Without), func(name string) bool { return slices.Contains(x.plan.Lost, name) })
	switch {
	case x.plan.Kind == PlanReplace:
	case x.plan.retires():
		var names []string
		for _, m := range x.targets() {
			names = append(names, m.Name)
		}
		x.partly = append(x.partly, fmt.Sprintf("%s is out of the cluster that is no more: its old data dir is back, its etcd stopped, and starts are forbidden; add it to the present one with %s",
			strings.Join(names, ", "), x.toAdd(names)))
	case len(out) > 0:
		x.partly = append(x.partly, fmt.Sprintf("%s left out; add them later with %s", strings.Join(out, ", "), x.toAdd(out)))
	}
	if len(x.plan.Lost) > 0 {
		x.partly = append(x.partly, fmt.Sprintf("%s could not be reached and is as run %s left it; when it is back: %s",
			strings.Join(x.plan.Lost, ", "), cmp.Or(x.plan.Of, x.plan.Run), x.command("rollback")))
	}
	report := x.report(nil)
	switch {
	case !x.agentsBack():
		return report, ErrAgents
	case len(x.partly) > 0:
		return report, fmt.Errorf("%w: %s", ErrPartly, strings.Join(x.partly, "; "))
	}
	return report, nil
}

// toAdd are the commands that add members to a cluster that serves.
func (x *execution) toAdd(names []string) string {
	var commands []string
	for _, name := range names {
		commands = append(commands, x.command("replace-member", name))
	}
	return strings.Join(commands, " and ")
}

// stopped ends this process's work on a run that is not finished: it saves what was done, gives the locks back,
// and says what stands where and which commands lead on.
func (x *execution) stopped(ctx context.Context, at StepKind, err error) (Report, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if serr := x.record(ctx); serr != nil {
		x.Log.Warn("save the plan", "error", serr)
	}
	s := x.standing(ctx, at, err)
	report := x.report(err)
	if rerr := x.Repository.Record(ctx, x.runRecord(report, err.Error())); rerr != nil {
		x.Log.Warn("write the record of this run", "error", rerr)
	}
	x.releaseLocks(ctx, x.targets())
	return report, s
}

// standing says what stands on every member, and which commands lead on from there.
func (x *execution) standing(ctx context.Context, at StepKind, err error) *Stopped {
	s := &Stopped{Run: x.plan.Run, Step: at, Err: err}
	states, errs, ierr := x.inspect(ctx, x.plan.Run, false, true)
	if ierr == nil {
		x.states = states
	}
	begun := false
	for _, m := range x.targets() {
		state := fmt.Sprintf("unknown: %v", errs[m.Name])
		if st, ok := states[m.Name]; ok {
			state = st.describe()
			begun = begun || st.Journal != nil
		}
		s.Members = append(s.Members, Standing{Member: m.Name, Host: m.Host, State: state})
	}
	s.Next = x.next(begun || len(states) == 0)
	if lost := sortedKeys(errs); len(lost) > 0 && begun && x.plan.Kind == PlanRestore && !x.plan.retires() {
		flags := x.flags()
		for _, name := range lost {
			flags = append(flags, "--without "+name)
		}
		s.Next = append(s.Next, x.command("rollback", flags...)+"  (if "+strings.Join(lost, ", ")+" is lost: undoes it on the others)")
	}
	return s
}

// next are the commands that lead on from here; begun says whether any host may know of the run.
func (x *execution) next(begun bool) []string {
	if x.plan.Kind == PlanReplace && !x.reverting() {
		return x.nextOfReplace()
	}
	flags := x.flags()
	back := x.command("rollback", flags...)
	if x.plan.retires() {
		return []string{x.command("rollback") + "  (goes on putting the old data dir back)"}
	}
	if x.reverting() {
		return []string{back + "  (goes on putting the old data dirs back)"}
	}
	if !begun {
		return []string{x.command(string(x.plan.Kind), flags...) + "  (begins anew; nothing was changed)"}
	}
	verb := string(x.plan.Kind)
	if x.plan.Kind == PlanRollback && x.DiscardWrites {
		flags = append(flags, "--discard-writes")
	}
	on := x.command(verb, flags...) + "  (goes on from here)"
	if x.plan.Kind == PlanRollback {
		return []string{on}
	}
	if x.opened() {
		return []string{on, back + "  (restores what was there before; it says first which writes that would discard)"}
	}
	return []string{on, back + "  (puts everything back as it was; no new member has run)"}
}

// describe says in words what a member's place holds.
func (s State) describe() string {
	var parts []string
	switch s.Place {
	case PlaceOld:
		switch {
		case !s.Exists:
			parts = append(parts, s.DataDir+" holds no member, as before the run")
		default:
			parts = append(parts, s.DataDir+" is as before the run")
		}
		if s.Staged != "" {
			parts = append(parts, "the new one is staged beside it")
		}
	case PlaceNew:
		parts = append(parts, s.DataDir+" is the new one")
		if s.Before != "" {
			parts = append(parts, "the old one is kept as "+s.Before)
		}
	case PlaceHalf:
		parts = append(parts, "the exchange of "+s.DataDir+" was cut off, either command completes it")
	case PlaceUnknown:
		parts = append(parts, s.Detail)
	}
	switch {
	case s.Stopped():
		parts = append(parts, "etcd is stopped")
	case !s.Active && len(s.Running) == 0 && s.Ports[0].PID != 0:
		parts = append(parts, fmt.Sprintf("etcd does not run, but process %d (%s) serves %s", s.Ports[0].PID, s.Ports[0].Owner, s.Ports[0].URL))
	case s.Exits >= EndsAgain && len(s.Running) == 0:
		parts = append(parts, fmt.Sprintf("etcd has ended %d times and is started again each time", s.Exits))
	default:
		parts = append(parts, "etcd runs")
	}
	if s.Inhibited {
		parts = append(parts, "starts are forbidden")
	}
	return strings.Join(parts, "; ")
}

// report says what was done and proven so far.
func (x *execution) report(failure error) Report {
	now := x.Now()
	p := x.plan
	r := Report{Run: p.Run, Kind: p.Kind, Resumed: x.resumed, Elsewhere: p.Elsewhere, TargetRevision: p.TargetRevision, Bump: p.Bump,
		Source: ReportSource{Kind: p.Source.Kind, ID: p.Source.ID, Revision: p.Source.Revision, Time: p.Source.Time},
		Ghosts: []ReportGhost{}, Edits: p.Edits, Waiting: x.waiting, Members: x.members, Proof: x.proof, Agents: x.verdicts, Backup: x.backup,
		Without: p.Without, Discarded: p.Discards, Notes: append(append([]string{}, p.Notes...), x.partly...), Started: p.Started, Ended: now.UTC()}
	if x.reverting() {
		r.Kind = PlanRollback
	}
	r.OK = failure == nil && (!x.healthyAt.IsZero() && x.agentsBack() || x.reverted())
	if failure != nil {
		r.Error = failure.Error()
	}
	if p.Prepared != nil {
		r.ClusterID = p.Prepared.ClusterID
	}
	for _, g := range p.Ghosts {
		r.Ghosts = append(r.Ghosts, ReportGhost{Prefix: g.Prefix, Count: g.Count})
	}
	for _, s := range p.Steps {
		r.Stages = append(r.Stages, ReportStage{Name: string(s.Kind), Seconds: s.Seconds})
		for _, n := range s.Notes {
			r.Notes = append(r.Notes, string(s.Kind)+": "+n)
		}
	}
	// The last moment that the cluster is known to have served counts only if the backup is not itself that moment.
	r.RPOBasis = "the start of this run: nothing later than the backup is known"
	until := p.Started
	if p.LastServed.Time.After(p.Source.Time) {
		until, r.RPOBasis = p.LastServed.Time, p.LastServed.Basis
	}
	if p.Kind == PlanReplace {
		until, r.RPOBasis = p.Source.Time, "the cluster serves all the while"
	}
	if p.Source.Kind == "survivor" {
		until, r.RPOBasis = p.Source.Time, "the freshest member's own raft log, restored to its last entry"
		for _, c := range p.Source.Candidates {
			if c.Kind == "survivor" && c.log().compare(RaftLog{Term: p.Source.Term, Index: p.Source.Index}) > 0 && !c.Time.Before(until) {
				until, r.RPOBasis = c.Time, "last write in the raft log of "+c.ID+", which goes further than the one that was asked for"
			}
		}
	}
	r.RPOSeconds = max(0, until.Sub(p.Source.Time).Seconds())
	if x.resumed {
		r.Waiting.Away = max(0, x.begun.Sub(p.Started).Seconds()-stepSeconds(p.Steps, x.begun))
	}
	total := func(at time.Time) float64 {
		return max(0, at.Sub(p.Started).Seconds()-r.Waiting.Person-r.Waiting.Gate-r.Waiting.Away)
	}
	if !x.healthyAt.IsZero() {
		r.HealthySeconds = total(x.healthyAt)
		r.RTOSeconds = r.HealthySeconds
		if s := p.at(StepAgents); s != nil && !s.Done.IsZero() {
			r.RTOSeconds = total(s.Done)
		}
	}
	r.Members, r.Proof, r.Agents = listed(r.Members), listed(r.Proof), listed(r.Agents)
	return r
}

// listed is a list that JSON has as one even if it is empty.
func listed[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// stepSeconds is the time that steps had taken in attempts before t.
func stepSeconds(steps []Step, t time.Time) float64 {
	var sum float64
	for _, s := range steps {
		if !s.Begun.IsZero() && s.Begun.Before(t) && !s.Done.IsZero() && s.Done.Before(t) {
			sum += s.Seconds
		}
	}
	return sum
}

func (p *Plan) finish(kind StepKind, begun, now time.Time) {
	if s := p.at(kind); s != nil {
		s.Begun, s.Done, s.Seconds = begun.UTC(), now.UTC(), now.Sub(begun).Seconds()
	}
}

// reverting says whether this run is one that only puts dirs back.
func (x *execution) reverting() bool { return x.plan.at(StepRevert) != nil }

// reverted says whether it has done so.
func (x *execution) reverted() bool {
	s := x.plan.at(StepRevert)
	return s != nil && !s.Done.IsZero()
}

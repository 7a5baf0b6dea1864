package restore

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/storage/catalog"
)

// Plan says everything that a restore would do. It looks and computes, in the spool, but changes nothing on any
// host. What would be refused is an error beside the plan as far as it is known.
func (r *Restorer) Plan(ctx context.Context) (Plan, error) {
	if err := r.refuseUnfinished(ctx); err != nil {
		return Plan{}, err
	}
	plan, p, err := r.planRestore(ctx)
	if err == nil {
		err = r.awaitPrediction(ctx, &plan, p)
	}
	p.close()
	return plan, errors.Join(err, r.removeSpool(plan.Run))
}

func (r *Restorer) refuseUnfinished(ctx context.Context) error {
	last, err := r.Latest(ctx)
	if err != nil {
		return nil // hosts that cannot be asked are found by the checks, with all that is wrong
	}
	if last != nil && !last.Ended {
		return r.unfinished(last)
	}
	return nil
}

// unfinished is the error of a command that cannot begin because an earlier run has not ended.
func (r *Restorer) unfinished(last *HostRun) error {
	on, undo := r.command("restore"), r.command("rollback")
	if last.Plan.Kind == PlanReplace {
		on = r.command("replace-member", last.Plan.Replace.Member)
	}
	if last.Plan.Kind == PlanRollback || last.Plan.Abandoned {
		on = undo
	}
	err := fmt.Errorf("run %s, a %s of %s begun at %s, is unfinished (%d of %d steps done): go on with %q, or undo it with %q",
		last.Plan.Run, last.Plan.Kind, last.Plan.Source.ID, stamp(last.Plan.Started), last.Plan.progress(), len(last.Plan.Steps),
		on, undo)
	if last.Lock != nil && !last.LockDead {
		return &LockedError{Member: last.Members[0], Lock: *last.Lock, Age: r.Now().Sub(last.Lock.Heartbeat)}
	}
	return err
}

// newPlan begins a plan.
func (r *Restorer) newPlan(kind PlanKind) (Plan, error) {
	token := make([]byte, 16)
	if _, err := rand.Read(token); err != nil {
		return Plan{}, err
	}
	plan := Plan{Format: PlanFormat, Run: catalog.NewID(catalog.KindRun), Kind: kind, Cluster: r.Cluster, Started: r.Now().UTC(),
		Request: Request{At: r.At, From: r.From}, Without: r.Without, Bump: Bump, Token: "requorum-" + hex.EncodeToString(token)}
	if r.Elsewhere != nil {
		plan.Elsewhere = r.Elsewhere.Cluster
	}
	for _, m := range r.targets() {
		plan.Members = append(plan.Members, m.Member)
	}
	for _, kind := range []StepKind{StepPrepare, StepStage, StepStop, StepGate, StepExchange, StepAllow, StepStart, StepProve, StepResume, StepAgents, StepBackup, StepEnd} {
		if kind == StepBackup && r.Backup == nil || kind == StepResume && !r.resumes() {
			continue
		}
		plan.Steps = append(plan.Steps, r.step(kind))
	}
	return plan, nil
}

// planRestore plans a restore up to the prepared database, of which the prediction is under way.
func (r *Restorer) planRestore(ctx context.Context) (Plan, *prepared, error) {
	plan, err := r.newPlan(PlanRestore)
	if err != nil {
		return plan, nil, err
	}
	p, err := r.planOn(ctx, &plan, func(known *known, o *observed) (*source, error) { return r.chooseSource(ctx, known, o) })
	return plan, p, err
}

// planOn completes a plan on the source that choose picks. Everything that speaks against it is collected first.
func (r *Restorer) planOn(ctx context.Context, plan *Plan, choose func(*known, *observed) (*source, error)) (ready *prepared, err error) {
	if len(plan.Members) == 0 {
		return nil, errors.New("every member is left out with --without: nothing would be rebuilt")
	}
	if err := r.askable(*plan); err != nil {
		return nil, err
	}
	begun := r.Now()
	known, o, err := r.survey(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.lockedElsewhere(o); err != nil {
		return nil, err
	}
	src, err := choose(known, o)
	refusals, err := agents.SplitRefusals(err)
	if err != nil {
		return nil, err
	}
	checks, more := r.checks(o, src)
	refusals = append(refusals, more...)
	plan.Checks = slices.Concat(checks, r.oldCheck(ctx), r.drillCheck(ctx, known, src))
	source := ""
	if src != nil {
		source = src.ID
	}
	plan.LastServed = servedUntil(known.lastServed(source), o, r.Now())
	plan.Highest, plan.HighestFrom = known.highest()
	if known.err != nil {
		plan.Notes = append(plan.Notes, "not every store answered: "+known.err.Error())
	}
	if src == nil { // a choice to be made first: there is nothing to look into
		return nil, against(plan.Checks, refusals)
	}
	plan.Source = src.Source
	version, check, err := r.versions(o, src)
	if err != nil {
		check = Check{Name: "server version", Status: CheckFailed, Detail: err.Error()}
	}
	plan.TargetVersion = version
	plan.Checks = append(plan.Checks, check)

	p, report, err := r.fetch(ctx, plan.Run, src)
	if err != nil {
		// What else is wrong is worth knowing too.
		return nil, errors.Join(err, against(plan.Checks, refusals))
	}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	// The agents are asked now, not sooner: the backup may say where they are.
	if plan.Gate, err = agents.Gate(ctx, r.Agents, report.Index.Keys, nil); err != nil {
		return nil, err
	}
	r.fileFacts(plan, src, report)
	refusals = append(refusals, src.doubts(report)...)
	plan.raise(o)
	plan.Checks = append(plan.Checks, r.fileChecks(p, report)...)
	d, err := r.decide(plan, report.Index)
	if err != nil {
		return nil, err
	}
	refusals = append(refusals, d.Refusals...)
	if err := against(plan.Checks, refusals); err != nil {
		return nil, err
	}
	if err := r.edit(ctx, plan, p, report, d); err != nil {
		return nil, err
	}
	plan.finish(StepPrepare, begun, r.Now())
	return p, nil
}

// survey looks at the stores and at the members at once.
func (r *Restorer) survey(ctx context.Context) (known *known, o *observed, err error) {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		known, err = r.look(ctx)
		return err
	})
	group.Go(func() (err error) {
		o, err = r.observe(ctx, "", true)
		return err
	})
	err = group.Wait()
	return known, o, err
}

func (r *Restorer) askable(plan Plan) error {
	if r.Askable == nil {
		return nil
	}
	return r.Askable(plan)
}

// fileFacts takes from the file what the catalog did not say.
func (r *Restorer) fileFacts(plan *Plan, src *source, report dbfile.Report) {
	plan.Source = src.Source // fetching may have added to it
	plan.Source.Revision = report.Revision
	for _, c := range src.Candidates {
		if c.Kind == "survivor" && c.Revision > plan.Highest {
			plan.Highest, plan.HighestFrom = c.Revision, "what "+c.ID+" holds"
		}
	}
	if report.Revision > plan.Highest {
		plan.Highest, plan.HighestFrom = report.Revision, "the database itself"
	}
}

// raise takes the running members' and earlier runs' revisions into account, and sets the target.
func (p *Plan) raise(o *observed) {
	take := func(rev int64, from string) {
		if rev > p.Highest {
			p.Highest, p.HighestFrom = rev, from
		}
	}
	for _, s := range o.statuses {
		if s.Err == nil {
			take(s.Revision, "member at "+s.Endpoint)
		}
	}
	for _, name := range sortedKeys(o.states) {
		if j := o.states[name].Journal; j != nil && j.Run != p.Run {
			take(j.Plan.TargetRevision, "run "+j.Run)
		}
	}
	p.TargetRevision = p.Highest + p.Bump
}

// fileChecks judges what only the database tells.
func (r *Restorer) fileChecks(p *prepared, report dbfile.Report) (checks []Check) {
	checks = append(checks, Check{Name: "database", Status: CheckOK, Detail: fmt.Sprintf("revision %d, %d keys, %s", report.Revision, report.Keys, catalog.Size(report.Size))})
	for _, a := range report.Alarms {
		c := Check{Name: "alarms", Status: CheckWarning, Detail: "the source has alarm " + a.Type + "; it is cleared"}
		if a.Type == "CORRUPT" {
			c.Status, c.Detail = CheckFailed, "the source has a CORRUPT alarm: one member's data differed from the others', and nobody knows which was right; choose an earlier backup with --at"
		}
		checks = append(checks, c)
	}
	if report.Downgrade {
		checks = append(checks, Check{Name: "downgrade", Status: CheckWarning, Detail: "a downgrade was under way in the source; its mark is removed"})
	}
	return append(checks, r.loginCheck(p, report))
}

// lockedElsewhere refuses to begin while another run holds a member.
func (r *Restorer) lockedElsewhere(o *observed) error {
	for _, name := range sortedKeys(o.states) {
		if s := o.states[name]; s.Lock != nil && !s.Dead {
			return &LockedError{Member: name, Lock: *s.Lock, Age: r.Now().Sub(s.Lock.Heartbeat)}
		}
	}
	return nil
}

// against is everything that stands in the way, in one error, or nil.
func against(checks []Check, refusals []agents.Refusal) error {
	var err error
	if slices.ContainsFunc(checks, func(c Check) bool { return c.Status == CheckFailed }) {
		err = &ChecksError{Checks: checks}
	}
	refused := agents.JoinRefusals(refusals)
	switch {
	case err == nil:
		return refused
	case refused == nil:
		return err
	}
	return errors.Join(err, refused)
}

func (p *Plan) at(kind StepKind) *Step {
	for i := range p.Steps {
		if p.Steps[i].Kind == kind {
			return &p.Steps[i]
		}
	}
	return nil
}

// Text is the plan for a person: what it does, from what, and what was found.
func (p Plan) Text() string {
	var b strings.Builder
	line := func(label, format string, args ...any) {
		fmt.Fprintf(&b, "%s\n", strings.TrimRight(fmt.Sprintf("  %-9s ", label)+fmt.Sprintf(format, args...), " "))
	}
	fmt.Fprintf(&b, "%s of cluster %s, run %s\n", p.Kind, p.Cluster, p.Run)
	if p.Elsewhere != "" {
		what := "the backups"
		if p.Source.Kind == "survivor" {
			what = "what is left"
		}
		line("elsewhere", "a cluster of its own, from %s of %s", what, p.Elsewhere)
	}
	if p.Replace != nil {
		p.replaceText(line)
	} else {
		p.restoreText(line)
	}
	for _, n := range p.Notes {
		line("note", "%s", n)
	}
	for i, s := range p.Steps {
		fmt.Fprintf(&b, "  %2d. %-9s %s\n", i+1, s.Kind, s.Does)
	}
	return b.String()
}

// restoreText is what a plan says that builds the whole cluster anew. Checks that found nothing are only counted.
func (p Plan) restoreText(line func(label, format string, args ...any)) {
	line("source", "%s %s, revision %d of %s, from %s", p.Source.Kind, p.Source.ID, p.Source.Revision, stamp(p.Source.Time), p.Source.Where)
	if p.Source.Note != "" {
		line("", "%s", p.Source.Note)
	}
	for _, row := range p.Source.Table() {
		line(fmt.Sprintf("%9s", strings.TrimSpace(row[:1])), "%s", row[2:]) // the chosen one has its mark before it
	}
	line("opens at", "revision %d: %d known from %s, and %d more", p.TargetRevision, p.Highest, p.HighestFrom, p.Bump)
	for _, m := range p.Members {
		line("member", "%s on %s: %s", m.Name, m.Host, m.DataDir)
	}
	for _, name := range p.Without {
		line("left out", "%s", name)
	}
	fine := 0
	for _, c := range p.Checks {
		if c.Status == CheckOK {
			fine++
			continue
		}
		line(string(c.Status), "%s", c)
	}
	if fine > 0 {
		line("ok", "%s of hosts, data and cluster", catalog.Count(fine, "check"))
	}
	for _, g := range p.Ghosts {
		line("remove", "%s below %s: %s", catalog.Count(g.Count, "leased key"), g.Prefix, g.Reason)
	}
	for _, g := range p.Kept {
		line("keep", "%s below %s: %s", catalog.Count(g.Count, "leased key"), g.Prefix, g.Reason)
	}
	for _, e := range p.Edits {
		line(e.Action, "%s: %s", e.Key, e.Reason)
	}
	for _, name := range sortedKeys(p.Gate) {
		if detail := p.Gate[name].Detail; detail != "" {
			line("agent", "%s: %s", name, detail)
		}
	}
	if p.Discards != nil {
		line("discards", "%s", p.Discards.Detail)
	}
}

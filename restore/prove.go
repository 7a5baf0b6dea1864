package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/storage/catalog"
)

const provePoll = 250 * time.Millisecond

// prove waits until every member is healthy, and compares what they are and serve with the prediction.
func (x *execution) prove(ctx context.Context) (string, error) {
	c, err := x.Connect(x.endpoints(x.targets()))
	if err != nil {
		return "", fmt.Errorf("connect to cluster %s: %w", x.Cluster, err)
	}
	defer func() { _ = c.Close() }() // what was asked has been answered
	x.proof = nil
	var members int
	err = x.provenWithin(ctx, func() (err error) {
		members, err = x.proveOnce(ctx, c)
		return err
	})
	if err != nil {
		return "", err
	}
	return catalog.Count(members, "member") + " healthy", nil
}

// provenWithin repeats a proof that an election or a lost answer cuts off, which a cluster that has just come up may see on a machine that does
// much else, until HealthDeadline. Whatever else it finds is final.
func (x *execution) provenWithin(ctx context.Context, proof func() error) error {
	for begun := time.Now(); ; {
		err := proof()
		if err == nil || !errors.Is(err, cluster.ErrNoLeader) && !errors.Is(err, cluster.ErrUnreachable) || time.Since(begun) > x.HealthDeadline {
			return err
		}
		x.Log.Warn("prove the new cluster again", "error", err)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(provePoll):
		}
	}
}

// proveOnce is one attempt at the proof, of so many members. What was proven of the content before is not asked again: what a probe wrote makes an
// etcd 3.4 forget it.
func (x *execution) proveOnce(ctx context.Context, c *cluster.Client) (members int, err error) {
	statuses, err := x.waitHealthy(ctx, c)
	if err != nil {
		return 0, err
	}
	if len(x.proof) == 0 {
		x.prove1("health", true, fmt.Sprintf("%d members serve linearizable reads, cluster id %s", len(statuses), x.plan.Prepared.ClusterID))
		if err := x.proveContent(ctx, c, statuses); err != nil {
			x.proof = nil
			return 0, err
		}
	}
	var alarms []string
	for _, s := range statuses {
		for _, a := range s.Alarms {
			alarms = append(alarms, fmt.Sprintf("%s of member %x", a.Type, a.MemberID))
		}
	}
	if len(alarms) > 0 {
		return 0, fmt.Errorf("the new cluster has alarms: %v", slices.Compact(alarms))
	}
	rev, err := c.Probe(ctx)
	if err != nil {
		return 0, fmt.Errorf("write and read a key: %w", err)
	}
	if rev <= x.plan.Prepared.Revision {
		return 0, fmt.Errorf("a write got revision %d, not above the opened %d", rev, x.plan.Prepared.Revision)
	}
	x.prove1("alarms", true, "none")
	x.prove1("write", true, fmt.Sprintf("a leased key was written at revision %d, read from every member, and removed", rev))
	x.healthyAt = x.Now()
	return len(statuses), nil
}

func (x *execution) prove1(name string, ok bool, detail string) {
	status := CheckOK
	if !ok {
		status = CheckUnknown
	}
	x.proof = append(x.proof, Check{Name: name, Status: status, Detail: detail})
}

// waitHealthy waits until all members are the predicted ones, have a leader and serve.
func (x *execution) waitHealthy(ctx context.Context, c *cluster.Client) ([]cluster.MemberStatus, error) {
	deadline := time.NewTimer(x.HealthDeadline)
	defer deadline.Stop()
	targets := x.targets()
	looks := map[string]look{}
	looked := time.Now()
	for {
		statuses, err := c.Status(ctx)
		if err != nil {
			return nil, err
		}
		waiting, err := x.judge(targets, statuses)
		if err == nil && waiting != nil && time.Since(looked) > lookAgain {
			looked, err = time.Now(), x.ended(ctx, targets, statuses, looks)
		}
		if err != nil {
			return nil, err
		}
		if waiting == nil {
			waiting = firstUnhealthy(targets, c.Health(ctx))
		}
		if waiting == nil {
			for _, s := range statuses {
				x.raftTerm = max(x.raftTerm, s.RaftTerm)
			}
			return statuses, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-deadline.C:
			return nil, fmt.Errorf("not every member became healthy within %s: %w", x.HealthDeadline, waiting)
		case <-time.After(provePoll):
		}
	}
}

// endedLooks is how often in a row the host of a member that does not answer must show it stopped before it is not waited for any more.
const endedLooks = 3

// A look is what the host of a member that does not answer showed.
type look struct {
	stopped int // in a row
	exits   int
}

// ended is an error if a member that was started does not run: its etcd gave up, and nothing starts it again, or it does so again and again. Looks are the last
// ones, by member.
func (x *execution) ended(ctx context.Context, targets []Placed, statuses []cluster.MemberStatus, looks map[string]look) error {
	for i, m := range targets {
		if statuses[i].Err == nil {
			delete(looks, m.Name)
			continue
		}
		s, err := m.On.Inspect(ctx, InspectRequest{Member: m.Member, Run: x.plan.Run})
		if err != nil {
			delete(looks, m.Name)
			continue
		}
		if err := endedBy(m, s, looks); err != nil {
			return err
		}
	}
	return nil
}

// endedBy is ended by what the host of one member that does not answer shows now.
func endedBy(m Placed, s State, looks map[string]look) error {
	before, known := looks[m.Name]
	now := look{exits: s.Exits}
	if s.Stopped() {
		now.stopped = before.stopped + 1
	}
	looks[m.Name] = now
	again := known && s.Exits >= EndsAgain && s.Exits > before.exits // it may have come up at last, and not have said so yet
	if now.stopped < endedLooks && !again {
		return nil
	}
	said := ""
	if s.StatusOutput != "" {
		said = ": " + s.StatusOutput
	}
	return &HostError{Code: HostCommand, Member: m.Name, What: fmt.Sprintf("its etcd was started%s, and has ended again%s", onHost(m.Host), said),
		Advice: "its own log there says why; mend that and run the same command again"}
}

// judge says what a member still lacks, and as an error what waiting does not mend.
func (x *execution) judge(targets []Placed, statuses []cluster.MemberStatus) (waiting, err error) {
	want := x.plan.Prepared
	for i, s := range statuses {
		name := targets[i].Name
		if s.Err != nil {
			waiting = fmt.Errorf("%s: %w", name, s.Err)
			continue
		}
		if id := hexID(s.ClusterID); id != want.ClusterID {
			return nil, fmt.Errorf("%s belongs to cluster %s, not to the new cluster %s: what answers at %s is not what was started", name, id, want.ClusterID, s.Endpoint)
		}
		if id := hexID(s.MemberID); id != want.MemberIDs[name] {
			return nil, fmt.Errorf("%s has member id %s, not %s: its URL leads to another member", name, id, want.MemberIDs[name])
		}
		if s.Leader == 0 {
			waiting = fmt.Errorf("%s has no leader", name)
		}
	}
	return waiting, nil
}

func firstUnhealthy(targets []Placed, health []cluster.MemberHealth) error {
	for i, h := range health {
		if !h.OK {
			return fmt.Errorf("%s: %w", targets[i].Name, h.Err)
		}
	}
	return nil
}

// proveContent compares every member's hash at the opened revision with the prediction, followers first.
func (x *execution) proveContent(ctx context.Context, c *cluster.Client, statuses []cluster.MemberStatus) error {
	want := cluster.Hash{Hash: x.plan.Prepared.Hash, CompactRevision: x.plan.Prepared.HashCompactRev, Revision: x.plan.Prepared.Revision}
	targets := x.targets()
	order := make([]int, len(statuses))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return rank(statuses[a]) - rank(statuses[b]) })
	x.members = make([]ReportMember, len(statuses))
	unknown := ""
	for _, i := range order {
		s, m := statuses[i], &x.members[i]
		*m = ReportMember{Name: targets[i].Name, Healthy: true, Leader: s.IsLeader(), Revision: s.Revision, Hash: "unknown"}
		got, err := c.HashKV(ctx, s.Endpoint, want.Revision)
		if errors.Is(err, cluster.ErrCompacted) {
			// etcd 3.4 refuses the very revision of a compaction, but tells its current one: the same, until somebody writes.
			if now, cerr := c.HashKV(ctx, s.Endpoint, 0); cerr == nil && now.Revision == want.Revision {
				got, err = now, nil
			}
		}
		switch {
		case errors.Is(err, cluster.ErrCompacted):
			m.Detail = "compacted meanwhile, so its content at the opened revision is unknown"
		case errors.Is(err, cluster.ErrNeedsRoot):
			m.Detail = "the configured user may not ask for the hash, so the content is unknown"
		case err != nil:
			return fmt.Errorf("hash of %s: %w", m.Name, err)
		default:
			switch equal, why := got.Compare(want); equal {
			case cluster.Different:
				return fmt.Errorf("%s serves another content than was prepared: hash %08x at revision %d, predicted %08x", m.Name, got.Hash, got.Revision, want.Hash)
			case cluster.Incomparable:
				m.Detail = why
			case cluster.Equal:
				m.Hash = fmt.Sprintf("%08x", got.Hash)
			}
		}
		if m.Detail != "" {
			unknown = m.Name + ": " + m.Detail
		}
	}
	if unknown != "" {
		x.prove1("content", false, unknown)
		return nil
	}
	x.prove1("content", true, fmt.Sprintf("hash %08x at revision %d on every member, as predicted", want.Hash, want.Revision))
	return nil
}

func rank(s cluster.MemberStatus) int {
	if s.IsLeader() {
		return 1
	}
	return 0
}

// askAgents waits for every agent's own verdict. That one is not back is told at the end, not here: the cluster
// stands, and the rest is done.
func (x *execution) askAgents(ctx context.Context) (string, error) {
	x.verdicts = nil
	if len(x.Agents) == 0 {
		return "none configured", nil
	}
	c, err := x.Connect(x.endpoints(x.targets()))
	if err != nil {
		return "", fmt.Errorf("connect to cluster %s: %w", x.Cluster, err)
	}
	defer func() { _ = c.Close() }() // what was asked has been answered
	done := agents.Restored{Revision: x.plan.Prepared.Revision, Leases: map[int64]bool{}, HealthyAt: x.healthyAt, Live: c}
	for _, id := range x.plan.Prepared.Leases {
		done.Leases[id] = true
	}
	if x.p != nil && x.p.index != nil {
		done.Backup = x.p.index
	}
	done.Written = map[string]bool{}
	for _, e := range x.plan.Edits {
		done.Written[e.Key] = done.Written[e.Key] || e.Action == "write"
	}
	done.Change = func(ctx context.Context, changes ...agents.Change) (bool, error) {
		var swaps []cluster.Swap
		for _, ch := range changes {
			swaps = append(swaps, cluster.Swap(ch))
		}
		return c.Swap(ctx, swaps...)
	}
	watch := watcher{say: x.Progress.Say, now: x.Now, since: x.healthyAt}
	done.Tell = watch.tell
	ctx, cancel := context.WithDeadline(ctx, x.healthyAt.Add(x.AgentDeadline))
	defer cancel()
	if x.verdicts, err = agents.Verify(ctx, x.Agents, x.plan.Gate, done); err != nil {
		return "", err
	}
	back, unfinished := 0, ""
	for _, v := range x.verdicts {
		if v.OK {
			back++
		}
		if v.Unfinished != "" {
			unfinished += "\n  " + v.Name + ": " + v.Unfinished
		}
	}
	if unfinished != "" {
		return "", fmt.Errorf("%w: the restore goes on waiting when it is called again:%s", ErrAgents, unfinished)
	}
	return fmt.Sprintf("%d of %d back", back, len(x.verdicts)), nil
}

// firstBackup opens the new line, as one that a run of ours began, and backs it up.
func (x *execution) firstBackup(ctx context.Context) (string, error) {
	if err := x.openLine(ctx); err != nil {
		x.partly = append(x.partly, fmt.Sprintf("the new line could not be opened in every store: %v", err))
	}
	id, err := x.Backup(ctx, x.plan.Run)
	if cause := context.Cause(ctx); cause != nil {
		return "", cause
	}
	if err != nil {
		x.partly = append(x.partly, fmt.Sprintf("the first backup of the new cluster failed: %v", err))
		return "failed", nil
	}
	x.backup = id
	return id, nil
}

func (x *execution) openLine(ctx context.Context) error {
	lines, err := x.Repository.Lines(ctx)
	if err != nil {
		return err
	}
	for _, l := range lines {
		if l.Run == x.plan.Run {
			return nil
		}
	}
	parent := x.plan.Source.Line
	return x.Repository.OpenLine(ctx, catalog.Line{Format: catalog.Format, Line: catalog.NewID(catalog.KindLine), Cluster: x.Cluster,
		ClusterID: x.plan.Prepared.ClusterID, Time: catalog.OpenTime(lines, x.Now()), FirstRevision: x.plan.Prepared.Revision,
		RaftTerm: x.raftTerm, Parent: parent, ParentKnown: parent != "", Reason: x.reason(),
		Run: x.plan.Run, Source: catalog.LineRestore})
}

// reason is why the new line is opened, for people.
func (x *execution) reason() string {
	reason := fmt.Sprintf("%s of %s", x.plan.Kind, x.plan.Source.ID)
	if x.plan.Elsewhere != "" {
		reason += " of cluster " + x.plan.Elsewhere
	}
	return reason
}

// end writes the record, releases the holds, and gives every member back.
func (x *execution) end(ctx context.Context) error {
	report := x.report(nil)
	if err := x.Repository.Record(ctx, x.runRecord(report, "")); err != nil {
		x.partly = append(x.partly, fmt.Sprintf("the record of this run could not be written: %v", err))
	}
	if err := x.releaseHolds(ctx, x.plan.Run); err != nil {
		x.partly = append(x.partly, fmt.Sprintf("a hold could not be released, so nothing is expired until it is: %v", err))
	}
	if err := x.removeSpool(x.plan.Run); err != nil {
		x.partly = append(x.partly, err.Error())
	}
	for i := range x.plan.Steps {
		if x.plan.Steps[i].Kind == StepEnd {
			x.plan.Steps[i].Done = x.Now().UTC()
		}
	}
	return each(ctx, x.targets(), func(ctx context.Context, _ int, m Placed) error {
		req := x.request(ActUnlock, m)
		req.Plan = x.plan
		return m.On.Apply(ctx, req)
	})
}

// runRecord is what the stores keep of this run.
func (x *execution) runRecord(report Report, failure string) catalog.Run {
	outcome := "ok"
	switch {
	case failure != "":
		outcome = "stopped"
	case !x.agentsBack():
		outcome = "agents"
	case x.reverted():
		outcome = "reverted"
	}
	detail, err := json.Marshal(report)
	if err != nil {
		detail = []byte(strconv.Quote(err.Error()))
	}
	run := catalog.Run{ID: x.plan.Run, Kind: string(report.Kind), Outcome: outcome, Cluster: x.Cluster, Host: x.Owner.Host, User: x.Owner.User,
		Version: x.Version, Started: x.begun.UTC(), Ended: x.Now().UTC(), Snapshot: x.plan.Source.ID, Error: failure, Detail: detail}
	if x.plan.Source.Kind != "store" {
		run.Snapshot = ""
	}
	if p := x.plan.Prepared; p != nil && x.opened() {
		run.Seen = &catalog.Seen{ClusterID: p.ClusterID, Revision: p.Revision, RaftTerm: x.raftTerm, Time: x.Now().UTC()}
		for _, m := range x.members {
			run.Seen.Revision = max(run.Seen.Revision, m.Revision)
		}
	}
	return run
}

func (x *execution) agentsBack() bool {
	return !slices.ContainsFunc(x.verdicts, func(v agents.Verdict) bool { return !v.OK })
}

// opened says whether any new member may have run.
func (x *execution) opened() bool {
	for _, s := range x.states {
		if s.Opened() {
			return true
		}
	}
	return !x.healthyAt.IsZero()
}

package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/storage/catalog"
)

// Replace is the plan of one lost member's replacement. All ids are 16 hex digits.
type Replace struct {
	Member    string   `json:"member"`
	ClusterID string   `json:"cluster_id"`
	OldID     string   `json:"old_id,omitempty"` // empty: the cluster knows no such member
	NewID     string   `json:"new_id,omitempty"` // once it was added
	Voters    []string `json:"voters"`           // that stay, by name
	Serving   []string `json:"serving"`          // those of them that serve
}

const (
	// membershipWait is how long a change of the membership is tried for: just after an election a leader refuses it until it has heard of all others.
	membershipWait = 30 * time.Second
	membershipPoll = 250 * time.Millisecond
)

// PlanReplace says everything that [Restorer.ReplaceMember] would do. It changes nothing. What would be refused is an error beside the plan.
func (r *Restorer) PlanReplace(ctx context.Context, name string) (Plan, error) {
	one, err := r.only(name)
	if err != nil {
		return Plan{}, err
	}
	if err := one.refuseUnfinished(ctx); err != nil {
		return Plan{}, err
	}
	return one.planReplace(ctx, name)
}

// ReplaceMember replaces one lost member of a cluster that serves on: the cluster forgets the old one and adds a learner in its place, which
// begins with nothing but its identity, catches up, and gets its vote. The member's old dirs are kept. Interrupted, the same call goes on. Report
// and errors are those of [Restorer.Run].
func (r *Restorer) ReplaceMember(ctx context.Context, name string) (Report, error) {
	begun := r.Now()
	one, err := r.only(name)
	if err != nil {
		return Report{}, err
	}
	last, err := one.Latest(ctx)
	if err != nil {
		last = nil // the host is out of reach: the checks say so
	}
	if last != nil && !last.Ended {
		if last.Plan.Kind == PlanRestore {
			if err := r.leftBehind(ctx, last); err != nil {
				return Report{}, err
			}
		}
		if last.Plan.Kind != PlanReplace || last.Plan.Abandoned {
			return Report{}, one.unfinished(last)
		}
		if err := one.adopt(last.Plan); err != nil {
			return Report{}, err
		}
		x := &execution{Restorer: one, plan: &last.Plan, begun: begun, resumed: true}
		return x.execute(ctx)
	}
	if r.Resume {
		return Report{}, fmt.Errorf("--resume: member %s of cluster %s has no unfinished run to go on with", name, r.Cluster)
	}
	plan, err := one.planReplace(ctx, name)
	if err != nil {
		return Report{}, err
	}
	x := &execution{Restorer: one, plan: &plan, begun: begun}
	return x.confirmed(ctx)
}

// only is a restorer of one member, which leaves the others alone.
func (r *Restorer) only(name string) (*Restorer, error) {
	one := *r
	one.Without = nil
	known := false
	for _, m := range r.Members {
		if m.Name == name {
			known = true
		} else {
			one.Without = append(one.Without, m.Name)
		}
	}
	if !known {
		return nil, fmt.Errorf("cluster %s has no member %s in its configuration", r.Cluster, name)
	}
	return &one, nil
}

// planReplace looks at the cluster and at the member's host.
func (r *Restorer) planReplace(ctx context.Context, name string) (Plan, error) {
	plan, err := r.newPlan(PlanReplace)
	if err != nil {
		return plan, err
	}
	plan.Bump, plan.Steps = 0, nil
	plan.Replace = &Replace{Member: name}
	plan.Source = Source{Kind: "cluster", ID: r.Cluster, Where: "the members that serve", Time: plan.Started}
	for _, kind := range []StepKind{StepStop, StepRemove, StepAdd, StepJoin, StepExchange, StepAllow, StepStart, StepPromote, StepProve, StepResume, StepEnd} {
		if kind != StepResume || r.resumes() {
			plan.Steps = append(plan.Steps, r.step(kind))
		}
	}
	if err := r.askable(plan); err != nil {
		return plan, err
	}
	o, err := r.observe(ctx, "", true)
	if err != nil {
		return plan, err
	}
	if err := r.lockedElsewhere(o); err != nil {
		return plan, err
	}
	if len(o.healthy) == 0 {
		return plan, fmt.Errorf("cluster %s has no quorum: no member can be replaced, the cluster has to be restored: %s", r.Cluster, r.command("restore"))
	}
	clusterID, members, err := r.membership(ctx, o)
	if err != nil {
		return plan, err
	}
	plan.Replace.ClusterID = hexID(clusterID)
	checks, refusals := r.replaceChecks(&plan, o, members)
	size := int64(0)
	for _, s := range o.statuses {
		size = max(size, s.DBSize)
		if plan.TargetVersion == "" && slices.Contains(o.healthy, s.Endpoint) {
			plan.TargetVersion = s.Version
		}
		plan.TargetRevision = max(plan.TargetRevision, s.Revision)
	}
	plan.Source.Revision = plan.TargetRevision
	plan.Checks = append(checks, r.hostChecks(o, size)...)
	return plan, against(plan.Checks, refusals)
}

// membership asks those who serve.
func (r *Restorer) membership(ctx context.Context, o *observed) (uint64, []cluster.Member, error) {
	c, err := r.Connect(o.healthy)
	if err != nil {
		return 0, nil, fmt.Errorf("connect to cluster %s: %w", r.Cluster, err)
	}
	defer func() { _ = c.Close() }() // what was asked has been answered
	return c.CurrentMembers(ctx)
}

// replaceChecks finds the member in the cluster and judges whether the others have a quorum without it. The checks are collected, as refusals are.
func (r *Restorer) replaceChecks(plan *Plan, o *observed, members []cluster.Member) (checks []Check, refusals []agents.Refusal) {
	target := r.targets()[0]
	add := func(status CheckStatus, name, format string, args ...any) {
		checks = append(checks, Check{Name: name, Status: status, Detail: fmt.Sprintf(format, args...)})
	}
	serving := map[uint64]bool{}
	for _, s := range o.statuses {
		if s.Err == nil && slices.Contains(o.healthy, s.Endpoint) {
			serving[s.MemberID] = true
		}
		for _, a := range s.Alarms {
			if a.Type == "CORRUPT" && !target.isOld(memberOf(members, a.MemberID)) {
				add(CheckFailed, "alarms", "member %x has a CORRUPT alarm: its data differs from the others', and the new member could get the wrong one; replace that member first", a.MemberID)
			}
		}
	}
	rep := plan.Replace
	for _, m := range members {
		switch {
		case target.isOld(m):
			rep.OldID = hexID(m.ID)
			if serving[m.ID] && r.ReplaceHealthy != target.Name {
				refusals = append(refusals, agents.Refusal{
					What: fmt.Sprintf("member %s is healthy: it serves reads with a quorum", target.Name),
					Risk: "until the new one has caught up, the cluster can lose one member less than now",
					Flag: "--replace-healthy " + target.Name,
				})
			}
		case m.IsLearner:
			add(CheckWarning, "learners", "member %s is a learner already: etcd allows one at a time unless --max-learners says otherwise", labelOf(m))
		default:
			rep.Voters = append(rep.Voters, labelOf(m))
			if serving[m.ID] {
				rep.Serving = append(rep.Serving, labelOf(m))
			}
		}
	}
	quorum := len(rep.Voters)/2 + 1
	switch {
	case len(rep.Voters) == 0:
		add(CheckFailed, "quorum", "%s is the only member: a restore rebuilds it: %s", target.Name, r.command("restore"))
	case len(rep.Serving) < quorum:
		add(CheckFailed, "quorum", "without %s the cluster has %d voting members, of which %d serve (%s), and %d are needed: bring one back first",
			target.Name, len(rep.Voters), len(rep.Serving), strings.Join(rep.Serving, ", "), quorum)
	default:
		add(CheckOK, "quorum", "without %s, %d of %d voting members serve, %d are needed; until the new one has its vote %d more may be lost",
			target.Name, len(rep.Serving), len(rep.Voters), quorum, len(rep.Serving)-quorum)
	}
	if rep.OldID == "" {
		add(CheckWarning, "member", "the cluster has no member %s, and none with its peer URL %s: one is added", target.Name, target.PeerURL)
	}
	return checks, refusals
}

// isOld says whether a member of the cluster is the configured one.
func (m Member) isOld(c cluster.Member) bool {
	return c.Name == m.Name || slices.Contains(c.PeerURLs, m.PeerURL)
}

func memberOf(members []cluster.Member, id uint64) cluster.Member {
	for _, m := range members {
		if m.ID == id {
			return m
		}
	}
	return cluster.Member{}
}

func labelOf(m cluster.Member) string {
	if m.Name != "" {
		return m.Name
	}
	return hexID(m.ID)
}

// others connects to every member but the one that is replaced.
func (x *execution) others() (*cluster.Client, error) {
	var rest []Placed
	for _, m := range x.Members {
		if m.Name != x.plan.Replace.Member {
			rest = append(rest, m)
		}
	}
	c, err := x.Connect(x.endpoints(rest))
	if err != nil {
		return nil, fmt.Errorf("connect to the other members of cluster %s: %w", x.Cluster, err)
	}
	return c, nil
}

// change changes the membership by f, which is called until it succeeds, as long as a leader refuses it for a while.
func (x *execution) change(ctx context.Context, f func(ctx context.Context, c *cluster.Client, members []cluster.Member) error) error {
	c, err := x.others()
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // what was asked has been answered
	deadline := time.NewTimer(membershipWait)
	defer deadline.Stop()
	for {
		id, members, err := c.CurrentMembers(ctx)
		if err == nil && hexID(id) != x.plan.Replace.ClusterID {
			return fmt.Errorf("the members that answer are of cluster %s, the plan is of %s: somebody rebuilt the cluster meanwhile", hexID(id), x.plan.Replace.ClusterID)
		}
		if err == nil {
			err = f(ctx, c, members)
		}
		var host *HostError
		if err == nil || errors.As(err, &host) || errors.Is(err, cluster.ErrAuth) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-deadline.C:
			return err
		case <-time.After(membershipPoll):
		}
	}
}

// removeMember has the cluster forget the old member.
func (x *execution) removeMember(ctx context.Context) (string, error) {
	rep := x.plan.Replace
	if rep.OldID == "" {
		return "the cluster knows no such member", nil
	}
	if err := x.record(ctx); err != nil { // that it is begun: from here on there is no way back
		return "", err
	}
	err := x.change(ctx, func(ctx context.Context, c *cluster.Client, members []cluster.Member) error {
		for _, m := range members {
			if hexID(m.ID) == rep.OldID {
				return c.RemoveMember(ctx, m.ID)
			}
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("remove member %s (%s): %w", rep.Member, rep.OldID, err)
	}
	return "member id " + rep.OldID, nil
}

// addLearner adds the new member. One that an attempt before this one added is found by its peer URL.
func (x *execution) addLearner(ctx context.Context) (string, error) {
	rep, target := x.plan.Replace, x.targets()[0]
	err := x.change(ctx, func(ctx context.Context, c *cluster.Client, members []cluster.Member) error {
		for _, m := range members {
			if slices.Contains(m.PeerURLs, target.PeerURL) {
				rep.NewID = hexID(m.ID)
				return nil
			}
		}
		if x.states == nil {
			if err := x.see(ctx); err != nil {
				return err
			}
		}
		if s := x.states[target.Name]; s.Place != PlaceOld {
			return &HostError{Code: HostChanged, Member: target.Name, What: fmt.Sprintf("somebody removed the new member (%s) from the cluster; its identity is already in %s", rep.NewID, s.DataDir),
				Advice: "stop its etcd, move that dir away and " + s.Before + " back, remove " + strings.TrimSuffix(s.Marker, "inhibited") + " and plan anew"}
		}
		id, err := c.AddLearner(ctx, []string{target.PeerURL})
		if err == nil {
			rep.NewID = hexID(id)
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("add %s at %s as a learner: %w", rep.Member, target.PeerURL, err)
	}
	return "member id " + rep.NewID, nil
}

// stageIdentity stages the new member beside the old one's dirs.
func (x *execution) stageIdentity(ctx context.Context) error {
	rep, target := x.plan.Replace, x.targets()[0]
	if x.states == nil {
		if err := x.see(ctx); err != nil {
			return err
		}
	}
	if x.states[target.Name].Place != PlaceOld {
		return nil
	}
	return target.On.Stage(ctx, StageRequest{Member: target.Member, Run: x.plan.Run, Owner: x.Owner, Checksum: rep.ClusterID + "-" + rep.NewID,
		Join: &Join{ClusterID: rep.ClusterID, MemberID: rep.NewID}}, strings.NewReader(""))
}

// progressOf is what shows that a learner gets on: by its own answers, else by its disk.
type progressOf struct {
	applied    uint64
	size, free int64
	written    time.Time
}

// lookAgain is how often the disk of a learner that does not answer is looked at.
const lookAgain = 5 * time.Second

// promote waits until the learner has caught up and gives it its vote. It waits as long as the learner gets on.
func (x *execution) promote(ctx context.Context) (string, error) {
	rep, target := x.plan.Replace, x.targets()[0]
	c, err := x.others()
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }() // what was asked has been answered
	own, err := x.Connect([]string{target.ClientURL})
	if err != nil {
		return "", fmt.Errorf("connect to %s: %w", rep.Member, err)
	}
	defer func() { _ = own.Close() }() // what was asked has been answered
	moved := x.Now()
	var at, seen progressOf
	var looked time.Time
	looks := map[string]look{}
	for {
		_, members, err := c.CurrentMembers(ctx)
		if err == nil {
			i := slices.IndexFunc(members, func(m cluster.Member) bool { return hexID(m.ID) == rep.NewID })
			switch {
			case i < 0:
				return "", fmt.Errorf("somebody removed the new member %s (%s) from the cluster", rep.Member, rep.NewID)
			case !members[i].IsLearner:
				return "it has its vote", nil
			}
			err = c.Promote(ctx, members[i].ID)
			if err == nil {
				return "it has its vote", nil
			}
		}
		waiting := err
		statuses, err := own.Status(ctx)
		if err != nil {
			return "", err
		}
		for _, s := range statuses {
			seen.applied, seen.size = s.RaftAppliedIndex, s.DBSize
			if s.Err == nil {
				clear(looks)
				continue
			}
			waiting = errors.Join(waiting, s.Err)
			if x.Now().Sub(looked) <= lookAgain {
				continue
			}
			looked = x.Now() // at its disk: a learner checks no passwords, and none says how much of a snapshot has arrived
			st, err := target.On.Inspect(ctx, InspectRequest{Member: target.Member, Run: x.plan.Run, Deep: true})
			if err != nil {
				clear(looks)
				continue
			}
			if err := endedBy(target, st, looks); err != nil {
				return "", err
			}
			if !st.Stopped() {
				seen.free, seen.written = st.FreeBytes, st.LastWrite
			}
		}
		if seen != at {
			at, moved = seen, x.Now()
		}
		if x.Now().Sub(moved) > x.HealthDeadline {
			return "", fmt.Errorf("%s got no further for %s: %w; look at the log of its etcd", rep.Member, x.HealthDeadline, waiting)
		}
		select {
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-time.After(membershipPoll):
		}
	}
}

// proveReplaced shows that the new member serves with the others and holds what they hold.
func (x *execution) proveReplaced(ctx context.Context) (string, error) {
	x.proof = nil
	deadline := time.NewTimer(x.HealthDeadline)
	defer deadline.Stop()
	for {
		ok, waiting := x.replacedServes(ctx)
		if ok {
			break
		}
		select {
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-deadline.C:
			return "", fmt.Errorf("%s did not prove healthy within %s: %w", x.plan.Replace.Member, x.HealthDeadline, waiting)
		case <-time.After(provePoll):
		}
	}
	x.healthyAt = x.Now()
	return x.plan.Replace.Member + " is healthy", nil
}

// replacedServes is one attempt at the proof; waiting says what is not so yet.
func (x *execution) replacedServes(ctx context.Context) (ok bool, waiting error) {
	rep, target := x.plan.Replace, x.targets()[0]
	all, err := x.Connect(x.endpoints(x.Members))
	if err != nil {
		return false, err
	}
	defer func() { _ = all.Close() }() // what was asked has been answered
	statuses, err := all.Status(ctx)
	if err != nil {
		return false, err
	}
	var own *cluster.MemberStatus
	var peers []cluster.MemberStatus
	serving := []string{target.ClientURL}
	for _, s := range statuses {
		switch {
		case s.Endpoint == target.ClientURL:
			own = &s
		case s.Err == nil && hexID(s.ClusterID) == rep.ClusterID && s.Leader != 0:
			peers = append(peers, s)
			serving = append(serving, s.Endpoint)
		}
	}
	switch {
	case own == nil:
		return false, fmt.Errorf("%s is not among the endpoints", rep.Member)
	case own.Err != nil:
		return false, fmt.Errorf("%s: %w", rep.Member, own.Err)
	case hexID(own.MemberID) != rep.NewID || hexID(own.ClusterID) != rep.ClusterID:
		return false, fmt.Errorf("%s runs as member %s of cluster %s, not as %s of %s", rep.Member, hexID(own.MemberID), hexID(own.ClusterID), rep.NewID, rep.ClusterID)
	case own.Leader == 0 || own.IsLearner || len(peers) == 0:
		return false, fmt.Errorf("%s has no leader or no vote yet", rep.Member)
	}
	c, err := x.Connect(serving)
	if err != nil {
		return false, err
	}
	defer func() { _ = c.Close() }() // what was asked has been answered
	for _, h := range c.Health(ctx) {
		if !h.OK {
			return false, fmt.Errorf("linearizable read: %w", h.Err)
		}
	}
	rev, err := c.Probe(ctx)
	if err != nil {
		return false, fmt.Errorf("write and read a key: %w", err)
	}
	slices.SortStableFunc(peers, func(a, b cluster.MemberStatus) int { return rank(a) - rank(b) }) // a follower rather than the leader
	mine, err := c.HashKV(ctx, target.ClientURL, rev)
	theirs, other := cluster.Hash{}, peers[0]
	if err == nil {
		theirs, err = c.HashKV(ctx, other.Endpoint, rev)
	}
	hash, unknown := fmt.Sprintf("%08x", mine.Hash), ""
	switch equal, why := mine.Compare(theirs); {
	case errors.Is(err, cluster.ErrNeedsRoot), errors.Is(err, cluster.ErrCompacted):
		unknown = err.Error()
	case err != nil:
		return false, fmt.Errorf("compare the content: %w", err)
	case equal == cluster.Different:
		return false, fmt.Errorf("%s holds another content than %s at revision %d: hash %08x and %08x", rep.Member, other.Label(), rev, mine.Hash, theirs.Hash)
	case equal == cluster.Incomparable:
		unknown = why
	}
	if unknown != "" {
		hash = "unknown"
	}
	x.proof = nil
	x.prove1("health", true, fmt.Sprintf("%s serves linearizable reads as member %s, with its vote; so do %d others", rep.Member, rep.NewID, len(peers)))
	x.prove1("write", true, fmt.Sprintf("a leased key was written at revision %d, read from %s and every other member that serves, and removed", rev, rep.Member))
	if unknown == "" {
		x.prove1("content", true, fmt.Sprintf("hash %s at revision %d on %s and on %s", hash, rev, rep.Member, other.Label()))
	} else {
		x.prove1("content", false, unknown)
	}
	x.members = []ReportMember{{Name: rep.Member, Healthy: true, Leader: own.IsLeader(), Revision: rev, Hash: hash, Detail: unknown}}
	return true, nil
}

// replaceText is what a plan says that replaces one member.
func (p Plan) replaceText(line func(label, format string, args ...any)) {
	old := "none in the cluster"
	if p.Replace.OldID != "" {
		old = "member id " + p.Replace.OldID
	}
	for _, m := range p.Members {
		line("member", "%s on %s: %s, %s", m.Name, m.Host, m.DataDir, old)
	}
	line("cluster", "%s, revision %d; %s stay, of which serve: %s", p.Replace.ClusterID, p.Source.Revision, catalog.Count(len(p.Replace.Voters), "voting member"), strings.Join(p.Replace.Serving, ", "))
	for _, c := range p.Checks {
		line(string(c.Status), "%s", c)
	}
}

// nextOfReplace are the commands that lead on from a replacement that stopped.
func (x *execution) nextOfReplace() []string {
	next := []string{x.command("replace-member", x.plan.Replace.Member) + "  (goes on from here)"}
	if s := x.plan.at(StepRemove); s != nil && s.Begun.IsZero() {
		next = append(next, x.command("rollback")+"  (starts what was there before; the cluster has not removed it yet)")
	}
	return next
}

// replaceUndone refuses to roll back a replacement that has taken effect: etcd never lets a removed member back in.
func (r *Restorer) replaceUndone(plan Plan, ended bool) error {
	switch s := plan.at(StepRemove); {
	case ended:
		return fmt.Errorf("the last run, %s, replaced member %s, which cannot be rolled back: the cluster has forgotten the old one; for an earlier restore name its run: %s",
			plan.Run, plan.Replace.Member, r.command("runs"))
	case s != nil && !s.Begun.IsZero():
		return fmt.Errorf("run %s has begun to remove the old member %s from the cluster, which never lets it back in: go on with %q",
			plan.Run, plan.Replace.Member, r.command("replace-member", plan.Replace.Member))
	}
	return nil
}

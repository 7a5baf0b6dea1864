package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/storage/catalog"
)

// The exit codes of check, for monitoring systems, and the severities of its problems.
const (
	checkOK       = 0
	checkWarning  = 1
	checkCritical = 2
	checkUnknown  = 3
)

var severities = []string{"ok", "warning", "critical", "unknown"}

// checked is the JSON contract of check.
type checked struct {
	Cluster    string           `json:"cluster"`
	OK         bool             `json:"ok"`
	Members    []checkedMember  `json:"members"`
	Agents     []agents.Verdict `json:"agents"`
	LastBackup *checkedBackup   `json:"last_backup"`
	Problems   []checkedProblem `json:"problems"`

	code int
}

type checkedMember struct {
	Name     string `json:"name"`
	Endpoint string `json:"endpoint"`
	Healthy  bool   `json:"healthy"`
	Leader   bool   `json:"leader"`
	Learner  bool   `json:"learner"`
	Version  string `json:"version"`
	Revision int64  `json:"revision"`
	DBBytes  int64  `json:"db_bytes"`
	Error    string `json:"error,omitempty"`
}

type checkedBackup struct {
	ID         string  `json:"id"`
	AgeSeconds float64 `json:"age_seconds"`
}

type checkedProblem struct {
	Severity string `json:"severity"`
	What     string `json:"what"`
	Advice   string `json:"advice,omitempty"`
}

func newCheckCommand(a *app) *cobra.Command {
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "check CLUSTER",
		Short: "Members, agents, age of backups, against the objectives",
		Long: `For people and for monitoring systems: a summary line first, exit code 0 ok, 1 warning, 2 critical, 3 unknown.
It only reads.`,
		Args: maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.check(cmd.Context(), args, wait) },
	}
	cmd.Flags().DurationVar(&wait, "wait", 30*time.Second, "how long to watch agents until they are seen renewing their leases, which most do every third of the TTL; 0 leaves them out")
	return cmd
}

func (a *app) check(ctx context.Context, args []string, wait time.Duration) error {
	name := ""
	if len(args) == 1 {
		name = args[0]
	}
	t, err := a.target(name)
	if err != nil {
		return err
	}
	c := &checked{Cluster: t.cluster.Name, Members: []checkedMember{}, Agents: []agents.Verdict{}, Problems: []checkedProblem{}}
	serving := t.checkMembers(ctx, c)
	t.checkBackups(ctx, c)
	switch {
	case wait <= 0 || len(t.cluster.Agents) == 0:
	case serving:
		t.checkAgents(ctx, c, wait)
	default:
		c.problem(checkUnknown, "agents: they cannot be judged while no member is healthy", "")
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	c.OK = c.code == checkOK
	if a.json() {
		if err := a.printJSON(c); err != nil {
			return err
		}
	} else {
		a.showCheck(c)
	}
	if c.code != checkOK {
		return codeError{c.code}
	}
	return nil
}

// problem adds one. Critical outweighs unknown, and unknown outweighs a warning.
func (c *checked) problem(code int, what, advice string) {
	weight := map[int]int{checkOK: 0, checkWarning: 1, checkUnknown: 2, checkCritical: 3}
	if weight[code] > weight[c.code] {
		c.code = code
	}
	c.Problems = append(c.Problems, checkedProblem{Severity: severities[code], What: what, Advice: advice})
}

// fail adds the problem that err is.
func (c *checked) fail(code int, what string, err error) {
	var e *cluster.Error
	if errors.As(err, &e) {
		c.problem(code, fmt.Sprintf("%s: %s: %s", what, e.Endpoint, e.What), e.Advice)
		return
	}
	c.problem(code, fmt.Sprintf("%s: %v", what, err), "")
}

// checkMembers asks every member, and says whether any is healthy.
func (t *target) checkMembers(ctx context.Context, c *checked) (serving bool) {
	client, err := t.dial()
	if err != nil {
		c.fail(checkUnknown, "members", err)
		return false
	}
	defer client.Close()
	statuses, err := client.Status(ctx)
	if err != nil {
		return false // interrupted
	}
	health := client.Health(ctx)
	healthy, voters := 0, 0
	for i, s := range statuses {
		m := checkedMember{Name: s.Label(), Endpoint: s.Endpoint, Healthy: health[i].OK, Leader: s.IsLeader(), Learner: s.IsLearner,
			Version: s.Version, Revision: s.Revision, DBBytes: s.DBSize}
		if !s.IsLearner {
			voters++
		}
		if m.Healthy && !s.IsLearner {
			healthy++
		}
		if err := cmpErr(s.Err, health[i].Err); err != nil {
			m.Error = err.Error()
			c.fail(checkWarning, "member "+m.Name, err)
		}
		c.Members = append(c.Members, m)
	}
	switch {
	case healthy == 0:
		c.problem(checkCritical, "no member is healthy: the cluster is down or has lost its quorum", "requorum restore "+c.Cluster+" --plan")
	case healthy <= voters/2:
		c.problem(checkCritical, fmt.Sprintf("%d of %d members are healthy", healthy, voters), "bring the others back before one more fails")
	}
	for _, alarm := range alarmsOf(statuses) {
		c.problem(checkCritical, "alarm "+alarm.Type+" is raised", "see etcdctl alarm list")
	}
	if ids := clusterIDs(statuses); len(ids) > 1 {
		c.problem(checkCritical, fmt.Sprintf("the endpoints belong to %d different clusters: %x", len(ids), ids), "correct endpoints in the configuration")
	}
	return healthy > 0
}

func cmpErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func alarmsOf(statuses []cluster.MemberStatus) []cluster.Alarm {
	var all []cluster.Alarm
	for _, s := range statuses {
		for _, alarm := range s.Alarms {
			if !slices.Contains(all, alarm) {
				all = append(all, alarm)
			}
		}
	}
	return all
}

func clusterIDs(statuses []cluster.MemberStatus) []uint64 {
	var ids []uint64
	for _, s := range statuses {
		if s.ClusterID != 0 && !slices.Contains(ids, s.ClusterID) {
			ids = append(ids, s.ClusterID)
		}
	}
	return ids
}

func (t *target) checkBackups(ctx context.Context, c *checked) {
	repo, err := t.repository(ctx)
	if err != nil {
		c.fail(checkUnknown, "backups", err)
		return
	}
	snaps, err := repo.Snapshots(ctx)
	if err != nil {
		code := checkWarning
		if len(snaps) == 0 {
			code = checkUnknown
		}
		c.fail(code, "backups", err)
	}
	now := time.Now()
	var newest catalog.Snapshot
	for _, s := range snaps {
		if s.Failed() {
			c.problem(checkWarning, fmt.Sprintf("backup %s failed its verification", s.ID), "requorum verify "+c.Cluster+" "+s.ID)
		} else if s.Time.After(newest.Time) {
			newest = s
		}
	}
	rpo := time.Duration(t.cluster.Objectives.RPO)
	switch {
	case newest.ID == "" && err == nil:
		c.problem(checkCritical, "there is no backup", "requorum backup "+c.Cluster)
	case newest.ID != "":
		c.LastBackup = &checkedBackup{ID: newest.ID, AgeSeconds: now.Sub(newest.Time).Seconds()}
		if rpo > 0 && now.Sub(newest.Time) > rpo {
			c.problem(checkCritical, fmt.Sprintf("the newest backup %s is %s old, the objective is %s", newest.ID, ageOf(now, newest.Time), t.cluster.Objectives.RPO), "requorum backup "+c.Cluster)
		}
	}
	holds, err := repo.Holds(ctx)
	if err != nil && len(snaps) > 0 {
		c.fail(checkUnknown, "holds", err)
	}
	for _, h := range holds {
		c.problem(checkWarning, fmt.Sprintf("restore %s of %s is under way since %s: nothing is expired and no scheduled backup is taken", h.Run, h.Owner, h.Started.Format(time.RFC3339)),
			"if it is dead: requorum restore "+c.Cluster+" --resume")
	}
}

// checkAgents asks for the verdict that a restore would ask for, with a backup nobody restored: everything registered counts, if it is renewed.
func (t *target) checkAgents(ctx context.Context, c *checked, wait time.Duration) {
	configured, _, err := t.agents()
	if err != nil {
		c.fail(checkUnknown, "agents", err)
		return
	}
	client, err := t.dial()
	if err != nil {
		c.fail(checkUnknown, "agents", err)
		return
	}
	defer client.Close()
	bases, err := agents.Gate(ctx, configured)
	if err != nil {
		c.fail(checkUnknown, "agents", err)
		return
	}
	look, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	verdicts, err := agents.Verify(look, configured, bases, agents.Restored{HealthyAt: time.Now(), Live: client})
	if err != nil {
		c.fail(checkUnknown, "agents", err)
		return
	}
	c.Agents = verdicts
	for _, v := range verdicts {
		if !v.OK {
			what := fmt.Sprintf("agent %s: %s", v.Name, v.Verdict)
			for _, check := range v.Checks {
				if !check.OK {
					what += "; " + check.Name + ": " + check.Detail
				}
			}
			c.problem(checkCritical, what, "look at the agents themselves; etcd may be healthy without them")
		}
	}
}

func (a *app) showCheck(c *checked) {
	healthy := 0
	for _, m := range c.Members {
		if m.Healthy {
			healthy++
		}
	}
	last := "no backup"
	if c.LastBackup != nil {
		last = fmt.Sprintf("last backup %s old", ageOf(time.Now(), time.Now().Add(-time.Duration(c.LastBackup.AgeSeconds*float64(time.Second)))))
	}
	word := map[int]string{checkOK: "OK", checkWarning: "WARNING", checkCritical: "CRITICAL", checkUnknown: "UNKNOWN"}[c.code]
	fmt.Fprintf(a.out, "%s: %s: %d of %d members healthy, %s, %d problems\n", word, c.Cluster, healthy, len(c.Members), last, len(c.Problems))
	for _, p := range c.Problems {
		fmt.Fprintf(a.out, "%s: %s\n", p.Severity, p.What)
		if p.Advice != "" {
			fmt.Fprintf(a.out, "  try: %s\n", p.Advice)
		}
	}
	for _, m := range c.Members {
		role := ""
		if m.Leader {
			role = ", leader"
		}
		if m.Error == "" {
			fmt.Fprintf(a.out, "member %s at %s: etcd %s, revision %d, %s%s\n", m.Name, m.Endpoint, m.Version, m.Revision, size(m.DBBytes), role)
		}
	}
	for _, v := range c.Agents {
		fmt.Fprintf(a.out, "agent %s: %s\n", v.Name, v.Verdict)
	}
}

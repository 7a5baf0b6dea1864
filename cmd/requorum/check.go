package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/drills"
	"github.com/requorum/requorum/internal/health"
	"github.com/requorum/requorum/storage/catalog"
)

// The exit codes of check, for monitoring systems.
const (
	checkOK       = 0
	checkWarning  = 1
	checkCritical = 2
	checkUnknown  = 3
)

// checked is the JSON contract of check.
type checked struct {
	Cluster    string           `json:"cluster"`
	OK         bool             `json:"ok"`
	Members    []checkedMember  `json:"members"`
	Agents     []agents.Verdict `json:"agents"`
	LastBackup *checkedBackup   `json:"last_backup"`
	Problems   []checkedProblem `json:"problems"`

	worst health.Severity
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
	if wait < 0 {
		return usage("--wait %s: it cannot be negative", wait)
	}
	c, err := t.checked(ctx, wait)
	if err != nil {
		return err
	}
	if a.json() {
		if err := a.printJSON(c); err != nil {
			return err
		}
	} else {
		a.showCheck(c)
	}
	if code := c.code(); code != checkOK {
		return codeError{code}
	}
	return nil
}

// checked checks everything. The error is that of ctx alone.
func (t *target) checked(ctx context.Context, wait time.Duration) (*checked, error) {
	c := &checked{Cluster: t.cluster.Name, Members: []checkedMember{}, Agents: []agents.Verdict{}, Problems: []checkedProblem{}}
	serving := t.checkMembers(ctx, c)
	t.checkBackups(ctx, c)
	switch {
	case wait <= 0 || len(t.cluster.Agents) == 0:
	case serving:
		t.checkAgents(ctx, c, wait)
	default:
		c.add(health.Problem{Severity: health.Unknown, Name: health.Agents, What: "agents: they cannot be judged while no member is healthy"})
	}
	c.OK = c.code() == checkOK
	return c, context.Cause(ctx)
}

// add takes problems, and the exit code that the worst of all asks for.
func (c *checked) add(problems ...health.Problem) {
	for _, p := range problems {
		if p.Severity.Rank() > c.worst.Rank() {
			c.worst = p.Severity
		}
		c.Problems = append(c.Problems, checkedProblem{Severity: string(p.Severity), What: p.What, Advice: p.Advice})
	}
}

// code is the exit code.
func (c *checked) code() int {
	switch c.worst {
	case health.Warning:
		return checkWarning
	case health.Critical:
		return checkCritical
	case health.Unknown:
		return checkUnknown
	}
	return checkOK
}

// checkMembers asks every member, and says whether any is healthy.
func (t *target) checkMembers(ctx context.Context, c *checked) (serving bool) {
	client, err := t.dial()
	if err != nil {
		c.add(health.Failure(health.Unknown, health.Access, "members", err))
		return false
	}
	defer client.Close()
	o, err := health.Observe(ctx, client, health.TakeLook(ctx, client, time.Now()), time.Now())
	if err != nil {
		return false // interrupted
	}
	for _, m := range o.Members {
		c.Members = append(c.Members, checkedMember{Name: m.Name, Endpoint: m.Endpoint, Healthy: m.Healthy, Leader: m.Leader, Learner: m.Learner,
			Version: m.Version, Revision: m.Revision, DBBytes: m.DBBytes, Error: m.Error})
	}
	c.add(health.Judge(c.Cluster, o, t.thresholds())...)
	return o.Healthy > 0
}

// thresholds are the configured ones.
func (t *target) thresholds() health.Thresholds {
	h := t.cluster.Thresholds
	return health.Thresholds{
		Margin: h.QuorumMargin, DatabaseWarning: h.DatabaseWarning.Share(), DatabaseCritical: h.DatabaseCritical.Share(), Quota: int64(h.Quota),
		Fragmentation: h.Fragmentation.Share(), Lag: h.Lag, ClockSkew: time.Duration(h.ClockSkew),
		CertificateWarning: time.Duration(h.CertificateWarning), CertificateCritical: time.Duration(h.CertificateCritical),
		LeaderChanges: h.LeaderChanges, Streak: h.Observations,
	}
}

// objectives are the configured ones that are judged by what is stored.
func (t *target) objectives() health.Objectives {
	return health.Objectives{
		RPO: time.Duration(t.cluster.Objectives.RPO), DrillAge: time.Duration(t.cluster.Objectives.DrillAge),
		VerificationAge: time.Duration(t.cluster.Thresholds.VerificationAge),
	}
}

func (t *target) checkBackups(ctx context.Context, c *checked) {
	repo, err := t.repository(ctx)
	if err != nil {
		c.add(health.Failure(health.Unknown, health.Stores, "backups", err))
		return
	}
	var s health.Stored
	s.Snapshots, s.SnapshotsErr = repo.Snapshots(ctx)
	s.Holds, s.HoldsErr = repo.Holds(ctx)
	if t.cluster.Objectives.DrillAge > 0 {
		var last *drills.Past
		if last, s.LastDrillErr = new(drills.Memory).Last(ctx, repo); last != nil {
			s.LastDrill = last.Started
		}
	}
	now := time.Now()
	if newest, ok := s.Newest(); ok {
		c.LastBackup = &checkedBackup{ID: newest.ID, AgeSeconds: now.Sub(newest.Time).Seconds()}
	}
	c.add(s.Judge(c.Cluster, now, t.objectives())...)
}

// checkAgents asks for the verdict that a restore would ask for, with a backup nobody restored: everything registered counts, if it is renewed.
func (t *target) checkAgents(ctx context.Context, c *checked, wait time.Duration) {
	configured, _, err := t.agents()
	if err != nil {
		c.add(health.Failure(health.Unknown, health.Agents, "agents", err))
		return
	}
	client, err := t.dial()
	if err != nil {
		c.add(health.Failure(health.Unknown, health.Agents, "agents", err))
		return
	}
	defer client.Close()
	look, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	var mu sync.Mutex
	var unread error
	keys := func(prefix string) iter.Seq[*mvccpb.KeyValue] { // where agents say how they can be asked
		found, err := client.Get(look, prefix)
		mu.Lock()
		defer mu.Unlock()
		unread = errors.Join(unread, err)
		return slices.Values(found)
	}
	bases, err := agents.Gate(look, configured, keys, nil)
	if err = errors.Join(err, unread); err != nil {
		c.add(health.Failure(health.Unknown, health.Agents, "agents", err))
		return
	}
	verdicts, err := agents.Verify(look, configured, bases, agents.Restored{HealthyAt: time.Now(), Live: client})
	if err != nil {
		c.add(health.Failure(health.Unknown, health.Agents, "agents", err))
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
			c.add(health.Problem{Severity: health.Critical, Name: health.Agents, Subject: v.Name, What: what, Advice: "look at the agents themselves; etcd may be healthy without them"})
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
	word := map[int]string{checkOK: "OK", checkWarning: "WARNING", checkCritical: "CRITICAL", checkUnknown: "UNKNOWN"}[c.code()]
	fmt.Fprintf(a.out, "%s: %s: %d of %d members healthy, %s, %s\n", word, c.Cluster, healthy, len(c.Members), last, catalog.Count(len(c.Problems), "problem"))
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
			fmt.Fprintf(a.out, "member %s at %s: etcd %s, revision %d, %s%s\n", m.Name, m.Endpoint, m.Version, m.Revision, catalog.Size(m.DBBytes), role)
		}
	}
	for _, v := range c.Agents {
		fmt.Fprintf(a.out, "agent %s: %s\n", v.Name, v.Verdict)
		for _, check := range v.Checks {
			ok := "ok"
			if !check.OK {
				ok = "NO"
			}
			fmt.Fprintf(a.out, "  %s %s: %s\n", ok, check.Name, check.Detail)
		}
	}
}

package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/internal/config"
	"github.com/requorum/requorum/internal/member"
	"github.com/requorum/requorum/restore"
	"github.com/requorum/requorum/restore/local"
)

// restoreFlags are the operator's answers.
type restoreFlags struct {
	at, from         string
	plan, yes        bool
	resume           bool
	takeOver         string
	without          []string
	fenced           []string
	replaceHealthy   string
	discardWrites    bool
	targetVersion    string
	patroniSync      string
	openPaused       bool
	keepLeased       []string
	dropLeased       []string
	acceptUnverified []string
	agentDeadline    time.Duration

	as, members string // the new cluster's name and the file with its members

	elsewhere *restore.Elsewhere
}

func newRestoreCommand(a *app) *cobra.Command {
	var f restoreFlags
	cmd := &cobra.Command{
		Use:   "restore CLUSTER",
		Short: "Rebuild the whole cluster from a backup, and prove it",
		Long: `Plans, shows the plan, asks, and then rebuilds every member: stages new data dirs beside the old ones, swaps
them in barriers over all members, starts them, and proves that etcd and every agent are back. The old data dirs
are kept as DIR.before-RUN.

Whatever is in doubt is refused (exit code 14) with the flag that would allow it and what that risks; --yes answers none
of these. Interrupted at any point, the same command goes on, and "requorum rollback" undoes it.`,
		Args: exactArgs("CLUSTER"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.restore(cmd.Context(), args[0], f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.at, "at", "", "`WHAT` to restore: an id, a revision, or a moment such as \"2h ago\" (default the newest backup of the current line)")
	flags.StringVar(&f.from, "from", "", "`SOURCE`: store, store:NAME, survivor:MEMBER or file:PATH (default the freshest of backups and, without a quorum, members' own data)")
	flags.BoolVar(&f.plan, "plan", false, "show what would be done and change nothing")
	flags.BoolVar(&f.plan, "dry-run", false, "the same as --plan")
	flags.BoolVar(&f.resume, "resume", false, "go on with an unfinished run, and begin none")
	flags.StringVar(&f.replaceHealthy, "replace-healthy", "", "replace the healthy cluster `NAME`; what it wrote since the backup is lost")
	f.add(cmd)
	return cmd
}

func newRollbackCommand(a *app) *cobra.Command {
	var f restoreFlags
	cmd := &cobra.Command{
		Use:   "rollback CLUSTER [RUN]",
		Short: "Back to the data dirs as they were before a restore",
		Long: `Until the first new member has started, this renames the old data dirs back. After that it is itself a restore,
from the old dirs, with the same checks and the same proof; what clients wrote to the new cluster is given up,
which is asked about.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("CLUSTER is missing: %s", cmd.UseLine())
			}
			return maxArgs(2)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.rollback(cmd.Context(), args[0], strings.Join(args[1:], ""), f)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.plan, "dry-run", false, "show what would be done and change nothing")
	flags.BoolVar(&f.discardWrites, "discard-writes", false, "give up what clients wrote to the new cluster")
	f.add(cmd)
	return cmd
}

// add adds the flags that both commands have.
func (f *restoreFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&f.yes, "yes", false, "do not ask the ordinary question")
	flags.StringVar(&f.takeOver, "take-over", "", "go on in place of `RUN`, whose process is dead")
	flags.StringVar(&f.as, "as", "", "build a cluster of its own with this `NAME`, on other members, from the backups of CLUSTER or, with --from survivor:MEMBER, from what a member of it holds")
	flags.StringVar(&f.members, "members", "", "`FILE` with its members:, as in a configuration, if NAME is not configured")
	flags.StringArrayVar(&f.without, "without", nil, "leave the member `NAME` out; may be repeated")
	flags.StringArrayVar(&f.fenced, "fenced", nil, "the member `NAME` is powered off and stays so; may be repeated")
	flags.StringVar(&f.targetVersion, "target-version", "", "`VERSION` of the etcd servers that will start, such as 3.5.35 (default as found)")
	flags.StringVar(&f.patroniSync, "patroni-sync", "", "what becomes of Patroni's sync keys in synchronous mode: `remove|keep`")
	flags.BoolVar(&f.openPaused, "open-paused", false, "open Patroni scopes with missing agents paused, wait for these, and open them again")
	flags.StringArrayVar(&f.keepLeased, "keep-leased", nil, "leased keys below `PREFIX` are data and stay; may be repeated")
	flags.StringArrayVar(&f.dropLeased, "drop-leased", nil, "leased keys below `PREFIX` are registrations and go; may be repeated")
	flags.StringArrayVar(&f.acceptUnverified, "accept-unverified", nil, "open the Patroni `SCOPE` although nobody can tell whether that is safe; may be repeated")
	flags.DurationVar(&f.agentDeadline, "agent-deadline", 0, "how long to wait for the agents (default the longest deadline of the configured ones)")
}

// restorer is the restore that the configuration and the answers describe.
func (t *target) restorer(ctx context.Context, f restoreFlags) (*restore.Restorer, error) {
	if len(t.cluster.Members) == 0 {
		return nil, usage("cluster %s has no members in the configuration: a restore must know where to rebuild them", t.cluster.Name)
	}
	if f.replaceHealthy != "" && f.replaceHealthy != t.cluster.Name {
		return nil, usage("--replace-healthy %s: the cluster to restore is %s", f.replaceHealthy, t.cluster.Name)
	}
	if err := t.answers(f); err != nil {
		return nil, err
	}
	repo, err := t.repository(ctx)
	if err != nil {
		return nil, err
	}
	configured, deadlines, err := t.agents()
	if err != nil {
		return nil, err
	}
	conn, err := t.connection(t.cluster.Connection)
	if err != nil {
		return nil, err
	}
	o := restore.Options{
		Cluster: t.cluster.Name, At: f.at, From: f.from, Without: f.without, Fenced: f.fenced, ReplaceHealthy: f.replaceHealthy,
		DiscardWrites: f.discardWrites, Resume: f.resume, TakeOver: f.takeOver, TargetVersion: f.targetVersion,
		Agents: configured, AgentDeadline: f.agentDeadline,
		AgentOptions: agents.Options{KeepPrefixes: prefixes(t.cluster.KeepLeased), KeepLeased: f.keepLeased, DropLeased: f.dropLeased,
			PatroniSync: f.patroniSync, OpenPaused: f.openPaused, AcceptUnverified: f.acceptUnverified},
		Owner: owner(), Repository: repo, Elsewhere: f.elsewhere,
		Connect:     t.dialTo,
		Credentials: restore.Credentials{Username: conn.Username, Password: conn.Password, CommonName: commonName(conn.TLS)},
		Predict:     predict, Replay: member.Replay,
		SpoolDir: string(t.cfg.SpoolDir), Command: t.command(), Version: version, Progress: t.reporter, Log: t.log(),
	}
	if o.TargetVersion == "" {
		o.TargetVersion = string(t.cluster.TargetVersion)
	}
	if o.AgentDeadline == 0 {
		for _, d := range deadlines {
			o.AgentDeadline = max(o.AgentDeadline, d)
		}
	}
	o.Backup = func(ctx context.Context, run string) (string, error) {
		result, err := t.take(ctx, repo, takeFlags{run: run}, t.reporter)
		return result.ID, err
	}
	if !f.yes {
		if !f.plan {
			o.Askable = t.askable
		}
		o.Confirm = func(ctx context.Context, plan restore.Plan) (yes bool, err error) {
			t.reporter.Aside(func() { yes, err = t.confirm(ctx, plan) })
			return yes, err
		}
	}
	if o.Members, err = t.placed(); err != nil {
		return nil, err
	}
	sweepTrials(o.SpoolDir)
	return restore.New(o)
}

func restoreMember(m config.Member) restore.Member {
	return restore.Member{Name: m.Name, Host: string(m.Host), PeerURL: string(m.PeerURL), ClientURL: string(m.ClientURL),
		DataDir: string(m.DataDir), WALDir: string(m.WALDir), Service: restore.Service{Systemd: m.Service.Systemd,
			StaticPod: string(m.Service.StaticPod), Start: m.Service.Start, Stop: m.Service.Stop, Status: m.Service.Status, Inhibit: m.Service.Inhibit, Allow: m.Service.Allow}}
}

func owner() restore.Owner {
	o := local.Owner(rand.Text())
	o.User, o.Host = username(), hostname()
	return o
}

// command is how a person calls this program for this configuration.
func (t *target) command() string {
	path := t.cfg.File
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return os.Args[0] + " -c " + path
}

// commonName is that of the client certificate, "" without one: etcd knows a user by it who gives no name.
func commonName(c *tls.Config) string {
	if c == nil || c.GetClientCertificate == nil {
		return ""
	}
	cert, err := c.GetClientCertificate(&tls.CertificateRequestInfo{})
	if err != nil || len(cert.Certificate) == 0 {
		return ""
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return ""
	}
	return leaf.Subject.CommonName
}

// restorable says whether it is known where the cluster's members live.
func (t *target) restorable() bool { return len(t.cluster.Members) > 0 }

func prefixes(keys []config.KeyPrefix) []string {
	all := make([]string, 0, len(keys))
	for _, k := range keys {
		all = append(all, string(k))
	}
	return all
}

// askable refuses to plan what could not be asked about in the end.
func (t *target) askable(plan restore.Plan) error {
	if isTerminal(t.in) {
		return nil
	}
	what := "every member"
	if plan.Replace != nil {
		what = "member " + plan.Replace.Member
	}
	return usage("a %s changes %s of %s and must be confirmed: there is no terminal to ask on, so give --yes; --dry-run shows the plan", plan.Kind, what, t.cluster.Name)
}

// confirm puts the ordinary question.
func (t *target) confirm(ctx context.Context, plan restore.Plan) (bool, error) {
	fmt.Fprint(t.err, plan.Text())
	if err := t.askable(plan); err != nil { // going back to the old dirs needs no planning, and so was not asked before
		return false, err
	}
	line, err := t.ask(ctx, "\nType the name of the cluster to go on: ")
	return err == nil && line == t.cluster.Name, err
}

// restoring prepares for a restore of the cluster, or of the one that --as names, and for what undoes it.
func (a *app) restoring(ctx context.Context, name string, f restoreFlags) (*target, *restore.Restorer, error) {
	t, err := a.target(name)
	if err != nil {
		return nil, nil, err
	}
	if t, err = t.elsewhere(ctx, &f); err != nil {
		return nil, nil, err
	}
	if err := t.spool().Ready(0); err != nil {
		return nil, nil, err
	}
	r, err := t.restorer(ctx, f)
	return t, r, err
}

func (a *app) restore(ctx context.Context, name string, f restoreFlags) error {
	t, r, err := a.restoring(ctx, name, f)
	if err != nil {
		return err
	}
	if f.plan {
		plan, err := r.Plan(ctx)
		return t.planned(plan, err)
	}
	report, err := r.Run(ctx)
	if report.OK && f.members != "" {
		t.say("%s is not configured yet: add it to the configuration, with the members of %s and stores: [%s], so that it is backed up from now on", f.as, f.members, strings.Join(t.cluster.Stores, ", "))
	}
	return t.restored(report, err)
}

func (a *app) rollback(ctx context.Context, name, run string, f restoreFlags) error {
	t, r, err := a.restoring(ctx, name, f)
	if err != nil {
		return err
	}
	if f.plan {
		return t.rollbackDryRun(ctx, r, run)
	}
	report, err := r.Rollback(ctx, run)
	return t.restored(report, err)
}

// rollbackDryRun goes as far as the question, and answers it with no.
func (t *target) rollbackDryRun(ctx context.Context, r *restore.Restorer, run string) error {
	var planned restore.Plan
	r.Confirm = func(_ context.Context, plan restore.Plan) (bool, error) {
		planned = plan
		return false, nil
	}
	_, err := r.Rollback(ctx, run)
	if errors.Is(err, restore.ErrDeclined) {
		err = nil
	}
	return t.planned(planned, err)
}

func (t *target) planned(plan restore.Plan, err error) error {
	t.reporter.Close()
	if t.json() {
		if err != nil {
			return err
		}
		return t.printJSON(plan)
	}
	if plan.TargetRevision > 0 || plan.Replace != nil { // else it came to an end before there was anything to plan with
		fmt.Fprint(t.out, plan.Text())
	}
	return err
}

// restored shows the report of a run, also of one that did not end well.
func (t *target) restored(report restore.Report, err error) error {
	t.reporter.Close()
	if report.Run == "" {
		return err
	}
	if t.json() {
		return t.outcome(report, err)
	}
	t.showReport(report)
	return err
}

func (t *target) showReport(r restore.Report) {
	w := func(format string, args ...any) {
		fmt.Fprintln(t.out, strings.TrimRight(fmt.Sprintf(format, args...), " "))
	}
	outcome := "ok"
	if !r.OK {
		outcome = "NOT OK"
	}
	w("%s %s: %s", r.Kind, r.Run, outcome)
	if r.Elsewhere != "" {
		w("  cluster  %s, a copy of %s", t.cluster.Name, r.Elsewhere)
	}
	if r.Kind != restore.PlanReplace {
		w("  source   %s %s, revision %d of %s", r.Source.Kind, r.Source.ID, r.Source.Revision, r.Source.Time.Format(time.RFC3339))
	}
	reverted := slices.ContainsFunc(r.Stages, func(s restore.ReportStage) bool { return s.Name == string(restore.StepRevert) })
	proven := r.HealthySeconds > 0
	switch {
	case reverted, r.Kind == restore.PlanReplace: // nothing was opened
	case proven:
		w("  opened   at revision %d, cluster id %s", r.TargetRevision, orUnknown(r.ClusterID))
		for _, g := range r.Ghosts {
			w("  ghosts   %d removed below %s", g.Count, g.Prefix)
		}
		for _, e := range r.Edits {
			if e.Action != "remove" { // those are counted above
				w("  %-8s %s: %s", e.Action, e.Key, e.Reason)
			}
		}
	default:
		w("  opens    at revision %d, cluster id %s", r.TargetRevision, orUnknown(r.ClusterID))
	}
	for _, m := range r.Members {
		state := "healthy"
		if !m.Healthy {
			state = "NOT HEALTHY"
		}
		if m.Leader {
			state += ", leader"
		}
		w("  member   %s %s, revision %d, hash %s %s", m.Name, state, m.Revision, m.Hash, m.Detail)
	}
	for _, c := range r.Proof {
		w("  proof    %-8s %s", c.Status, c)
	}
	for _, v := range r.Agents {
		w("  agent    %s: %s", v.Name, v.Verdict)
		for _, c := range v.Checks {
			ok := "ok"
			if !c.OK {
				ok = "NO"
			}
			w("             %s %s: %s", ok, c.Name, c.Detail)
		}
	}
	for _, s := range r.Stages {
		if s.Seconds > 0 {
			w("  stage    %-9s %.2f s", s.Name, s.Seconds)
		}
	}
	if proven && r.Kind != restore.PlanReplace {
		w("  RPO      %.1f s (%s)", r.RPOSeconds, r.RPOBasis)
		w("  RTO      %.1f s; etcd proven after %.1f s", r.RTOSeconds, r.HealthySeconds)
	}
	if r.Backup != "" {
		w("  backup   %s is the first of the new line", r.Backup)
	}
	for _, n := range r.Notes {
		w("  note     %s", n)
	}
}

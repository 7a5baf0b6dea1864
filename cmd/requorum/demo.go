package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/backup"
	"github.com/requorum/requorum/internal/progress"
	"github.com/requorum/requorum/restore"
	"github.com/requorum/requorum/schedules"
	"github.com/requorum/requorum/storage/catalog"
)

func newDemoCommand(a *app) *cobra.Command {
	var store string
	var keep bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "The whole job on this machine with embedded etcd, in a minute",
		Long: `Starts three embedded etcd members, a handful of agents that elect a leader, and load. The real scheduler takes a
proven backup; then the leader changes hands; then all three members and their data are destroyed. The real restore
rebuilds the cluster, and everything that matters is checked: no ghosts, every agent back, the current leader still leads,
nothing that the backup held is lost. Nothing needs to be installed, and nothing is left behind.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.demo(cmd.Context(), store, keep) },
	}
	cmd.Flags().StringVar(&store, "store", "", "`URL` of another store than a directory of the demo's own")
	cmd.Flags().BoolVar(&keep, "keep", false, "keep the demo's directory, with configuration, keys, store and data dirs")
	return cmd
}

// demoResult is the last line of the demo with -o json.
type demoResult struct {
	OK      bool             `json:"ok"`
	Backup  *backup.Result   `json:"backup"`
	Restore *restore.Report  `json:"restore"`
	Agents  []agents.Verdict `json:"agents"`
	Checks  []demoCheck      `json:"checks"`
	Seconds float64          `json:"seconds"`
	Error   string           `json:"error,omitempty"`
	Keys    map[string]int   `json:"keys"`
}

// demoCheck is one thing that must be true for the demo to end well.
type demoCheck struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// demoWait bounds every wait for something to come about, on a machine that may do much else; what is well takes a second.
const demoWait = 2 * time.Minute

// demo is one performance.
type demo struct {
	*app
	site   *demoSite
	client *clientv3.Client
	team   *demoTeam
	load   *demoLoad
	show   io.Writer
	begun  time.Time
	result demoResult

	watching clientv3.WatchChan // of a client that has been there since before the disaster
}

func (a *app) demo(ctx context.Context, store string, keep bool) (err error) {
	d := &demo{app: a, show: a.out, begun: time.Now(), result: demoResult{Agents: []agents.Verdict{}, Checks: []demoCheck{}, Keys: map[string]int{}}}
	switch {
	case a.json():
		d.show = a.err
	case !a.quiet:
		a.reporter = progress.New(d.show, columns(d.show))
	}
	dir, err := os.MkdirTemp("", "requorum-demo-")
	if err != nil {
		return err
	}
	defer func() {
		if keep {
			d.tell("Everything is in %s; its requorum.yaml works with the other commands while members run.", dir)
		} else {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	names := []string{"ann", "bob", "cy", "dee", "eve"}
	expect := []string{demoLeader}
	for _, n := range names {
		expect = append(expect, demoMembers+n)
	}
	if d.site, err = newDemoSite(a, dir, store, expect); err != nil {
		return err
	}
	err = errors.Join(d.perform(ctx, names), d.site.destroy())
	d.result.Seconds = time.Since(d.begun).Seconds()
	d.result.OK = err == nil && len(d.result.Checks) > 0
	for _, c := range d.result.Checks {
		d.result.OK = d.result.OK && c.OK
	}
	if err == nil {
		d.summary()
		if !d.result.OK {
			err = codeError{exitError}
		}
	} else {
		d.result.Error = err.Error()
	}
	if a.json() {
		line, jsonErr := json.Marshal(d.result)
		if jsonErr != nil {
			return jsonErr
		}
		fmt.Fprintf(a.out, "%s\n", line)
		if err != nil && !errors.Is(err, errReported) {
			fmt.Fprintf(a.err, "requorum: %v\n", err)
			err = codeError{exitCode(err, 0)}
		}
	}
	return err
}

func (d *demo) tell(format string, args ...any) {
	if !d.quiet {
		fmt.Fprintf(d.show, format+"\n", args...)
	}
}

func (d *demo) step(format string, args ...any) {
	d.tell("\n[%4.1fs] "+format, append([]any{time.Since(d.begun).Seconds()}, args...)...)
}

func (d *demo) check(name string, ok bool, format string, args ...any) {
	c := demoCheck{Name: name, OK: ok, Detail: fmt.Sprintf(format, args...)}
	d.result.Checks = append(d.result.Checks, c)
	mark := "ok"
	if !ok {
		mark = "NOT OK"
	}
	d.tell("         %s: %s (%s)", mark, c.Name, c.Detail)
}

// perform is the story. Its error says that it could not be told to the end.
func (d *demo) perform(ctx context.Context, names []string) error {
	d.step("Three etcd members start on this machine.")
	if err := d.site.start(); err != nil {
		return err
	}
	var endpoints []string
	for _, m := range d.site.members {
		endpoints = append(endpoints, string(m.ClientURL))
		d.tell("         %s at %s", m.Name, m.ClientURL)
	}
	var err error
	d.client, err = clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: demoCall, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	defer d.client.Close()
	if err := d.until(ctx, "three healthy members", d.healthy); err != nil {
		return err
	}

	d.step("Five agents come up, %s first. Each keeps a key under a lease of %d s; one of them leads.", names[0], demoTTL)
	d.team = newTeam(ctx, d.client)
	defer d.team.stop()
	d.team.add(names[0])
	if err := d.until(ctx, names[0]+" leads", d.leads(names[0])); err != nil {
		return err
	}
	for _, n := range names[1:] {
		d.team.add(n)
	}
	if err := d.until(ctx, "five agents", d.registered(5)); err != nil {
		return err
	}
	d.tell("         %s leads. An application writes orders all the while.", names[0])
	loading, stopLoad := context.WithCancel(ctx)
	group, loading := errgroup.WithContext(loading)
	d.load = &demoLoad{client: d.client, value: `"note":"` + strings.Repeat("x", 200) + `"`}
	group.Go(func() error { return d.load.run(loading) })
	defer func() {
		stopLoad()
		_ = group.Wait() // the load returns no errors
	}()
	if err := d.until(ctx, "200 orders", func(context.Context) (bool, error) { return d.load.count() >= 200, nil }); err != nil {
		return err
	}

	d.step("The scheduler takes a backup: snapshot %q.", d.site.target.cluster.Schedules.Snapshot[0])
	if err := d.scheduledBackup(ctx); err != nil {
		return err
	}
	if err := d.aftermath(ctx, names); err != nil {
		return err
	}
	return d.recovery(ctx, names)
}

// scheduledBackup runs the real scheduler until it has taken one backup.
func (d *demo) scheduledBackup(ctx context.Context) error {
	t := d.site.target
	repo, err := t.repository(ctx)
	if err != nil {
		return err
	}
	when, err := schedules.Parse(t.cluster.Schedules.Snapshot.Strings()...)
	if err != nil {
		return err
	}
	var failed error
	ctx, done := context.WithTimeout(ctx, demoWait)
	defer done()
	schedules.Scheduler{Gate: schedules.NewGate(1), Log: d.log()}.Run(ctx, nil, []schedules.Job{{
		Key: "demo/snapshot", Class: "snapshot", Schedule: when,
		Run: func(ctx context.Context, _ schedules.Attempt) error {
			result, err := t.take(ctx, repo, takeFlags{prove: true, held: true}, d.reporter)
			d.reporter.Close()
			if err == nil {
				d.result.Backup = &result
				done()
			}
			failed = err
			return err
		},
	}})
	if d.result.Backup == nil {
		return errors.Join(fmt.Errorf("no scheduled backup within %s", demoWait), failed)
	}
	b := d.result.Backup
	d.tell("         Backup %s holds revision %d: %s, %s, stored as %s, encrypted.", b.ID, b.Revision, catalog.Count(b.Keys, "key"), catalog.Size(b.Data.Bytes), catalog.Size(b.Data.StoredBytes))
	for _, p := range b.Proofs {
		d.check("proof: "+p.Name, p.OK, "%s", strings.TrimSuffix(p.Where+"; "+p.Detail, "; "))
	}
	return nil
}

// aftermath is what happens after the backup: the leader changes hands, and then everything is lost.
func (d *demo) aftermath(ctx context.Context, names []string) error {
	d.step("After the backup the leader changes hands: %s steps down.", names[0])
	d.team.agent(names[0]).abstain.Store(true)
	var owner string
	err := d.until(ctx, "another leader", func(ctx context.Context) (bool, error) {
		var err error
		owner, err = demoOwner(ctx, d.client)
		agent := d.team.agent(owner) // that knows it leads: a busy machine may tell it late
		return agent != nil && owner != names[0] && agent.leads.Load(), err
	})
	if err != nil {
		return err
	}
	d.team.agent(names[0]).abstain.Store(false)
	d.tell("         %s leads now. The backup still says %s.", owner, names[0])

	d.watching = d.client.Watch(ctx, demoScope, clientv3.WithPrefix())
	d.step("Disaster: all three members are killed with -9, and their data dirs are removed.")
	if err := d.site.destroy(); err != nil {
		return err
	}
	held, after := d.load.upTo(d.result.Backup.Revision)
	d.tell("         %d orders are in the backup, %d came after it and are lost with the disks.", len(held), after)
	d.tell("         A plain restore would bring %s's leader key back, alive for a whole TTL: a ghost. %s would", names[0], names[0])
	d.tell("         find its own name there and lead, whatever it has missed. With Patroni that costs committed rows.")
	return nil
}

// recovery is the restore and the proof.
func (d *demo) recovery(ctx context.Context, names []string) error {
	var current string
	for _, a := range d.team.agents {
		if a.leads.Load() {
			current = a.name
		}
	}
	held, _ := d.load.upTo(d.result.Backup.Revision)
	d.step("requorum restore demo --yes")
	r, err := d.site.target.restorer(ctx, restoreFlags{yes: true})
	if err != nil {
		return err
	}
	report, err := r.Run(ctx)
	d.reporter.Close()
	d.result.Restore, d.result.Agents = &report, report.Agents
	if report.Run != "" && !d.quiet {
		quiet := *d.site.target
		shown := *d.app
		shown.out = d.show
		quiet.app = &shown
		quiet.showReport(report)
	}
	if err != nil && !errors.Is(err, restore.ErrAgents) {
		return err
	}

	d.step("What is true now:")
	d.check("the cluster is healthy and proven", report.OK, "%d members, RPO %.1f s, RTO %.1f s", len(report.Members), report.RPOSeconds, report.RTOSeconds)
	ghosts := 0
	for _, g := range report.Ghosts {
		ghosts += g.Count
	}
	stale, err := d.client.Get(ctx, demoScope, clientv3.WithPrefix(), clientv3.WithMaxCreateRev(report.TargetRevision))
	if err != nil {
		return err
	}
	d.check("no ghost is left", ghosts >= len(names)+1 && len(stale.Kvs) == 0, "%d removed in the file, %d keys older than the opening", ghosts, len(stale.Kvs))
	for _, v := range report.Agents {
		d.check("agents are back: "+v.Name, v.OK, "%s", v.Verdict)
	}
	owner, err := demoOwner(ctx, d.client)
	if err != nil {
		return err
	}
	d.check("the current owner leads, not the backup's", owner == current && owner != names[0], "%s leads; the backup said %s", owner, names[0])
	lost, err := d.compare(ctx, held)
	if err != nil {
		return err
	}
	d.check("no write that the backup held is lost", len(lost) == 0 && len(held) > 0, "%d compared, %d differ", len(held), len(lost))
	d.check("a watcher from before is told, not left in silence", d.compacted(ctx), "its next event is \"compacted\"")
	before := d.load.count()
	err = d.until(ctx, "new orders", func(context.Context) (bool, error) { return d.load.count() > before, nil })
	d.check("the application writes again", err == nil, "%d orders acknowledged in all", d.load.count())
	d.result.Keys["held"], d.result.Keys["lost"], d.result.Keys["ghosts"] = len(held), len(lost), ghosts
	return nil
}

func (d *demo) summary() {
	r := d.result.Restore
	verdict := "Everything that was promised is true."
	if !d.result.OK {
		verdict = "Something that was promised is NOT true; see above."
	}
	d.tell("\n%s", verdict)
	d.tell("  RPO %.1f s, RTO %.1f s, %d ghosts removed, agents: %s, %d of %d orders of the backup intact, %.0f s in all",
		r.RPOSeconds, r.RTOSeconds, d.result.Keys["ghosts"], agentWords(d.result.Agents), d.result.Keys["held"]-d.result.Keys["lost"], d.result.Keys["held"], d.result.Seconds)
}

func agentWords(verdicts []agents.Verdict) string {
	var words []string
	for _, v := range verdicts {
		words = append(words, v.Verdict)
	}
	return strings.Join(words, ", ")
}

// until polls for something to be true, for at most demoWait.
func (d *demo) until(ctx context.Context, what string, f func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, demoWait, fmt.Errorf("waited %s for %s", demoWait, what))
	defer cancel()
	var last error
	for {
		step, end := context.WithTimeout(ctx, demoLook)
		ok, err := f(step)
		end()
		if ok {
			return nil
		}
		if err != nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), last)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (d *demo) healthy(ctx context.Context) (bool, error) {
	client, err := d.site.target.dial()
	if err != nil {
		return false, err
	}
	defer client.Close()
	for _, h := range client.Health(ctx) {
		if !h.OK {
			return false, h.Err
		}
	}
	return true, nil
}

func (d *demo) leads(name string) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		owner, err := demoOwner(ctx, d.client)
		return owner == name, err
	}
}

func (d *demo) registered(n int64) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		got, err := d.client.Get(ctx, demoMembers, clientv3.WithPrefix(), clientv3.WithCountOnly())
		return err == nil && got.Count == n, err
	}
}

// compare returns the keys of the writes that are not as they were acknowledged.
func (d *demo) compare(ctx context.Context, held []demoWrite) (lost []string, err error) {
	got, err := d.client.Get(ctx, demoData, clientv3.WithPrefix())
	if err != nil {
		return nil, err
	}
	now := make(map[string]demoWrite, len(got.Kvs))
	for _, kv := range got.Kvs {
		now[string(kv.Key)] = demoWrite{key: string(kv.Key), value: string(kv.Value), revision: kv.ModRevision}
	}
	for _, w := range held {
		if now[w.key] != w {
			lost = append(lost, w.key)
		}
	}
	slices.Sort(lost)
	return lost, nil
}

// compacted waits for a watch from before the disaster to be told that its history is gone.
func (d *demo) compacted(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, demoWait)
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			return false
		case resp, open := <-d.watching:
			if errors.Is(resp.Err(), rpctypes.ErrCompacted) {
				return true
			}
			if !open {
				return false
			}
		}
	}
}

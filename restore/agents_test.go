package restore_test

import (
	"context"
	"crypto/tls"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/restore"
	"github.com/requorum/requorum/storage/catalog"
)

// With authentication: a password that is not the one in the backup is found before anything is touched; with the right one the
// restored cluster is proven, hash included.
func TestRestoredUsers(t *testing.T) {
	b := newBed(t, etcdtest.Options{TLS: true})
	b.fill(20)
	b.EnableAuth(t, "then")
	b.Username, b.Password = "root", "then"
	tlsConfig := b.Certs.ClientTLS(b.Certs.Client)
	b.Options.Connect = connect(tlsConfig, "root", "then")
	b.backup()
	want := unleased(b.rows())
	b.Options.Connect = connect(tlsConfig, "root", "of another day")
	fromStore := func(o *restore.Options) { o.From = "store" }
	if _, err := b.restorer(nil, fromStore).Run(t.Context()); !errors.As(err, new(restore.Refusal)) || !strings.Contains(err.Error(), "is healthy") {
		t.Fatalf("a cluster that serves, but does not know the password: %v", err)
	}
	b.Options.Connect = connect(tlsConfig, "root", "then")
	b.Kill(t)
	b.Wipe(t)

	b.Password = "now"
	_, err := b.restorer(nil).Run(t.Context())
	var checks *restore.ChecksError
	if !errors.As(err, &checks) || !strings.Contains(err.Error(), "the password was changed after this backup") {
		t.Fatalf("restore with another password: %v", err)
	}
	b.Username, b.Password = "", ""
	if _, err := b.restorer(nil).Run(t.Context()); !errors.As(err, &checks) || !strings.Contains(err.Error(), "no user is given") {
		// The certificate of the test names no user of etcd.
		t.Fatalf("restore without a user: %v", err)
	}
	if s := b.places(""); s["etcd1"].Journal != nil {
		t.Error("a run began although the checks had failed")
	}
	b.Username, b.Password = "root", "then"
	report := b.run()
	if !slices.ContainsFunc(report.Proof, func(c restore.Check) bool { return c.Name == "content" && c.Status == restore.CheckOK }) {
		t.Errorf("the content was not proven: %+v", report.Proof)
	}
	etcdtest.MustEqual(t, want, b.rows())
}

func connect(config *tls.Config, user, password string) func([]string) (*cluster.Client, error) {
	return func(endpoints []string) (*cluster.Client, error) {
		return cluster.Dial(cluster.Options{Endpoints: endpoints, TLS: config, Username: user, Password: password, DialTimeout: 2 * time.Second})
	}
}

// An agent that registers anew proves the restore; one that does not leaves a healthy cluster and ErrAgents, with everything else done.
func TestAgentsVerdicts(t *testing.T) {
	b := newBed(t, etcdtest.Options{Members: 1})
	client := b.fill(20)
	b.Leased = "/app/"
	b.backup()
	b.Kill(t)
	b.Wipe(t)

	deadline := func(d time.Duration) func(*restore.Options) {
		return func(o *restore.Options) { o.AgentDeadline = d }
	}
	report, err := b.restorer(nil, deadline(3*time.Second)).Run(t.Context())
	if !errors.Is(err, restore.ErrAgents) || len(report.Agents) != 1 || report.Agents[0].OK || report.OK || report.HealthySeconds == 0 {
		t.Fatalf("restore without the agent: %v, %+v", err, report)
	}
	b.settled(t) // the cluster stands: nothing is left to be done

	ctx, cancel := context.WithCancel(t.Context())
	var agent sync.WaitGroup
	agent.Go(func() { register(ctx, client, "/app/leader") })
	defer agent.Wait()
	defer cancel()
	var backedUp string
	report, err = b.restorer(nil, overHealthy, deadline(5*time.Minute), func(o *restore.Options) {
		o.Backup = func(_ context.Context, run string) (string, error) {
			backedUp = run
			return b.backup().ID, nil
		}
	}).Run(t.Context())
	if err != nil || !report.Agents[0].OK || report.Agents[0].Verdict != agents.Reconnected {
		t.Fatalf("restore with the agent: %v, %+v", err, report.Agents)
	}
	if backedUp != report.Run || report.Backup == "" {
		t.Errorf("the first backup of run %s was taken for run %s: %q", report.Run, backedUp, report.Backup)
	}
	repo, err := b.repository()
	if err != nil {
		t.Fatal(err)
	}
	lines, err := repo.Lines(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	line, _ := catalog.Current(lines)
	if line.Run != report.Run || line.Source != catalog.LineRestore || line.ClusterID != report.ClusterID || line.Parent == "" {
		t.Errorf("the new line is %+v", line)
	}
	snaps, err := repo.Snapshots(t.Context())
	if err != nil || !slices.ContainsFunc(snaps, func(s catalog.Snapshot) bool { return s.ID == report.Backup && s.Line == line.Line }) {
		t.Errorf("the first backup is not of line %s: %+v, %v", line.Line, snaps, err)
	}
	runs, err := repo.Runs(t.Context(), time.Time{})
	if err != nil || !slices.ContainsFunc(runs, func(r catalog.Run) bool {
		return r.ID == report.Run && r.Outcome == "ok" && r.Seen != nil && r.Seen.Revision >= report.TargetRevision
	}) {
		t.Errorf("no record of the run with the revision it opened: %+v, %v", runs, err)
	}
}

// register is an agent: it keeps a key under a lease, and registers anew whenever that is gone.
func register(ctx context.Context, client *clientv3.Client, key string) {
	for ctx.Err() == nil {
		lease, err := client.Grant(ctx, 5)
		if err == nil {
			_, err = client.Put(ctx, key, "here", clientv3.WithLease(lease.ID))
		}
		for err == nil {
			if _, err = client.KeepAliveOnce(ctx, lease.ID); err == nil {
				select {
				case <-ctx.Done():
				case <-time.After(500 * time.Millisecond):
				}
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// What to restore is asked where it is not plain: two histories with recent backups, or a backup with half of the keys of the one before.
func TestChoiceIsAsked(t *testing.T) {
	b := newBed(t, etcdtest.Options{Members: 1})
	client := b.fill(100)
	full := b.backup()
	etcdtest.Delete(t, client, "/data/", clientv3.WithPrefix())
	etcdtest.Put(t, client, "/data/one", "left")
	time.Sleep(time.Until(full.Time.Add(1100 * time.Millisecond))) // backups are ordered by whole seconds
	empty := b.backup()
	b.Stop(t)
	_, err := b.restorer(nil).Run(t.Context())
	refusals, _ := agents.SplitRefusals(err)
	if len(refusals) != 1 || !strings.Contains(refusals[0].What, "keys") || refusals[0].Flag != "--at "+empty.ID+" or --at "+full.ID {
		t.Fatalf("restore of a backup with few keys: %v", err)
	}
	plan, err := b.restorer(nil, func(o *restore.Options) { o.At = full.ID }).Plan(t.Context())
	if err != nil || plan.Source.ID != full.ID || plan.Prepared == nil || len(plan.Ghosts) == 0 {
		t.Fatalf("plan of a named backup: %v, %+v", err, plan)
	}
	if text := plan.Text(); !strings.Contains(text, full.ID) || !strings.Contains(text, " below /app/") {
		t.Errorf("the plan does not say what it does:\n%s", text)
	}
	if left, err := b.leftovers(t.Context()); err != nil || len(left) > 0 || b.places("")["etcd1"].Journal != nil {
		t.Errorf("a plan left behind: %v, %v", left, err)
	}

	// The same members, founded anew by hand: another history under the same name.
	b.Wipe(t)
	b.Start(t)
	b.WaitHealthy(t)
	etcdtest.Put(t, b.Client(t), "/other", "history")
	other := b.backup()
	b.Stop(t)
	_, err = b.restorer(nil).Run(t.Context())
	refusals, _ = agents.SplitRefusals(err)
	if len(refusals) != 1 || !strings.Contains(refusals[0].What, "two histories") || !strings.Contains(refusals[0].Flag, "--at "+other.ID) {
		t.Fatalf("restore with two histories: %v", err)
	}
}

// Without any backup the error says what was looked at.
func TestNothingToRestore(t *testing.T) {
	b := newBed(t, etcdtest.Options{Members: 1})
	b.Stop(t)
	b.Wipe(t)
	_, err := b.restorer(nil).Run(t.Context())
	if !errors.Is(err, restore.ErrNothingToRestore) || !strings.Contains(err.Error(), "looked at: 0 backups") {
		t.Errorf("restore from an empty store: %v", err)
	}
	_, err = b.restorer(nil).Rollback(t.Context(), "")
	if !errors.Is(err, restore.ErrNothingToRestore) {
		t.Errorf("rollback of nothing: %v", err)
	}
	_, err = b.restorer(nil, func(o *restore.Options) { o.From = "file:" + t.TempDir() + "/missing.db" }).Run(t.Context())
	if !errors.Is(err, restore.ErrNothingToRestore) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("restore from a missing file: %v", err)
	}
}

// What the configuration says is compared with the settings of the running etcd.
func TestFlagsAreCompared(t *testing.T) {
	b := newBed(t, etcdtest.Options{Members: 1})
	b.fill(100)
	b.backup()
	b.Stop(t)
	b.Members()[0].Args = append(b.Members()[0].Args, "--quota-backend-bytes=16384")
	b.Start(t)
	b.setup.Members[0].Name = "another"
	_, err := b.restorer(nil, overHealthy).Run(t.Context())
	var checks *restore.ChecksError
	if !errors.As(err, &checks) {
		t.Fatalf("restore with a wrong name: %v", err)
	}
	for _, part := range []string{"name is another in the configuration, etcd1 by process", "raise --quota-backend-bytes"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the checks do not say %q:\n%v", part, err)
		}
	}
}

package restore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/backup"
	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/restore"
	"github.com/requorum/requorum/restore/local"
	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/file"
	"github.com/requorum/requorum/storage/repository"
)

// repositoryOf is that of any cluster in the bed's store.
func (b *bed) repositoryOf(name string) *repository.Repository {
	b.t.Helper()
	store, err := file.New(file.Options{Dir: b.Store})
	if err != nil {
		b.t.Fatal(err)
	}
	repo, err := repository.New(repository.Options{Cluster: name, Path: name, Stores: []repository.Named{{Name: "main", Store: store}}})
	if err != nil {
		b.t.Fatal(err)
	}
	return repo
}

func backUp(ctx context.Context, name string, endpoints []string, repo *repository.Repository, spool, run string) (backup.Result, error) {
	c, err := cluster.Dial(cluster.Options{Endpoints: endpoints})
	if err != nil {
		return backup.Result{}, err
	}
	defer c.Close()
	return backup.Take(ctx, backup.TakeOptions{Cluster: name, Client: c, Repository: repo, Spool: backup.Spool{Dir: spool}, Version: "test", Host: "here", User: "tester", Run: run})
}

// A cluster of one becomes one of three at other addresses while it serves on, and that one of five: each with the rows of the one before, under its own name and
// path, in a history of its own whose parent is the old one's. Neither learns of the other.
func TestElsewhere(t *testing.T) {
	b := newBed(t, etcdtest.Options{Members: 1})
	b.fill(100)
	first, err := backUp(t.Context(), "dcs", b.Endpoints(), b.repositoryOf("dcs"), b.Spool, "")
	if err != nil {
		t.Fatal(err)
	}
	want := unleased(b.rows())
	etcdtest.Put(t, b.Client(t), "/data/after", "the backup")
	oldLines, err := b.repositoryOf("dcs").Lines(t.Context())
	if err != nil || len(oldLines) != 1 {
		t.Fatalf("lines %v, %v", oldLines, err)
	}

	from, source, floor := "dcs", b.Endpoints(), first.Revision
	parent := oldLines[0].Line
	seen := map[uint64]bool{b.Members()[0].Status(t).Header.ClusterId: true}
	for _, count := range []int{3, 5} {
		name := fmt.Sprintf("dcs%d", count)
		to := &bed{Cluster: etcdtest.StartCluster(t, etcdtest.Options{Members: count, Name: name + "-", NotStarted: true}), t: t}
		to.Store, to.Spool = b.Store, b.Spool
		for _, m := range to.Members() {
			c := m.Commands(t)
			to.setup.Members = append(to.setup.Members, restore.Member{Name: m.Name, Host: "local", PeerURL: m.PeerURL, ClientURL: m.ClientURL,
				DataDir: m.DataDir, Service: restore.Service{Start: c.Start, Stop: c.Stop, Status: c.Status}})
		}
		o, err := to.setup.options(func(string) {}, nil)
		if err != nil {
			t.Fatal(err)
		}
		o.Cluster, o.Repository, o.TargetVersion = name, to.repositoryOf(name), etcdtest.Latest
		o.Elsewhere = &restore.Elsewhere{Cluster: from, Repository: to.repositoryOf(from), Flags: []string{"--as " + name, "--members FILE"},
			Connect: func() (*cluster.Client, error) {
				return cluster.Dial(cluster.Options{Endpoints: source, DialTimeout: 2 * time.Second})
			}}
		o.Backup = func(ctx context.Context, run string) (string, error) {
			r, err := backUp(ctx, name, to.Endpoints(), to.repositoryOf(name), to.Spool, run)
			return r.ID, err
		}
		r, err := restore.New(o)
		if err != nil {
			t.Fatal(err)
		}
		plan, err := r.Plan(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(plan.Text(), from+" serves at") || plan.Elsewhere != from || plan.Cluster != name {
			t.Errorf("the plan does not say that the old cluster serves:\n%s", plan.Text())
		}
		// Cut off in the middle, it says how to go on.
		ctx, cancel := context.WithCancel(t.Context())
		asked := errors.New("nobody can be asked")
		unasked := watcher{t: t, never: "fetch"}
		mute := o
		mute.Askable, mute.Progress = func(p restore.Plan) error {
			if p.Kind != restore.PlanRestore || len(p.Members) != count {
				t.Errorf("asked about %+v", p)
			}
			return asked
		}, unasked
		rm, err := restore.New(mute)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := rm.Run(t.Context()); !errors.Is(err, asked) {
			t.Errorf("where nobody can be asked: %v", err)
		}
		cut := o
		cut.Progress, cut.Owner = canceller{cancel}, local.Owner(catalog.NewID('r'))
		rc, err := restore.New(cut)
		if err != nil {
			t.Fatal(err)
		}
		_, err = rc.Run(ctx)
		cancel()
		var stopped *restore.Stopped
		if !errors.As(err, &stopped) || !strings.HasPrefix(stopped.Next[0], "requorum restore "+from+" --as "+name+" --members FILE") {
			t.Fatalf("cut off: %v", err)
		}
		r.Askable = func(restore.Plan) error { return asked } // what was agreed to goes on unasked
		report, err := r.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		etcdtest.MustEqual(t, want, to.rows())
		if len(report.Members) != count || report.TargetRevision <= floor+1_000_000_000-1 {
			t.Errorf("report %+v", report)
		}
		id := to.Members()[0].Status(t).Header.ClusterId
		if seen[id] {
			t.Errorf("cluster id %x was there before", id)
		}
		seen[id] = true

		lines, err := to.repositoryOf(name).Lines(t.Context())
		if err != nil || len(lines) != 1 || lines[0].Cluster != name || lines[0].Parent != parent || !lines[0].ParentKnown || !strings.Contains(lines[0].Reason, "cluster "+from) {
			t.Errorf("lines of %s: %+v, %v; the parent is %s", name, lines, err, parent)
		}
		if snaps, err := to.repositoryOf(name).Snapshots(t.Context()); err != nil || len(snaps) != 1 || snaps[0].ID != report.Backup {
			t.Errorf("backups of %s: %+v, %v", name, snaps, err)
		}
		if again, err := to.repositoryOf("dcs").Lines(t.Context()); err != nil || len(again) != 1 {
			t.Errorf("lines of dcs: %+v, %v", again, err)
		}
		for _, holder := range []string{from, name} {
			if holds, err := to.repositoryOf(holder).Holds(t.Context()); err != nil || len(holds) > 0 {
				t.Errorf("holds of %s: %+v, %v", holder, holds, err)
			}
		}
		from, source, floor, parent = name, to.Endpoints(), report.TargetRevision, lines[0].Line
	}
	if rows := b.rows(); len(etcdtest.WithoutPrefix(unleased(rows), "/data/after")) != len(want) {
		t.Errorf("the old cluster has %d rows, it had %d", len(rows), len(want))
	}
}

// canceller ends a run once its dirs are staged.
type canceller struct{ cancel context.CancelFunc }

func (canceller) Start(string, int64)   {}
func (canceller) Advance(string, int64) {}
func (c canceller) Done(stage, _ string) {
	if stage == "stage" {
		c.cancel()
	}
}
func (canceller) Say(string, ...any) {}

// watcher fails the test when a stage begins that must not.
type watcher struct {
	t     *testing.T
	never string
}

func (w watcher) Start(stage string, _ int64) {
	if stage == w.never {
		w.t.Errorf("stage %s began", stage)
	}
}
func (watcher) Advance(string, int64) {}
func (watcher) Done(string, string)   {}
func (watcher) Say(string, ...any)    {}

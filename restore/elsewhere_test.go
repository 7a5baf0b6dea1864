package restore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	c, err := cluster.Dial(cluster.Options{Endpoints: endpoints, DialTimeout: 30 * time.Second})
	if err != nil {
		return backup.Result{}, err
	}
	defer c.Close()
	return backup.Take(ctx, backup.TakeOptions{Cluster: name, Client: c, Repository: repo, Spool: backup.Spool{Dir: spool}, Version: "test", Host: "here", User: "tester", Run: run})
}

// beside is a cluster that was never started, and the options of a restore that makes it of the one named from.
func (b *bed) beside(name string, count int, from string, endpoints []string) (*bed, restore.Options) {
	b.t.Helper()
	to := &bed{Cluster: etcdtest.StartCluster(b.t, etcdtest.Options{Members: count, Name: name + "-", NotStarted: true}), t: b.t}
	to.Store, to.Spool = b.Store, b.Spool
	for _, m := range to.Members() {
		c := m.Commands(b.t)
		to.setup.Members = append(to.setup.Members, restore.Member{Name: m.Name, Host: "local", PeerURL: m.PeerURL, ClientURL: m.ClientURL,
			DataDir: m.DataDir, Service: restore.Service{Start: c.Start, Stop: c.Stop, Status: c.Status}})
	}
	o, err := to.setup.options(func(string) {}, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	o.Cluster, o.Repository, o.TargetVersion = name, to.repositoryOf(name), etcdtest.Latest
	o.Elsewhere = &restore.Elsewhere{Cluster: from, Repository: to.repositoryOf(from), Flags: []string{"--as " + name, "--members FILE"},
		Connect: func() (*cluster.Client, error) {
			return cluster.Dial(cluster.Options{Endpoints: endpoints, DialTimeout: 30 * time.Second})
		}}
	return to, o
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
		to, o := b.beside(name, count, from, source)
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

// What a member of a lost cluster still holds, in its raft log alone too, becomes a cluster of its own elsewhere, whether it runs without a quorum or is stopped. Nothing
// of the lost cluster is changed; while it serves, or while a run is unfinished on its hosts, nothing of it is taken.
func TestElsewhereFromSurvivor(t *testing.T) {
	b := newBed(t, etcdtest.Options{})
	b.fill(50)
	b.backup()
	lines, err := b.repositoryOf("dcs").Lines(t.Context())
	if err != nil || len(lines) != 1 {
		t.Fatalf("lines %v, %v", lines, err)
	}
	left, others := b.Members()[0], b.Members()[1:]
	to, o := b.beside("far", 3, "dcs", b.Endpoints())
	o.From = "survivor:" + left.Name
	o.Backup = func(ctx context.Context, run string) (string, error) {
		r, err := backUp(ctx, "far", to.Endpoints(), to.repositoryOf("far"), to.Spool, run)
		return r.ID, err
	}
	from := func(change func(*restore.Options)) *restore.Restorer {
		t.Helper()
		o := o
		o.Owner = local.Owner(catalog.NewID('r'))
		if change != nil {
			change(&o)
		}
		r, err := restore.New(o)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if _, err := from(nil).Plan(t.Context()); err == nil || !strings.Contains(err.Error(), "where the members of dcs live is not known") {
		t.Errorf("from a member of which nothing is known: %v", err)
	}
	o.Elsewhere.Members = func() ([]restore.Placed, error) { return o.Members, nil }
	if _, err := from(nil).Plan(t.Context()); err == nil || !strings.Contains(err.Error(), "both a source and a place to build in") {
		t.Errorf("into the data dirs that are read: %v", err)
	}
	o.Elsewhere.Members = func() ([]restore.Placed, error) {
		var all []restore.Placed
		for _, m := range b.setup.Members {
			all = append(all, restore.Placed{Member: m, On: local.New(local.Options{})})
		}
		return all, nil
	}
	if _, err := from(nil).Plan(t.Context()); err == nil || !strings.Contains(err.Error(), "cluster dcs serves with a quorum") {
		t.Errorf("from a member of a cluster that serves: %v", err)
	}

	writes := b.write(8)
	writes.waitFor(t, 300)
	o.Elsewhere.Connect = func() (*cluster.Client, error) { // what has no quorum is not waited for
		return cluster.Dial(cluster.Options{Endpoints: b.Endpoints(), DialTimeout: 2 * time.Second})
	}
	killAll(t, others)
	writes.stop()
	for _, m := range others {
		m.Wipe(t)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = b.restorer(func(at string) {
		if at == "done:stage" {
			cancel()
		}
	}).Run(ctx)
	cancel()
	var stopped *restore.Stopped
	if !errors.As(err, &stopped) {
		t.Fatalf("a restore of the old cluster, cut off: %v", err)
	}
	if _, err := from(nil).Plan(t.Context()); err == nil || !strings.Contains(err.Error(), "is unfinished") || !strings.Contains(err.Error(), "rollback dcs") {
		t.Errorf("while a run is unfinished on the old hosts: %v", err)
	}
	if _, err := b.restorer(nil).Rollback(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if !left.Running() {
		t.Fatal("the survivor does not run: nothing is tested")
	}

	plan, err := from(nil).Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s := plan.Source; s.Kind != "survivor" || s.ID != left.Name || s.Line != lines[0].Line || s.Index < logOf(t, left).Index || !strings.Contains(plan.Text(), "from what is left of dcs") {
		t.Errorf("planned:\n%s", plan.Text())
	}
	// Cut off, its spool gone, and the survivor stopped meanwhile: it is read once more, from its disk.
	ctx, cancel = context.WithCancel(t.Context())
	_, err = from(func(o *restore.Options) { o.Progress = canceller{cancel} }).Run(ctx)
	cancel()
	if !errors.As(err, &stopped) {
		t.Fatalf("cut off: %v", err)
	}
	left.Kill(t)
	spool, err := filepath.Glob(filepath.Join(b.Spool, "*"))
	if err != nil || len(spool) == 0 {
		t.Fatalf("the spool holds %v, %v", spool, err)
	}
	for _, path := range spool {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
	before := logOf(t, left)
	report, err := from(func(o *restore.Options) { o.From = "" }).Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if report.Source.Kind != "survivor" || !report.Resumed || report.Elsewhere != "dcs" || len(report.Members) != 3 || report.RPOSeconds != 0 {
		t.Errorf("report %+v", report)
	}
	writes.mustHold(t, to.rows())
	own, err := to.repositoryOf("far").Lines(t.Context())
	if err != nil || len(own) != 1 || own[0].Parent != lines[0].Line || own[0].Cluster != "far" {
		t.Errorf("lines of the new cluster: %+v, %v", own, err)
	}
	if again, err := to.repositoryOf("dcs").Lines(t.Context()); err != nil || len(again) != 1 {
		t.Errorf("lines of the old cluster: %+v, %v", again, err)
	}
	if after := logOf(t, left); after.Term != before.Term || after.Index != before.Index {
		t.Errorf("the survivor's log was at term %d, index %d, and is at %d, %d", before.Term, before.Index, after.Term, after.Index)
	}
	if kept, err := filepath.Glob(left.DataDir + ".before-*"); err != nil || len(kept) > 0 {
		t.Errorf("the survivor's data dir was moved: %v, %v", kept, err)
	}

	_, o = b.beside("third", 1, "dcs", b.Endpoints())
	o.From = "file:" + filepath.Join(left.DataDir, "member", "snap", "db")
	if plan, err = from(nil).Plan(t.Context()); err != nil || plan.Source.Kind != "file" || plan.Elsewhere != "dcs" {
		t.Errorf("from a file: %v, %+v", err, plan.Source)
	}
}

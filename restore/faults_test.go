//go:build linux

package restore_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/restore"
	"github.com/requorum/requorum/restore/local"
)

// Somebody who starts a member in the middle of the swap, by other means than the service's, gets neither an empty member nor a second
// cluster nor a mixture, and the restore ends whole.
func TestStartedBySomebodyElse(t *testing.T) {
	b := newBed(t, etcdtest.Options{})
	b.fill(50)
	b.backup()
	want := unleased(b.rows())
	for _, point := range []string{"after:inhibit:1", "after:stop:3", "before:exchange:1", "after:exchange:1", "done:exchange", "after:allow:1", "before:start:2"} {
		t.Run(point, func(t *testing.T) {
			etcdtest.Put(t, b.Client(t), "/data/late", point)
			var once sync.Once
			meet := func(at string) {
				if at == point {
					once.Do(func() {
						for _, m := range b.Members() {
							m.Start(t)
						}
						b.waitOpen(t)
					})
				}
			}
			report, err := b.restorer(meet, overHealthy).Run(t.Context())
			if err != nil {
				t.Fatalf("restore: %v", err)
			}
			etcdtest.MustEqual(t, want, b.rows())
			for _, m := range b.Members() {
				if id := fmt.Sprintf("%016x", m.Status(t).Header.ClusterId); id != report.ClusterID {
					t.Errorf("%s runs in cluster %s, not %s", m.Name, id, report.ClusterID)
				}
			}
			b.settled(t)
		})
	}
}

// waitOpen waits until the members' processes have opened their databases, or were stopped again by the run.
func (b *bed) waitOpen(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		open := 0
		for _, m := range b.Members() {
			if !m.Running() {
				open++
				continue
			}
			f, err := os.OpenFile(filepath.Join(m.DataDir, "member", "snap", "db"), os.O_RDWR, 0)
			if err != nil {
				continue
			}
			if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
				open++
			}
			f.Close()
		}
		if open == len(b.Members()) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("only %d members opened their databases", open)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// What was staged and then damaged is found before anything is exchanged; the same command stages anew.
func TestDamagedBetweenStageAndSwap(t *testing.T) {
	b := newBed(t, etcdtest.Options{})
	b.fill(50)
	b.backup()
	want := unleased(b.rows())
	before := b.clusterID(t)
	var once sync.Once
	report, err := b.restorer(func(at string) {
		if at != "done:stop" {
			return
		}
		once.Do(func() {
			found, _ := filepath.Glob(b.setup.Members[1].DataDir + ".staged-*/member/snap/db")
			if len(found) != 1 {
				t.Errorf("staged databases: %v", found)
				return
			}
			f, err := os.OpenFile(found[0], os.O_RDWR, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			if _, err := f.WriteAt([]byte{0xff}, 9000); err != nil {
				t.Error(err)
			}
		})
	}, overHealthy).Run(t.Context())
	var stopped *restore.Stopped
	if !errors.As(err, &stopped) || stopped.Step != restore.StepExchange || !strings.Contains(err.Error(), "written to since it was staged") {
		t.Fatalf("restore on a damaged staged dir: %v", err)
	}
	if report.OK {
		t.Error("the report calls this a success")
	}
	for name, s := range b.places("") {
		if s.Place != restore.PlaceOld || !s.Stopped() {
			t.Errorf("%s: %s, stopped %v", name, s.Place, s.Stopped())
		}
	}
	if len(stopped.Next) != 2 || !strings.Contains(stopped.Next[0], "requorum restore dcs") || !strings.Contains(stopped.Next[1], "requorum rollback dcs") {
		t.Errorf("next commands %q", stopped.Next)
	}
	b.run(overHealthy)
	etcdtest.MustEqual(t, want, b.rows())
	if b.clusterID(t) == before {
		t.Error("the cluster kept its id")
	}
	b.settled(t)
}

// A port that something else took ends with what stands where; when it is free again the same command goes on.
func TestPortTakenAtStart(t *testing.T) {
	b := newBed(t, etcdtest.Options{})
	b.fill(20)
	b.backup()
	want := unleased(b.rows())
	var thief net.Listener
	_, err := b.restorer(func(at string) {
		if at == "done:allow" {
			var err error
			if thief, err = net.Listen("tcp", strings.TrimPrefix(b.Members()[0].PeerURL, "http://")); err != nil {
				t.Error(err)
			}
		}
	}, overHealthy).Run(t.Context())
	var stopped *restore.Stopped
	if !errors.As(err, &stopped) || !strings.Contains(err.Error(), "is taken by process") || len(stopped.Members) != 3 {
		t.Fatalf("restore with a taken port: %v", err)
	}
	thief.Close()
	b.run()
	etcdtest.MustEqual(t, want, b.rows())
	b.settled(t)
}

// A port that is taken from the beginning is found by the checks, before anything is changed.
func TestPortTakenBefore(t *testing.T) {
	b := newBed(t, etcdtest.Options{})
	b.fill(20)
	b.backup()
	b.Stop(t)
	thief, err := net.Listen("tcp", b.Members()[2].Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer thief.Close()
	_, err = b.restorer(nil).Run(t.Context())
	var checks *restore.ChecksError
	if !errors.As(err, &checks) || !strings.Contains(err.Error(), "is taken by process") {
		t.Fatalf("restore with a taken port: %v", err)
	}
	if s := b.places(""); s["etcd1"].Journal != nil {
		t.Error("a run began although the checks had failed")
	}
}

// A disk that fills up while the members are staged stops the restore while the old cluster still serves.
func TestDiskFullWhileStaging(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts a small file system: needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1200m"); err != nil {
		t.Skipf("mount a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	b := newBed(t, etcdtest.Options{Dir: dir})
	b.fill(20)
	b.backup()
	before, id := b.rows(), b.clusterID(t)
	filler := filepath.Join(dir, "filler")
	_, err := b.restorer(func(at string) {
		if at == "after:lock:3" {
			if err := fillDisk(filler, dir); err != nil {
				t.Error(err)
			}
		}
	}, overHealthy).Run(t.Context())
	var stopped *restore.Stopped
	if !errors.As(err, &stopped) || stopped.Step != restore.StepStage || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("restore to a full disk: %v", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	etcdtest.MustEqual(t, before, b.rows())
	if _, err := b.restorer(nil).Rollback(t.Context(), ""); err != nil {
		t.Fatalf("rollback: %v", err)
	}
	if b.clusterID(t) != id {
		t.Error("the cluster was replaced")
	}
	b.settled(t)

	// A disk that is too small from the beginning is found by the checks.
	if err := fillDisk(filler, dir); err != nil {
		t.Fatal(err)
	}
	_, err = b.restorer(nil, overHealthy).Run(t.Context())
	var checks *restore.ChecksError
	if !errors.As(err, &checks) || !strings.Contains(err.Error(), "not enough for") {
		t.Errorf("restore to a disk that is full from the beginning: %v", err)
	}
}

// fillDisk leaves less than a WAL takes.
func fillDisk(path, dir string) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return syscall.Fallocate(int(f.Fd()), 0, 0, int64(st.Bavail)*int64(st.Bsize)-(24<<20))
}

// A rollback after clients wrote says how much it discards, asks, and restores what was there before without its ghosts, above
// every revision that a client can have seen.
func TestRollbackAfterClientsWrote(t *testing.T) {
	b := newBed(t, etcdtest.Options{})
	client := b.fill(50)
	b.backup()
	etcdtest.Put(t, client, "/data/late", "acknowledged after the backup")
	before := unleased(b.rows())
	restored := b.run(overHealthy)
	client = b.Client(t)
	opened := etcdtest.Revision(t, client)
	for i := range 6 {
		etcdtest.Put(t, client, "/data/new", fmt.Sprint(i))
	}
	written := int(etcdtest.Delete(t, client, "/data/new") - opened) // 7, and more if an answer got lost and a put was done twice
	_, err := b.restorer(nil).Rollback(t.Context(), "")
	refusals, _ := agents.SplitRefusals(err)
	if len(refusals) != 1 || refusals[0].Flag != "--discard-writes" ||
		!strings.Contains(refusals[0].What, fmt.Sprintf(`%d revisions written since the cluster was opened: "/data/" (%d written, 1 deleted)`, written, written-1)) {
		t.Fatalf("rollback over writes: %v", err)
	}
	report, err := b.restorer(nil, func(o *restore.Options) { o.DiscardWrites = true }).Rollback(t.Context(), "")
	if err != nil {
		t.Fatalf("rollback: %v", err)
	}
	etcdtest.MustEqual(t, before, b.rows())
	if report.TargetRevision < restored.TargetRevision+1_000_000_000 || report.ClusterID == restored.ClusterID || report.Kind != restore.PlanRollback {
		t.Errorf("report %+v", report)
	}
	if report.Discarded == nil || report.Discarded.Revisions != int64(written) || !slices.Equal(report.Discarded.Changes, []restore.Changed{{Prefix: "/data/", Plain: written - 1, Deleted: 1}}) {
		t.Errorf("discarded %+v", report.Discarded)
	}
	b.settled(t)
}

// What requorum's proof wrote is nobody's loss, whoever was killed before it noted that. But when etcd has forgotten what was written, it is asked about.
func TestRollbackOverProbes(t *testing.T) {
	b := newBed(t, etcdtest.Options{Members: 1})
	b.fill(20)
	b.backup()
	b.run(overHealthy)
	c, err := cluster.Dial(cluster.Options{Endpoints: b.Endpoints(), DialTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	probed, err := c.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	report, err := b.restorer(nil).Rollback(t.Context(), "")
	if err != nil || report.Discarded == nil || report.Discarded.Revisions != 0 {
		t.Fatalf("rollback over a probe at revision %d: %+v, %v", probed, report.Discarded, err)
	}

	restored := b.run(overHealthy)
	last := etcdtest.Revision(t, b.Client(t))
	etcdtest.Compact(t, b.Client(t), last)
	_, err = b.restorer(nil).Rollback(t.Context(), "")
	refusals, _ := agents.SplitRefusals(err)
	if len(refusals) != 1 || !strings.HasSuffix(refusals[0].What, fmt.Sprintf(" %d revisions written since the cluster was opened", last-restored.TargetRevision)) {
		t.Errorf("rollback over what was compacted: %v", err)
	}
	b.settled(t)
}

// A healthy cluster is refused with the flag that would allow it, and nothing is touched.
func TestHealthyIsRefused(t *testing.T) {
	b := newBed(t, etcdtest.Options{})
	b.fill(20)
	b.backup()
	_, err := b.restorer(nil).Run(t.Context())
	refusals, _ := agents.SplitRefusals(err)
	if len(refusals) != 1 || refusals[0].Flag != "--replace-healthy dcs" {
		t.Fatalf("restore over a healthy cluster: %v", err)
	}
	for _, m := range b.Members() {
		if !m.Running() {
			t.Errorf("%s was stopped", m.Name)
		}
	}
	if left, err := b.leftovers(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}

	// Left out, two of three members cannot be proven stopped.
	_, err = b.restorer(nil, overHealthy, func(o *restore.Options) { o.Without = []string{"etcd2", "etcd3"} }).Run(t.Context())
	refusals, _ = agents.SplitRefusals(err)
	if len(refusals) != 1 || refusals[0].Flag != "--fenced etcd2 --fenced etcd3" {
		t.Errorf("restore of one of three members: %v", err)
	}
}

// A second run is told who holds the lock; a dead owner on another machine gives way only when named, and not before its heartbeat is old.
func TestLock(t *testing.T) {
	b := newBed(t, etcdtest.Options{Members: 1})
	b.fill(20)
	b.backup()
	b.Stop(t)
	var checked bool
	_, err := b.restorer(func(at string) {
		if at != "done:stage" {
			return
		}
		checked = true
		_, err := b.restorer(nil).Run(t.Context())
		var locked *restore.LockedError
		if !errors.As(err, &locked) || !errors.Is(err, restore.ErrLocked) || locked.Lock.PID != os.Getpid() || locked.Dead {
			t.Errorf("a second restore at the same time: %v", err)
		}
		_, err = b.restorer(nil).Rollback(t.Context(), "")
		if !errors.Is(err, restore.ErrLocked) {
			t.Errorf("a rollback at the same time: %v", err)
		}
	}).Run(t.Context())
	if err != nil || !checked {
		t.Fatalf("restore: %v", err)
	}

	host := local.New(local.Options{})
	m := b.setup.Members[0]
	state, err := host.Inspect(t.Context(), restore.InspectRequest{Member: m})
	if err != nil {
		t.Fatal(err)
	}
	plan := state.Journal.Plan
	lock := func(h *local.Host, token, takeOver string) error {
		o := local.Owner(token)
		o.Host = token + ".example"
		return h.Apply(t.Context(), restore.ApplyRequest{Action: restore.ActLock, Member: m, Run: plan.Run, Owner: o, Plan: &plan, TakeOver: takeOver})
	}
	if err := lock(host, "first", ""); err != nil {
		t.Fatal(err)
	}
	later := local.New(local.Options{Now: func() time.Time { return time.Now().Add(2 * restore.StaleAfter) }})
	for name, err := range map[string]error{
		"without being told to":        lock(later, "second", ""),
		"told to about another":        lock(later, "second", "rother"),
		"while the heartbeat is fresh": lock(host, "second", plan.Run),
	} {
		var h *restore.HostError
		if !errors.As(err, &h) || h.Code != restore.HostLocked {
			t.Errorf("took the lock over %s: %v", name, err)
		}
	}
	if err := lock(later, "second", plan.Run); err != nil {
		t.Errorf("take over: %v", err)
	}
	o := local.Owner("first")
	if err := host.Apply(t.Context(), restore.ApplyRequest{Action: restore.ActStop, Member: m, Run: plan.Run, Owner: o}); err == nil {
		t.Error("an owner whose lock was taken over stopped a member")
	}
}

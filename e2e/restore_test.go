package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
	"github.com/requorum/requorum/internal/etcdtest/halt"
)

// prefix makes a deletion one of all keys that begin so.
var prefix = clientv3.WithPrefix()

// stages are the steps after which a restore is killed, as its progress names them.
var stages = []string{"predict", "stage", "stop", "exchange", "start", "prove"}

// Killed after any step, the same command goes on to a whole cluster, and nothing is left to be done.
func TestKilledRestoreGoesOn(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{})
	s.fill(50, 500)
	s.backup()
	want := s.rows()
	for _, stage := range stages {
		t.Run(stage, func(t *testing.T) {
			s := s.in(t)
			s.killed(stage, "restore", "dcs", "--yes", "--replace-healthy", "dcs", "--at", s.list()[0].ID)
			args := []string{"--at", s.list()[0].ID}
			if stage == "predict" { // no host knew of it yet
				args = append(args, "--replace-healthy", "dcs")
			}
			s.restore(args...)
			etcdtest.MustEqual(t, want, s.rows())
			s.settled()
		})
	}
}

// Killed after any step, rollback brings back what was there, with what was written after the backup.
func TestKilledRestoreIsRolledBack(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{})
	s.fill(50, 500)
	b := s.backup()
	for _, stage := range stages[1:] {
		t.Run(stage, func(t *testing.T) {
			s := s.in(t)
			etcdtest.Put(t, s.Client(t), "/data/late", stage)
			before, id := s.rows(), s.Members[0].Status(t).Header.ClusterId
			s.killed(stage, "restore", "dcs", "--yes", "--replace-healthy", "dcs", "--at", b.ID)
			s.run("rollback", "dcs", "--yes", "--discard-writes").Exits(t, command.ExitOK)
			s.WaitHealthy(t)
			etcdtest.MustEqual(t, before, s.rows())
			served := stage == "start" || stage == "prove"
			if same := s.Members[0].Status(t).Header.ClusterId == id; same == served {
				t.Errorf("the cluster id is the old one: %v; the new cluster may have been seen by clients: %v", same, served)
			}
			s.settled()
		})
	}
}

// in is the same site for a subtest.
func (s *site) in(t *testing.T) *site {
	sub := *s
	sub.t = t
	return &sub
}

// haltBeyond starts a command that is halted at the first file that it opens directly in one of the dirs after it has told of the end of a stage.
func (s *site) haltBeyond(stage string, dirs []string, args ...string) (*command.Command, *halt.Point) {
	s.t.Helper()
	var started atomic.Pointer[command.Command]
	point := halt.When(s.t, dirs, func() bool {
		c := started.Load()
		return c != nil && strings.Contains("\n"+c.Stderr.String(), "\n"+stage+" ")
	})
	c := s.start(args...)
	started.Store(c)
	return c, point
}

// states are the dirs in which requorum keeps what it knows of runs, one for each member.
func (s *site) states() (dirs []string) {
	for _, m := range s.Members {
		dirs = append(dirs, m.DataDir+".requorum")
	}
	return dirs
}

// haltAfter starts a command and returns when its run is halted, with a step done and nothing of the next one.
func (s *site) haltAfter(step string, args ...string) (*command.Command, *halt.Point) {
	s.t.Helper()
	point := halt.AfterStep(s.t, s.states(), step)
	c := s.start(args...)
	point.Await(s.t, c.Ended(), c.Stderr.String)
	return c, point
}

// killed runs a command that is killed after a stage, before anything of the next one is done.
func (s *site) killed(stage string, args ...string) {
	s.t.Helper()
	if stage == "predict" { // it is no step of the plan: what comes next is that the hosts are told
		c, point := s.haltBeyond(stage, s.states(), args...)
		c.Reaches(s.t, stage)
		c.Kill(s.t).Exits(s.t, -1)
		point.Release()
	} else {
		c, point := s.haltAfter(stage, args...)
		c.Kill(s.t).Exits(s.t, -1)
		point.Release()
	}
	if err := os.MkdirAll(filepath.Join(s.spool, "trial-1", "data", "member"), 0o700); err != nil { // as it leaves them when its trial start is under way
		s.t.Fatal(err)
	}
	for _, m := range s.Members {
		if found, _ := filepath.Glob(m.DataDir + "/member/snap/db"); len(found) == 0 {
			s.t.Errorf("killed after %s, %s is left empty", stage, m.Name)
		}
	}
	ids := map[uint64]string{}
	for _, m := range s.Members {
		if m.Running() {
			ids[m.Status(s.t).Header.ClusterId] = m.Name
		}
	}
	if len(ids) > 1 {
		s.t.Errorf("killed after %s, two clusters run: %x", stage, ids)
	}
}

// settled fails the test if a run that has ended left something to be done.
func (s *site) settled() {
	s.t.Helper()
	var runs []struct{ Unfinished any }
	s.run("-o", "json", "runs", "dcs").Exits(s.t, command.ExitOK).Decode(s.t, &runs)
	if len(runs) != 1 || runs[0].Unfinished != nil {
		s.t.Errorf("runs says %+v", runs)
	}
	for _, key := range s.objects() { // what a killed process had not uploaded to the end is none yet
		if strings.HasPrefix(key, "dcs/holds/") {
			s.t.Errorf("the hold %s is left", key)
		}
	}
	for _, m := range s.Members {
		if found, _ := filepath.Glob(m.DataDir + ".staged-*"); len(found) > 0 {
			s.t.Errorf("%q is left", found)
		}
	}
	if found := s.spooled(); len(found) > 0 {
		s.t.Errorf("the spool holds %q", found)
	}
	s.run("check", "dcs", "--wait", "0").Exits(s.t, command.ExitOK)
}

// While one restore works, another is turned away; told to stop, the first one says what stands where and how to go on.
func TestOneRestoreAtATime(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{})
	s.fill(50, 500)
	s.backup()
	want := s.rows()
	s.lose()
	first, point := s.haltAfter("stage", "restore", "dcs", "--yes")
	first.Signal(t, syscall.SIGSTOP)
	point.Release()
	s.run("restore", "dcs", "--yes").Exits(t, command.ExitLocked, "holds the lock", "pid")
	s.run("rollback", "dcs", "--yes").Exits(t, command.ExitLocked)
	s.run("-o", "json", "backup", "dcs", "--refuse-held", "--endpoints", s.Endpoints()[0], "--store", "file://"+s.storeDir(), "--allow-tmpfs-spool", "--spool-dir", s.spool).Exits(t, command.ExitRefused, "a restore")
	first.Signal(t, syscall.SIGTERM)
	first.Signal(t, syscall.SIGCONT)
	first.Wait(t).Exits(t, command.ExitTerminate, "stopped by terminated", "requorum.yaml restore dcs", "requorum.yaml rollback dcs", s.Members[0].Name+": ")
	s.run("runs", "dcs").Exits(t, command.ExitOK, "UNFINISHED")
	s.run("restore", "dcs", "--plan").Exits(t, command.ExitError, "unfinished")
	s.restore("--resume")
	etcdtest.MustEqual(t, want, s.rows())
	s.settled()
	s.run("restore", "dcs", "--yes", "--resume").Exits(t, command.ExitError, "no unfinished run")
}

// What is in doubt is refused with the flag that would allow it, before anything is touched.
func TestRefusals(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{})
	s.run("restore", "dcs", "--yes").Exits(t, command.ExitNothing, "requorum list")
	s.run("verify", "dcs").Exits(t, command.ExitNothing)
	s.fill(50, 500)
	b := s.backup()
	want := s.rows()
	s.run("restore", "dcs", "--yes").Exits(t, command.ExitRefused, "is healthy", "--replace-healthy dcs")
	s.run("restore", "dcs", "--yes", "--replace-healthy", "other").Exits(t, command.ExitUsage, "is dcs")
	s.run("restore", "dcs", "--replace-healthy", "dcs").Exits(t, command.ExitUsage, "--yes") // nobody can be asked
	s.run("restore", "dcs", "--yes", "--at", "bzzzzzzz").Exits(t, command.ExitNothing)
	s.run("restore", "dcs", "--yes", "--at", "2001-01-01T00:00:00Z").Exits(t, command.ExitNothing)
	s.run("restore", "dcs", "--yes", "--at", "yesterday").Exits(t, command.ExitUsage)
	for _, args := range [][]string{{"restore", "dcs", "--plan"}, {"restore", "dcs", "--dry-run", "--at", b.ID[:4]}} {
		s.run(append(args, "--replace-healthy", "dcs")...).Exits(t, command.ExitOK, b.ID, "1000000", "stage", "exchange", "prove")
	}
	etcdtest.MustEqual(t, want, s.rows())
	for _, m := range s.Members {
		if found, _ := filepath.Glob(m.DataDir + ".*"); len(found) > 0 {
			t.Errorf("a plan or a refusal left %q", found)
		}
	}

	// The key count fell by half: somebody may have deleted what is to be restored.
	etcdtest.Delete(t, s.Client(t), "/data/0000002", prefix)
	etcdtest.Delete(t, s.Client(t), "/data/0000003", prefix)
	etcdtest.Delete(t, s.Client(t), "/data/0000004", prefix)
	time.Sleep(time.Until(b.Time.Add(time.Second))) // times of backups are whole seconds
	fewer := s.backup()
	s.lose()
	s.run("restore", "dcs", "--yes").Exits(t, command.ExitRefused, "--at "+b.ID, "--at "+fewer.ID)
	s.restore("--at", b.ID)
	etcdtest.MustEqual(t, want, s.rows())
}

// A member that is left out makes it partly done (3); agents that do not come back make it 15, with etcd proven; and check tells a monitoring
// system about all of that.
func TestPartialEnds(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{cluster: "    objectives: {rpo: 1h}\n"})
	s.fill(50, 500)
	s.run("check", "dcs").Exits(t, 2, "CRITICAL", "there is no backup")
	s.backup()
	want := s.rows()
	s.run("check", "dcs").Exits(t, 0, "OK: dcs: 3 of 3 members healthy")
	follower := s.Followers(t)[0]
	follower.Kill(t)
	s.run("check", "dcs").Exits(t, 1, "WARNING: dcs: 2 of 3 members healthy", follower.ClientURL)
	s.lose()
	s.run("check", "dcs").Exits(t, 2, "CRITICAL", "requorum restore dcs")

	r := s.run("restore", "dcs", "--yes", "--without", s.Members[2].Name).Exits(t, command.ExitPartly, s.Members[2].Name)
	if !strings.Contains(r.Stdout, "ok") {
		t.Errorf("the two others were not proven:\n%s", r)
	}
	if s.Members[2].Running() {
		t.Errorf("%s was left out, and runs", s.Members[2].Name)
	}
	etcdtest.MustEqual(t, want, unleased(etcdtest.Rows(t, s.Client(t, s.Endpoints()[:2]...))))

	s.Kill(t)
	s.cluster = "    objectives: {rpo: 1ms}\n    agents: [{leased: {prefix: /app/, count: 1, deadline: 2s}}]\n"
	s.configure()
	s.run("restore", "dcs", "--yes").Exits(t, command.ExitAgents, "NOT BACK", "/app/")
	s.WaitHealthy(t)
	etcdtest.MustEqual(t, want, s.rows())
	s.run("check", "dcs", "--wait", "10s").Exits(t, 2, "agent leased /app/", "the objective is 1ms")

	s.store = "{file: {path: /dev/null/nowhere}}"
	s.cluster = ""
	s.configure()
	s.run("check", "dcs").Exits(t, 3, "UNKNOWN")
}

// A finished restore can be taken back as well. What clients wrote meanwhile is lost by that, so it is asked about, with how much it is.
func TestRollbackAfterWrites(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{})
	s.fill(50, 500)
	b := s.backup()
	etcdtest.Put(t, s.Client(t), "/data/late", "after the backup")
	before := s.rows()
	s.run("rollback", "dcs", "--yes").Exits(t, command.ExitNothing)
	r := s.restore("--at", b.ID, "--replace-healthy", "dcs")
	for i := range 3 {
		etcdtest.Put(t, s.Client(t), fmt.Sprintf("/data/new%d", i), "of the new cluster")
	}
	restored := s.rows()
	s.run("rollback", "dcs", "--yes", r.Run).Exits(t, command.ExitRefused, `3 revisions written since the cluster was opened: "/data/" (3 written)`, "--discard-writes", r.Run)
	etcdtest.MustEqual(t, restored, s.rows())
	s.run("rollback", "dcs", "--dry-run", "--discard-writes").Exits(t, command.ExitOK, "discards", "/data/")
	s.run("rollback", "dcs", "--yes", "--discard-writes", r.Run).Exits(t, command.ExitOK, "rollback")
	etcdtest.MustEqual(t, before, s.rows())
	s.settled()
}

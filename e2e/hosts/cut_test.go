package hosts

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
	"github.com/requorum/requorum/internal/etcdtest/halt"
)

// arrived is how much of the database is on the host's disk while it is transferred.
func (h *host) arrived(t testing.TB) (n int64) {
	t.Helper()
	files, err := filepath.Glob(h.disk("srv", "etcd.staged-*.db"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if info, err := os.Stat(f); err == nil {
			n += info.Size()
		}
	}
	return n
}

// transfer is the speed, in megabits a second, at which a database of tens of megabytes arrives for long enough to do something meanwhile.
const transfer = 8

// slowly starts a restore whose database arrives on one of the hosts at a number of megabits a second; what comes before that is not slow.
func (d *desk) slowly(t testing.TB, h *host, megabits int, args ...string) *command.Command {
	t.Helper()
	var states []string
	for _, m := range d.members {
		states = append(states, m.host.state)
	}
	point := halt.AfterStep(t, states, "lock")
	c := d.start(t, args...)
	point.Await(t, c.Ended(), c.Stderr.String)
	h.slow(t, megabits)
	point.Release()
	return c
}

// heavy founds a cluster whose database is tens of megabytes, backs it up, and cuts the power of all hosts.
func (s *site) heavy(t testing.TB, d *desk) []etcdtest.Row {
	t.Helper()
	client := s.found(t, s.hosts...)
	etcdtest.MustFill(t, client, etcdtest.FillOptions{Keys: 3000, ValueSize: 16 << 10, Random: true})
	d.run(t, "backup", "dcs").Exits(t, command.ExitOK)
	rows := s.rows(t, s.hosts...)
	for _, h := range s.hosts {
		h.off(t)
		h.on(t)
	}
	return rows
}

var goesOn = regexp.MustCompile(`goes on after (\d+) of (\d+) MB`)

// TestLinkCut pulls a host's cable in the middle of the transfer: the command ends with an error that says where, and the same command
// goes on where the transfer stopped.
func TestLinkCut(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3)
	d := s.newDesk(t, "desk1", s.hosts...)
	want := s.heavy(t, d)
	h3 := s.hosts[2]

	c := d.slowly(t, h3, transfer, "restore", "dcs", "--yes")
	until(t, "a part of the database on h3", func() bool { return h3.arrived(t) > 8<<20 })
	h3.unplug(t)
	begun := time.Now()
	c.Wait(t).Exits(t, command.ExitError, "ssh://root@"+h3.addr, "stopped at \"stage\"", "goes on from here")
	t.Logf("the dead link was an error after %.0f s", time.Since(begun).Seconds())
	part := h3.arrived(t)
	if part == 0 {
		t.Fatal("nothing of the transfer is kept on h3")
	}
	h3.mend(t)
	h3.slow(t, 1000)
	r := d.run(t, "restore", "dcs", "--yes").Exits(t, command.ExitOK, "stage h3 goes on after")
	if m := goesOn.FindStringSubmatch(r.Stderr); m == nil || m[1] == "0" {
		t.Errorf("the transfer of h3, of which %d bytes were there, did not go on:\n%s", part, r)
	}
	etcdtest.MustEqual(t, want, s.rows(t, s.hosts...))

	// A connection that is reset is made anew by the same command.
	for _, h := range s.hosts {
		h.off(t)
		h.on(t)
	}
	c = d.slowly(t, h3, transfer, "restore", "dcs", "--yes", "--at", firstBackup(t, d))
	until(t, "a part of the database on h3", func() bool { return h3.arrived(t) > 8<<20 })
	h3.exec(t, "sh", "-c", "for p in /proc/[0-9]*; do grep -q 'ssh[d]: root' $p/cmdline && kill -9 ${p#/proc/}; done; true")
	h3.slow(t, 1000)
	c.Wait(t).Exits(t, command.ExitOK, "stage h3 goes on after")
	etcdtest.MustEqual(t, want, s.rows(t, s.hosts...))
}

// TestHostLost loses a host for good in the middle of a restore, before the new cluster is started: the others are rolled back without it, by the command that is printed, and it
// itself once it is there again.
func TestHostLost(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3)
	d := s.newDesk(t, "desk1", s.hosts...)
	client := s.found(t, s.hosts...)
	etcdtest.MustFill(t, client, etcdtest.FillOptions{Keys: 300})
	d.run(t, "backup", "dcs").Exits(t, command.ExitOK)
	h3, rest := s.hosts[2], s.hosts[:2]

	for _, step := range []string{"stage", "stop", "exchange", "allow"} {
		t.Run(step, func(t *testing.T) {
			etcdtest.Put(t, s.client(t, s.hosts...), "/later", step)
			want, id := s.rows(t, s.hosts...), clusterOf(t, s.client(t, s.hosts...))
			d.killedAfter(t, step, "restore", "dcs", "--yes", "--from", "store", "--replace-healthy", "dcs")
			h3.off(t)
			r := d.run(t, "restore", "dcs", "--yes").Exits(t, command.ExitError, `stopped at "lock"`, "h3 on ssh://root@"+h3.addr+": unknown")
			d.run(t, append(printed(t, r, "rollback dcs --without h3"), "--yes")...).Exits(t, command.ExitPartly, "h3 could not be reached")
			etcdtest.MustEqual(t, want, s.rows(t, rest...))

			met := h3.refusedPeers(t)
			h3.on(t)
			_, held := os.Stat(h3.disk("srv", "held"))
			if out, err := h3.try(t, "/srv/etcd.sh", "start"); (err == nil) == (held == nil) { // as the machine does when it boots
				t.Errorf("starts on h3 are forbidden: %v, and a start ended with: %v: %s", held == nil, err, out)
			}
			if step == "allow" { // a new member, of a cluster that will not be
				s.apart(t, h3, met, rest...)
			}
			d.run(t, "restore", "dcs", "--yes").Exits(t, command.ExitError, "is unfinished", "rollback dcs")
			d.run(t, "rollback", "dcs", "--yes").Exits(t, command.ExitOK)
			h3.startEtcd(t)
			etcdtest.MustEqual(t, want, s.rows(t, s.hosts...))
			if now := clusterOf(t, s.client(t, h3)); now != id {
				t.Errorf("h3 is in cluster %s, not in the old one, %s", now, id)
			}
			s.settled(t)
			for _, h := range s.hosts {
				if out := h.exec(t, "sh", "-c", "ls -d /srv/etcd.staged-* /srv/etcd.before-* 2>/dev/null || true"); strings.TrimSpace(out) != "" {
					t.Errorf("on %s there is still %s", h.name, out)
				}
			}
		})
	}
}

// firstBackup is the id of the oldest backup.
func firstBackup(t testing.TB, d *desk) string {
	t.Helper()
	var all []struct{ ID string }
	d.run(t, "-o", "json", "list", "dcs").Exits(t, command.ExitOK).Decode(t, &all)
	if len(all) == 0 {
		t.Fatal("there are no backups")
	}
	return all[0].ID
}

// TestCoordinators has two desks: one that is killed at several points, and another that must keep its hands off, takes over when that is allowed, and undoes.
func TestCoordinators(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3)
	d1, d2 := s.newDesk(t, "desk1", s.hosts...), s.newDesk(t, "desk2", s.hosts...)
	want := s.heavy(t, d1)
	h3 := s.hosts[2]

	// Two at once.
	c := d1.slowly(t, h3, transfer, "restore", "dcs", "--yes")
	until(t, "a part of the database on h3", func() bool { return h3.arrived(t) > 4<<20 })
	h3.slow(t, 2) // from here on it takes minutes
	locked := d2.run(t, "restore", "dcs", "--yes").Exits(t, command.ExitLocked, "desk1")
	d2.run(t, "rollback", "dcs", "--yes").Exits(t, command.ExitLocked, "desk1")
	c.Kill(t)
	killed := time.Now()
	run := regexp.MustCompile(`run (r\w+)`).FindStringSubmatch(locked.Stderr)
	if run == nil {
		t.Fatalf("it does not name the run:\n%s", locked)
	}

	// Killed in the middle of a transfer: the same machine knows that its process is gone, and goes on. Killed again.
	h3.slow(t, 1000)
	d1.killedAfter(t, "stage", "restore", "dcs", "--yes")
	// Another machine cannot know, and waits.
	d2.run(t, "restore", "dcs", "--yes", "--take-over", run[1]).Exits(t, command.ExitLocked)
	d2.run(t, "restore", "dcs", "--yes").Exits(t, command.ExitLocked, "desk1")
	until(t, "the heartbeats to be old", func() bool { return time.Since(killed) > 61*time.Second && stale(t, s) })
	d2.run(t, "rollback", "dcs", "--yes", "--take-over", run[1]).Exits(t, command.ExitOK)
	for _, h := range s.hosts {
		if out := h.exec(t, "sh", "-c", "ls -d /srv/etcd.staged-* /srv/etcd.before-* /srv/held 2>/dev/null || true"); strings.TrimSpace(out) != "" {
			t.Errorf("on %s there is still %s", h.name, out)
		}
		h.startEtcd(t)
	}
	etcdtest.MustEqual(t, want, s.rows(t, s.hosts...)) // the old cluster, untouched

	// Killed at the exchange, and gone on with; and then undone although the new cluster has served.
	for _, h := range s.hosts {
		h.off(t)
		h.on(t)
	}
	d2.killedAfter(t, "exchange", "restore", "dcs", "--yes")
	var r restored
	d2.run(t, "-o", "json", "restore", "dcs", "--yes").Exits(t, command.ExitOK).Decode(t, &r)
	etcdtest.MustEqual(t, want, s.rows(t, s.hosts...))
	etcdtest.Put(t, s.client(t, s.hosts...), "/after", "x")
	d1.run(t, "rollback", "dcs", "--yes").Exits(t, command.ExitRefused, "--discard-writes")
	d1.run(t, "rollback", "dcs", "--yes", "--discard-writes").Exits(t, command.ExitOK)
	etcdtest.MustEqual(t, values(want), values(s.rows(t, s.hosts...)))
}

// values are the rows without their revisions, which a rollback of a started cluster does not keep for keys that it edits.
func values(rows []etcdtest.Row) (all []etcdtest.Row) {
	for _, r := range rows {
		all = append(all, etcdtest.Row{Key: r.Key, Value: r.Value})
	}
	return all
}

// stale says whether the heartbeats of all locks are more than a minute old.
func stale(t testing.TB, s *site) bool {
	t.Helper()
	for _, h := range s.hosts {
		info, err := os.Stat(h.disk("srv", "etcd.requorum", "lock"))
		if err == nil && time.Since(info.ModTime()) < 61*time.Second {
			return false
		}
	}
	return true
}

// TestPartition has an old quorum that the desk cannot reach, and that goes on serving.
func TestPartition(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3)
	d := s.newDesk(t, "desk1", s.hosts...)
	client := s.found(t, s.hosts...)
	etcdtest.MustFill(t, client, etcdtest.FillOptions{Keys: 200})
	d.run(t, "backup", "dcs").Exits(t, command.ExitOK)
	s.hosts[0].off(t)
	s.hosts[0].on(t)
	for _, h := range s.hosts[1:] {
		h.cutFromDesk(t)
	}
	r := d.run(t, "restore", "dcs", "--yes", "--without", "h2", "--without", "h3").Exits(t, command.ExitRefused, "--fenced h2", "--fenced h3", "two clusters")
	t.Log(r)
	for _, h := range s.hosts[1:] {
		h.mend(t)
	}
	s.hosts[0].startEtcd(t)
	etcdtest.Put(t, client, "/still", "serving")
	s.serves(t, s.client(t, s.hosts...))
	for _, h := range s.hosts {
		if out := h.exec(t, "sh", "-c", "ls -d /srv/etcd.* 2>/dev/null | grep -v -e log -e pid -e sh || true"); strings.TrimSpace(out) != "" {
			t.Errorf("on %s the refused restore left %s", h.name, out)
		}
	}
}

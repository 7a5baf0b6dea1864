package hosts

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
	"github.com/requorum/requorum/internal/etcdtest/halt"
)

// unfinished is the journal of the run that has not ended on the host; nil if there is none.
func (h *host) unfinished(t testing.TB) *halt.Journal {
	t.Helper()
	for _, j := range halt.Journals(t, h.state) {
		if j.Ended.IsZero() {
			return &j
		}
	}
	return nil
}

// haltAfter starts a command and returns when its run is halted: the journals on all hosts have the step as done, and nothing of the next one is done on any.
func (d *desk) haltAfter(t testing.TB, step string, args ...string) (*command.Command, *halt.Point) {
	t.Helper()
	point := halt.AfterStep(t, d.site.states(), step)
	c := d.start(t, args...)
	point.Await(t, c.Ended(), c.Stderr.String)
	return c, point
}

// killedAfter starts a command that is killed when the journals of its run on all hosts have the step as done: nothing of the next one is done on any, nor in the cluster.
func (d *desk) killedAfter(t testing.TB, step string, args ...string) {
	t.Helper()
	var c *command.Command
	var point *halt.Point
	if step == "start" { // what is next, the proof, needs no host, and writes a key as soon as there is a quorum
		var before *halt.Point
		c, before = d.haltAfter(t, "allow", args...)
		for _, h := range d.site.hosts {
			h.isolate(t)
		}
		point = halt.AfterStep(t, d.site.states(), step)
		before.Release()
		point.Await(t, c.Ended(), c.Stderr.String)
	} else {
		c, point = d.haltAfter(t, step, args...)
	}
	point.Refuse()
	c.Kill(t)
	for _, h := range d.site.hosts {
		until(t, "what worked on "+h.name+" for the killed one to end", func() bool { return !h.works(t) })
	}
	point.Release()
	if step == "start" {
		for _, h := range d.site.hosts {
			h.join(t)
		}
	}
}

// states are the dirs in which requorum keeps what it knows of runs.
func (s *site) states() (dirs []string) {
	for _, h := range s.hosts {
		dirs = append(dirs, h.state)
	}
	return dirs
}

// works says whether somebody's requorum answers requests on the host.
func (h *host) works(t testing.TB) bool {
	t.Helper()
	pids, err := exec.Command("ip", "netns", "pids", h.ns).Output()
	if err != nil {
		t.Fatalf("list the processes of %s: %v", h.name, err)
	}
	for _, pid := range strings.Fields(string(pids)) {
		line, _ := os.ReadFile("/proc/" + pid + "/cmdline") // it may be gone
		if strings.Contains(string(line), "host-agent\x00serve") {
			return true
		}
	}
	return false
}

// printed is a command that a message says to type, as typed: from the line, or the quotes, in which it stands.
func printed(t testing.TB, r command.Result, words string) []string {
	t.Helper()
	typed := regexp.MustCompile(regexp.QuoteMeta(requorum) + ` -c \S+ (` + words + `[^\n"();]*?)(?:"| and |  |[;\n]|$)`)
	m := typed.FindStringSubmatch(r.Stderr)
	if m == nil {
		t.Fatalf("no command %q is printed:\n%s", words, r)
	}
	return strings.Fields(m[1])
}

// refusedPeers is how often the host's etcd has logged that a peer is of another cluster.
func (h *host) refusedPeers(t testing.TB) int {
	t.Helper()
	b, err := os.ReadFile(h.disk("srv", "etcd.log"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(b), "cluster ID mismatch")
}

// apart waits until the host's etcd has met the others', and fails the test if it takes writes.
func (s *site) apart(t testing.TB, h *host, met int, others ...*host) {
	t.Helper()
	s.serves(t, s.client(t, others...))
	until(t, h.name+" to look for its cluster", func() bool { return h.refusedPeers(t) > met })
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := s.client(t, h).Put(ctx, "/stray", "x"); err == nil {
		t.Errorf("%s takes writes: there are two clusters", h.name)
	}
}

// TestHostLostAfterStart loses a host when the new cluster runs already, and rolls the others back, which is a restore of what they had before. The host, back again, is
// a member of a cluster that is no more: the same rollback takes it out, and the command which that prints adds it to the present one.
func TestHostLostAfterStart(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3)
	d := s.newDesk(t, "desk1", s.hosts...)
	client := s.found(t, s.hosts...)
	etcdtest.MustFill(t, client, etcdtest.FillOptions{Keys: 300})
	h3, rest := s.hosts[2], s.hosts[:2]

	for _, c := range []struct {
		name       string
		lose, back func(t *testing.T)
	}{
		{"its cable pulled right after the start", func(t *testing.T) {
			d.killedAfter(t, "start", "restore", "dcs", "--yes", "--from", "store", "--replace-healthy", "dcs")
			s.serves(t, s.client(t, s.hosts...))
			h3.unplug(t)
			r := d.run(t, "restore", "dcs", "--yes").Exits(t, command.ExitError, `stopped at "lock"`, "h1 on ssh://root@"+s.hosts[0].addr+": "+dataDir+" is the new one", "h3 on ssh://root@"+h3.addr+": unknown")
			typed := printed(t, r, "rollback dcs --without h3")
			d.run(t, append(typed, "--yes", "--discard-writes")...).Exits(t, command.ExitPartly, "h3 could not be reached")
		}, func(t *testing.T) { h3.mend(t) }},
		{"its power lost after the end", func(t *testing.T) {
			d.restore(t, command.ExitOK, "--from", "store", "--replace-healthy", "dcs")
			h3.off(t)
			d.run(t, "rollback", "dcs", "--yes", "--without", "h3", "--discard-writes").Exits(t, command.ExitPartly, "h3 could not be reached")
		}, func(t *testing.T) {
			d.run(t, "rollback", "dcs", "--yes").Exits(t, command.ExitError, "cannot be reached yet", "the same command")
			h3.on(t)
			h3.startEtcd(t) // as its service manager does
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d.run(t, "backup", "dcs").Exits(t, command.ExitOK)
			etcdtest.Put(t, s.client(t, s.hosts...), "/late", c.name)
			want := s.rows(t, s.hosts...)
			c.lose(t)
			etcdtest.MustEqual(t, values(want), values(s.rows(t, rest...)))
			client := s.client(t, rest...)
			etcdtest.Put(t, client, "/meanwhile", c.name)
			want = s.rows(t, rest...)
			met := h3.refusedPeers(t)
			c.back(t)
			s.apart(t, h3, met, rest...)

			r := d.run(t, "rollback", "dcs", "--yes").Exits(t, command.ExitPartly, "starts are forbidden")
			etcdtest.MustEqual(t, want, s.rows(t, rest...)) // undisturbed
			if out, err := h3.try(t, "/srv/etcd.sh", "start"); err == nil {
				t.Errorf("somebody started etcd on h3, which belongs to no cluster: %s", out)
			}
			d.run(t, printed(t, r, "replace-member dcs h3")...).Exits(t, command.ExitUsage, "--yes")
			d.run(t, append(printed(t, r, "replace-member dcs h3"), "--yes")...).Exits(t, command.ExitOK, "it has its vote")
			etcdtest.MustEqual(t, want, s.rows(t, s.hosts...))
			for _, h := range s.hosts {
				if h.unfinished(t) != nil {
					t.Errorf("a run is unfinished on %s", h.name)
				}
			}
			h3.onceFounded(t)
		})
	}
}

// onceFounded fails the test if etcd on the host ever began an empty member but for its first start of all.
func (h *host) onceFounded(t testing.TB) {
	t.Helper()
	b, err := os.ReadFile(h.disk("srv", "etcd.log"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(b), `"msg":"starting local member"`); n != 1 {
		t.Errorf("etcd on %s began an empty member %d times", h.name, n)
	}
}

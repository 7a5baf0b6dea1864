package hosts

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// TestRestoreOverHosts goes through the disasters of one site, from one member to five.
func TestRestoreOverHosts(t *testing.T) {
	t.Parallel()
	top := t
	s := newSite(t, 3)
	first := s.hosts[:1]
	client := s.found(t, first...)
	etcdtest.MustFill(t, client, etcdtest.FillOptions{Prefix: "/one/", Keys: 500})
	d := s.newDesk(t, "desk1", s.hosts...)
	before := s.newDesk(t, "desk0", first...)
	before.run(t, "backup", "dcs").Exits(t, command.ExitOK)

	step := func(name string, f func(t *testing.T)) {
		t.Helper()
		if !t.Run(name, f) {
			t.FailNow() // the next one begins where this one ends
		}
	}
	step("who is let in", func(t *testing.T) { s.strangers(t, d) })
	step("one member becomes three", func(t *testing.T) {
		want := s.rows(t, first...)
		s.hosts[0].off(t)
		s.hosts[0].on(t)
		for _, h := range s.hosts {
			h.install(t, etcdtest.Latest, s.hosts)
		}
		d.restore(t, command.ExitOK)
		etcdtest.MustEqual(t, want, s.rows(t, s.hosts...))
	})
	step("power loss in the middle of writes", func(t *testing.T) { s.powerLoss(t, d) })
	step("a host is down", func(t *testing.T) { s.hostDown(t, d) })
	step("total loss, and three members become five", func(t *testing.T) {
		s.hosts[2].off(t)
		d.run(t, "backup", "dcs").Exits(t, command.ExitOK)
		want := s.rows(t, s.hosts[:2]...)
		for _, h := range s.hosts {
			h.off(t)
			h.on(t)
			h.wipe(t)
		}
		s.add(top)
		s.add(top)
		for _, h := range s.hosts {
			h.install(t, etcdtest.Latest, s.hosts)
		}
		five := s.newDesk(t, "desk1", s.hosts...)
		for i := range five.members {
			five.members[i].url = s.hosts[i].ssh("op")
		}
		five.configure(t)
		five.restore(t, command.ExitOK)
		etcdtest.MustEqual(t, want, s.rows(t, s.hosts...))
	})
	for _, h := range s.hosts {
		if left := strings.TrimSpace(h.exec(t, "find", "/var/tmp", "/tmp", "-mindepth", "1")); left != "" {
			t.Errorf("requorum left on %s: %s", h.name, left)
		}
	}
}

// restore restores without a question.
func (d *desk) restore(t testing.TB, code int, flags ...string) (r restored) {
	t.Helper()
	d.run(t, append([]string{"-o", "json", "restore", "dcs", "--yes"}, flags...)...).Exits(t, code).Decode(t, &r)
	if !r.OK {
		t.Errorf("the restore is not ok: %+v", r)
	}
	t.Logf("stages %+v", r.Stages)
	return r
}

// strangers tries hosts that are not known, not the ones that are known, and users who may not do what is needed: nothing is changed anywhere.
func (s *site) strangers(t *testing.T, d *desk) {
	h1, h2 := s.hosts[0], s.hosts[1]
	d.more = "    endpoints: [" + h1.clientURL() + "]" // the others do not run yet
	d.configure(t)
	d.run(t, "config", "check").Exits(t, command.ExitOK)
	d.knows(t, h1, s.hosts[2])
	unknown := "ssh-keyscan " + h2.addr
	d.run(t, "config", "check").Exits(t, command.ExitUsage, "members[1].host", unknown)
	d.run(t, "restore", "dcs", "--yes", "--replace-healthy", "dcs").Exits(t, command.ExitError, unknown, "nothing was changed")
	d.knows(t, s.hosts...)
	known, err := os.ReadFile(filepath.Join(d.dir, ".ssh", "known_hosts"))
	if err != nil {
		t.Fatal(err)
	}
	d.file(t, ".ssh/known_hosts", strings.ReplaceAll(string(known), h1.addr+" ", "10.77.0.99 ")+h1.addr+strings.TrimPrefix(h2.knownHost(), h2.addr))
	d.run(t, "config", "check").Exits(t, command.ExitUsage, "members[0].host", "has changed", "ssh-keygen -R "+h1.addr)
	d.knows(t, s.hosts...)

	d.members[2].url = s.hosts[2].ssh("guest")
	d.configure(t)
	d.run(t, "config", "check").Exits(t, command.ExitUsage, "members[2].host", "user guest may not become root by sudo")
	d.members[2].url = s.hosts[2].ssh("op")
	d.configure(t)
	d.run(t, "config", "check").Exits(t, command.ExitOK)
	d.more = ""
	d.configure(t)
	for _, h := range s.hosts[1:] {
		if left := h.exec(t, "find", "/srv", "-name", "etcd*"); strings.TrimSpace(left) != "" {
			t.Errorf("on %s there is %s", h.name, left)
		}
	}
}

// powerLoss cuts the power of all hosts while clients write, and accounts for every write that had been acknowledged.
func (s *site) powerLoss(t *testing.T, d *desk) {
	client := s.client(t, s.hosts...)
	w := s.write(t, client, "/power/")
	w.atLeast(t, 200)
	taken := w.acknowledged()
	d.run(t, "backup", "dcs").Exits(t, command.ExitOK)
	w.atLeast(t, len(taken)+200)
	for _, h := range s.hosts {
		h.off(t)
	}
	all := w.end()
	for _, h := range s.hosts {
		h.on(t)
	}
	d.restore(t, command.ExitOK, "--from", "store")
	have := map[string]bool{}
	for _, r := range s.rows(t, s.hosts...) {
		have[r.Key] = true
	}
	var missing, lost int
	for _, key := range taken {
		if !have[key] {
			missing++
		}
	}
	for _, key := range all {
		if !have[key] {
			lost++
		}
	}
	t.Logf("of %d acknowledged writes, %d of them before the backup began, %d are lost", len(all), len(taken), lost)
	if missing > 0 {
		t.Errorf("%d writes that were acknowledged before the backup began are missing", missing)
	}
	if lost > len(all)-len(taken) || len(have) == 0 {
		t.Errorf("%d of %d writes are lost, %d were acknowledged before the backup", lost, len(all), len(taken))
	}
}

// hostDown restores while a host is off. It comes back with its old member, which is alone and stays so.
func (s *site) hostDown(t *testing.T, d *desk) {
	d.run(t, "backup", "dcs").Exits(t, command.ExitOK)
	want := s.rows(t, s.hosts...)
	h3 := s.hosts[2]
	h3.off(t)
	d.run(t, "restore", "dcs", "--yes", "--replace-healthy", "dcs").Exits(t, command.ExitError, "h3", "--without h3", "nothing was changed")
	r := d.restore(t, command.ExitPartly, "--without", "h3", "--replace-healthy", "dcs")
	if len(r.Without) != 1 || len(r.Members) != 2 {
		t.Errorf("the report says %+v", r)
	}
	etcdtest.MustEqual(t, want, s.rows(t, s.hosts[:2]...))
	h3.on(t)
	h3.startEtcd(t)
	until(t, "h3 to look for its old cluster", func() bool {
		out, err := h3.try(t, "grep", "-c", "cluster ID mismatch", "/srv/etcd.log")
		return err == nil && strings.TrimSpace(out) != "0"
	})
	client := s.client(t, h3)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := client.Put(ctx, "/old", "x"); err == nil {
		t.Error("the old member takes writes: there are two clusters")
	}
	etcdtest.MustEqual(t, want, s.rows(t, s.hosts[:2]...))
}

// A writer writes keys of its own, one after another from each of several hands, and remembers those that were acknowledged.
type writer struct {
	mu   sync.Mutex
	keys []string
	stop context.CancelFunc
	wg   sync.WaitGroup
}

func (s *site) write(t testing.TB, client *clientv3.Client, prefix string) *writer {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &writer{stop: cancel}
	for hand := range 8 {
		w.wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				key := fmt.Sprintf("%s%d/%08d", prefix, hand, i)
				once, cancel := context.WithTimeout(ctx, 5*time.Second)
				_, err := client.Put(once, key, strings.Repeat("x", 200))
				cancel()
				if err == nil {
					w.mu.Lock()
					w.keys = append(w.keys, key)
					w.mu.Unlock()
				}
			}
		})
	}
	t.Cleanup(func() { w.end() })
	return w
}

func (w *writer) acknowledged() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.keys...)
}

func (w *writer) atLeast(t testing.TB, n int) {
	t.Helper()
	until(t, fmt.Sprintf("%d acknowledged writes", n), func() bool { return len(w.acknowledged()) >= n })
}

// end stops writing and returns all that was acknowledged.
func (w *writer) end() []string {
	w.stop()
	w.wg.Wait()
	return w.acknowledged()
}

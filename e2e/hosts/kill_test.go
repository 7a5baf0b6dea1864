package hosts

import (
	"context"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// barriers are the steps of a restore, in order, as the journals on the hosts record them, after which a coordinator may be gone.
var barriers = []string{"lock", "stage", "stop", "gate", "exchange", "allow", "start", "prove", "agents", "backup"}

// elsewhere is a desk of the same machine with a home and a spool of its own: it has nothing of what the first one left, but knows which processes are gone.
func (d *desk) elsewhere(t testing.TB) *desk {
	t.Helper()
	other := d.site.newDesk(t, d.name+"-elsewhere", d.site.hosts...)
	other.name = d.name
	return other
}

// whole fails the test if a host's member is empty, or if the members that answer are of more than one cluster.
func (s *site) whole(t testing.TB) {
	t.Helper()
	ids := map[uint64][]string{}
	for _, h := range s.hosts {
		if _, err := os.Stat(h.disk("srv", "etcd", "member", "snap", "db")); err != nil {
			t.Errorf("the member on %s is empty: %v", h.name, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		if st, err := s.client(t, h).Status(ctx, h.clientURL()); err == nil {
			ids[st.Header.ClusterId] = append(ids[st.Header.ClusterId], h.name)
		}
		cancel()
	}
	if len(ids) > 1 {
		t.Errorf("two clusters run: %v", ids)
	}
}

// settled fails the test if a host has anything of a run that is not finished.
func (s *site) settled(t testing.TB) {
	t.Helper()
	for _, h := range s.hosts {
		if j := h.unfinished(t); j != nil {
			t.Errorf("run %s is unfinished on %s", j.Run, h.name)
		}
		for _, left := range []string{"held", "etcd.requorum/lock", "etcd.requorum/inhibited"} {
			if _, err := os.Stat(h.disk("srv", left)); err == nil {
				t.Errorf("on %s there is still %s", h.name, left)
			}
		}
		h.onceFounded(t)
	}
}

// TestKilledAtEveryBarrier kills the coordinator right after each step is in the journals of all hosts. Somebody who has nothing of what it had then goes on to a
// proven end, or undoes the run. Rows are compared each time; no member is ever empty, and there are never two clusters.
func TestKilledAtEveryBarrier(t *testing.T) {
	t.Parallel()
	newLab := func(t *testing.T) (s *site, d, other *desk) {
		s = newSite(t, 3)
		d = s.newDesk(t, "desk1", s.hosts...)
		other = d.elsewhere(t)
		etcdtest.MustFill(t, s.found(t, s.hosts...), etcdtest.FillOptions{Keys: 300})
		return s, d, other
	}
	t.Run("resumed", func(t *testing.T) {
		t.Parallel()
		s, d, other := newLab(t)
		d.run(t, "backup", "dcs").Exits(t, command.ExitOK)
		saved, first := s.rows(t, s.hosts...), firstBackup(t, d)
		for i, step := range barriers {
			t.Run(step, func(t *testing.T) {
				etcdtest.Put(t, s.client(t, s.hosts...), "/later", step)
				late := s.rows(t, s.hosts...)
				for _, h := range s.hosts {
					h.exec(t, "sh", "-c", "kill -KILL $(cat /srv/etcd.pid)")
				}
				d.killedAfter(t, step, "restore", "dcs", "--yes", "--from", "store", "--at", first)
				s.whole(t)
				if r := other.restore(t, command.ExitOK); len(r.Members) != 3 {
					t.Errorf("proven members: %+v", r.Members)
				}
				etcdtest.MustEqual(t, saved, s.rows(t, s.hosts...))
				s.settled(t)
				if i%5 != 0 {
					return
				}
				// What is finished is undone, too: by a restore of what had been there, with what the backup did not have.
				other.run(t, "rollback", "dcs", "--yes").Exits(t, command.ExitOK)
				etcdtest.MustEqual(t, values(late), values(s.rows(t, s.hosts...)))
				s.settled(t)
			})
		}
	})
	t.Run("rolled back", func(t *testing.T) {
		t.Parallel()
		s, d, other := newLab(t)
		d.run(t, "backup", "dcs").Exits(t, command.ExitOK)
		for i, step := range barriers {
			t.Run(step, func(t *testing.T) {
				etcdtest.Put(t, s.client(t, s.hosts...), "/later", step)
				want, id := s.rows(t, s.hosts...), clusterOf(t, s.client(t, s.hosts...))
				d.killedAfter(t, step, "restore", "dcs", "--yes", "--from", "store", "--replace-healthy", "dcs")
				s.whole(t)
				other.run(t, "rollback", "dcs", "--yes").Exits(t, command.ExitOK)
				got, now := s.rows(t, s.hosts...), clusterOf(t, s.client(t, s.hosts...))
				if now == id {
					etcdtest.MustEqual(t, want, got)
				} else {
					etcdtest.MustEqual(t, values(want), values(got))
				}
				if i < slices.Index(barriers, "exchange") && now != id {
					t.Error("before any start the old cluster comes back as it was; it was rebuilt")
				}
				if i >= slices.Index(barriers, "start") && now == id {
					t.Error("the old cluster came back under its old id after clients could have seen the new one")
				}
				s.settled(t)
			})
		}
	})
}

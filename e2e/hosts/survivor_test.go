package hosts

import (
	"fmt"
	"slices"
	"testing"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// TestSurvivorsOverHosts loses the power of all hosts in mid-write, and two of three disks; then one disk of a cluster that serves on; then the whole site, as
// seen from another one.
func TestSurvivorsOverHosts(t *testing.T) {
	t.Parallel()
	s := newSite(t, 4)
	dcs, away := s.hosts[:3], s.hosts[3]
	client := s.found(t, dcs...)
	d := s.newDesk(t, "desk1", dcs...)
	step := func(name string, f func(t *testing.T)) {
		t.Helper()
		if !t.Run(name, f) {
			t.FailNow() // the next one begins where this one ends
		}
	}
	step("power loss and two of three disks", func(t *testing.T) {
		d.run(t, "backup", "dcs").Exits(t, command.ExitOK)
		w := s.write(t, client, "/power/")
		w.atLeast(t, 300)
		for _, h := range dcs {
			h.off(t)
		}
		acknowledged := w.end()
		for _, h := range dcs {
			h.on(t)
		}
		var plan struct {
			Source struct {
				Kind, ID   string
				Candidates []struct {
					Kind, ID    string
					Term, Index uint64
				}
			}
		}
		d.run(t, "-o", "json", "restore", "dcs", "--plan").Exits(t, command.ExitOK).Decode(t, &plan)
		if plan.Source.Kind != "survivor" || len(plan.Source.Candidates) < 4 {
			t.Fatalf("planned from %+v", plan.Source)
		}
		d.run(t, "restore", "dcs", "--plan").Exits(t, command.ExitOK, "> survivor "+plan.Source.ID, "term ", "older than the survivor")
		for _, h := range dcs {
			if h.name != plan.Source.ID {
				h.wipe(t)
			}
		}
		d.restore(t, command.ExitOK)
		have := map[string]bool{}
		for _, r := range s.rows(t, dcs...) {
			have[r.Key] = true
		}
		lost := slices.DeleteFunc(acknowledged, func(key string) bool { return have[key] })
		t.Logf("%d writes were acknowledged, %d of them lost", len(acknowledged), len(lost))
		if len(lost) > 0 {
			t.Errorf("acknowledged writes are lost: %v", lost)
		}
	})
	step("one disk", func(t *testing.T) {
		lost := dcs[1]
		lost.off(t)
		lost.on(t)
		lost.wipe(t)
		d.run(t, "restore", "dcs", "--yes").Exits(t, command.ExitRefused, "replace-member dcs "+lost.name)
		w := s.write(t, s.client(t, dcs[0], dcs[2]), "/meanwhile/")
		d.run(t, "replace-member", "dcs", lost.name, "--yes").Exits(t, command.ExitOK, "it has its vote")
		acknowledged := w.end()
		rows := s.rows(t, lost)
		etcdtest.MustEqual(t, s.rows(t, dcs[0]), rows)
		for _, key := range acknowledged {
			if !slices.ContainsFunc(rows, func(r etcdtest.Row) bool { return r.Key == key }) {
				t.Errorf("%s was acknowledged and is not on %s", key, lost.name)
			}
		}
		d.run(t, "check", "dcs")
		d.run(t, "replace-member", "dcs", lost.name, "--yes").Exits(t, command.ExitRefused, "--replace-healthy "+lost.name)
	})
	step("another site", func(t *testing.T) {
		d.run(t, "backup", "dcs").Exits(t, command.ExitOK)
		want := s.rows(t, dcs...)
		for _, h := range dcs {
			h.unplug(t)
		}
		away.install(t, etcdtest.Latest, []*host{away})
		file := d.file(t, "away.yaml", fmt.Sprintf("members:\n- {name: %s, host: %q, peer_url: %q, client_url: %q, data_dir: %s, service: %s}\n",
			away.name, away.ssh("root"), away.peerURL(), away.clientURL(), dataDir, away.service()))
		d.run(t, "restore", "dcs", "--as", "dcs", "--members", file, "--yes").Exits(t, command.ExitUsage, "the cluster itself")
		d.run(t, "restore", "dcs", "--as", "away", "--yes").Exits(t, command.ExitUsage, "--members FILE")
		d.run(t, "restore", "dcs", "--as", "away", "--members", file, "--yes", "--target-version", etcdtest.Latest).Exits(t, command.ExitOK,
			"away, a copy of dcs", "away is not configured yet")
		etcdtest.MustEqual(t, want, s.rows(t, away))
		// The old site comes back: neither learns of the other.
		for _, h := range dcs {
			h.mend(t)
		}
		etcdtest.MustEqual(t, want, s.rows(t, dcs...))
		var lists [2][]struct{ ID string }
		d.run(t, "-o", "json", "list", "dcs").Exits(t, command.ExitOK).Decode(t, &lists[0])
		d.run(t, "-o", "json", "list", "away", "--store", "file://"+s.dir+"/store").Exits(t, command.ExitOK).Decode(t, &lists[1])
		if len(lists[1]) != 1 || slices.Contains(lists[0], lists[1][0]) {
			t.Errorf("backups of dcs %v, of the other %v", lists[0], lists[1])
		}
	})
}

package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// With authentication on, what is written after the backup comes from the members' disks: a running one cannot check a password without a quorum, and that
// its data is left out is not done silently. A member that a restore left out, or that lost its disk, is replaced while the others serve.
func TestSurvivorsWithAuthentication(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{})
	s.fill(50, 200)
	s.EnableAuth(t, "secret", etcdtest.User{Name: "reader", Password: "reader", Read: []string{""}})
	s.cluster = "    username: root\n    password_file: password\n"
	s.file("password", "secret\n")
	s.configure()
	s.backup()
	etcdtest.Put(t, s.Client(t), "/data/late", "after the backup")
	want := s.rows()
	names := []string{s.Members[0].Name, s.Members[1].Name, s.Members[2].Name}

	for _, m := range s.Members[1:] {
		m.Kill(t)
		m.Wipe(t)
	}
	s.run("restore", "dcs", "--plan").Exits(t, command.ExitRefused, names[0]+" runs without a quorum", "--from store", "term ")
	s.Members[0].Kill(t)
	s.run("restore", "dcs", "--plan").Exits(t, command.ExitOK, "> survivor "+names[0], "older than the survivor")
	s.run("restore", "dcs", "--yes", "--without", names[2]).Exits(t, command.ExitPartly, "replace-member dcs "+names[2])
	etcdtest.MustEqual(t, want, unleased(etcdtest.Rows(t, s.Client(t, s.Endpoints()[:2]...))))

	s.run("replace-member", "dcs", "nobody").Exits(t, command.ExitUsage, "nobody", names[0]+", "+names[1])
	s.run("replace-member", "dcs", names[2], "--plan").Exits(t, command.ExitOK, "the cluster has no member "+names[2], "2 of 2 voting members serve")
	s.run("replace-member", "dcs", names[2]).Exits(t, command.ExitUsage, "--yes")
	s.run("replace-member", "dcs", names[2], "--yes").Exits(t, command.ExitOK, "it has its vote")
	etcdtest.MustEqual(t, want, unleased(etcdtest.Rows(t, s.Client(t, s.Endpoints()[2]))))

	// The others elect a leader first: until then nobody serves, and yet the cluster is not lost.
	until(t, names[1]+" to lead", func() bool {
		leader := s.Leader(t)
		if leader == s.Members[1] {
			return true
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := s.Client(t, leader.ClientURL).MoveLeader(ctx, s.Members[1].ID(t))
		return err == nil // or another election came in between
	})
	s.Members[1].Kill(t)
	s.Members[1].Wipe(t)
	s.run("restore", "dcs", "--yes").Exits(t, command.ExitRefused, "replace-member dcs "+names[1])
	var r restored
	s.run("-o", "json", "replace-member", "dcs", names[1], "--yes").Exits(t, command.ExitOK).Decode(t, &r)
	if !r.OK || len(r.Members) != 1 || r.Members[0].Name != names[1] || !r.Members[0].Healthy {
		t.Errorf("report %+v", r)
	}
	etcdtest.MustEqual(t, want, s.rows())
	s.run("check", "dcs").Exits(t, 0, "3 of 3 members healthy")
	s.run("replace-member", "dcs", names[0], "--yes").Exits(t, command.ExitRefused, "--replace-healthy "+names[0])
	s.run("rollback", "dcs", "--yes").Exits(t, command.ExitError, "cannot be rolled back")
	var runs []struct {
		Runs []struct{ Kind, Outcome string }
	}
	s.run("-o", "json", "runs", "dcs").Exits(t, command.ExitOK).Decode(t, &runs)
	replaced := 0
	for _, r := range runs[0].Runs {
		if r.Kind == "replace" && r.Outcome == "ok" {
			replaced++
		}
	}
	if replaced != 2 {
		t.Errorf("%d replacements are recorded: %+v", replaced, runs)
	}
}

// What the disk of a lost cluster still holds becomes a cluster of its own elsewhere, with what no backup has; the disk stays as it is.
func TestSurvivorElsewhere(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{etcd: etcdtest.Options{Members: 1}})
	s.fill(50, 200)
	s.backup()
	etcdtest.Put(t, s.Client(t), "/data/late", "after the backup")
	want := s.rows()
	lost := s.Members[0]

	far := etcdtest.StartCluster(t, etcdtest.Options{Members: 1, Name: "far-", NotStarted: true})
	m := far.Members[0]
	c := m.Commands(t)
	s.file("far.yaml", fmt.Sprintf("members:\n- {name: %s, peer_url: %q, client_url: %q, data_dir: %s, service: {start: %s, stop: %s, status: %s, inhibit: %s, allow: %s}}\n",
		m.Name, m.PeerURL, m.ClientURL, m.DataDir, c.Start, c.Stop, c.Status, c.Inhibit, c.Allow))
	elsewhere := []string{"--as", "far", "--members", "far.yaml", "--from", "survivor:" + lost.Name, "--target-version", etcdtest.Latest}
	s.run(slices.Concat([]string{"restore", "dcs", "--yes"}, elsewhere)...).Exits(t, command.ExitError, "serves with a quorum", "backup dcs")
	lost.Kill(t)
	s.run(slices.Concat([]string{"restore", "dcs"}, elsewhere)...).Exits(t, command.ExitUsage, "every member of far", "--yes")
	r := s.restore(elsewhere...)
	if r.Source.Kind != "survivor" || r.Source.ID != lost.Name || len(r.Members) != 1 || r.Members[0].Name != m.Name {
		t.Errorf("report %+v", r)
	}
	etcdtest.MustEqual(t, want, unleased(etcdtest.Rows(t, far.Client(t))))
	lost.Start(t)
	lost.WaitHealthy(t)
	etcdtest.MustEqual(t, want, s.rows())
}

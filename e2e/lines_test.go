package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// A cluster that is made anew under the same names, URLs and token has the cluster id of the old one: its backups must not be taken for the
// old one's continuation.
func TestRebuiltUnderTheSameToken(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{})
	s.fill(100, 200)
	want := s.rows()
	old := s.backup()
	if len(old.Alerts) > 0 {
		t.Errorf("the first backup alerts %q", old.Alerts)
	}
	if again := s.backup(); again.Line != old.Line || len(again.Alerts) > 0 {
		t.Errorf("an undisturbed cluster went from line %s to %s, alerts %q", old.Line, again.Line, again.Alerts)
	}
	s.lose()
	s.Start(t)
	etcdtest.Put(t, s.Client(t), "/data/new", "of another cluster")
	fresh := s.backup()
	if fresh.ClusterID != old.ClusterID {
		t.Fatalf("cluster ids %s and %s: the test does not test what it says", old.ClusterID, fresh.ClusterID)
	}
	if fresh.Line == old.Line || !strings.Contains(strings.Join(fresh.Alerts, "\n"), "no requorum run opened") {
		t.Errorf("line %s (before: %s), alerts %q", fresh.Line, old.Line, fresh.Alerts)
	}
	s.run("list", "dcs").Exits(t, command.ExitOK, "2 lines of history", old.Line, fresh.Line)
	// Which one is to be restored is a question, not a guess.
	s.lose()
	s.run("restore", "dcs", "--yes").Exits(t, command.ExitRefused, "two histories", "--at "+fresh.ID)
	s.restore("--at", old.ID)
	etcdtest.MustEqual(t, want, s.rows())
}

// A history that goes back, put there by hand under the old token, is not a continuation either: its revision is below what is recorded.
func TestRebuiltByHand(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{etcd: etcdtest.Options{Members: 1}})
	s.fill(100, 200)
	first := s.backup()
	snapshot := filepath.Join(s.dir, "snapshot.db")
	s.run("export", "dcs", "-f", snapshot).Exits(t, command.ExitOK)
	s.fill(100, 200)
	newest := s.backup()
	s.lose()
	m := s.Members[0]
	tool(t, etcdutl(t), "snapshot", "restore", snapshot, "--name", m.Name, "--data-dir", m.DataDir, "--initial-cluster", s.InitialCluster(),
		"--initial-advertise-peer-urls", m.PeerURL, "--initial-cluster-token", s.Token())
	s.Start(t)
	back := s.backup()
	if back.ClusterID != first.ClusterID {
		t.Fatalf("cluster ids %s and %s: the test does not test what it says", first.ClusterID, back.ClusterID)
	}
	if back.Line == newest.Line || len(back.Alerts) != 1 || !strings.Contains(back.Alerts[0], "below") {
		t.Errorf("revision %d after %d: line %s (before: %s), alerts %q", back.Revision, newest.Revision, back.Line, newest.Line, back.Alerts)
	}
}

// Two clusters that share a name by mistake are found out, and each goes on in a line of its own, so that neither's backups count as
// the other's.
func TestTwoClustersUnderOneName(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{etcd: etcdtest.Options{Members: 1}})
	other := newSite(t, siteOptions{etcd: etcdtest.Options{Members: 1}})
	other.store, other.key = s.store, s.key
	other.file("age.key", s.key.String()+"\n")
	other.configure()
	s.fill(50, 200)
	other.fill(60, 200)

	mine := s.backup()
	pause(mine)
	theirs := other.backup()
	if theirs.Line == mine.Line || len(theirs.Alerts) != 1 || !strings.Contains(theirs.Alerts[0], "another cluster is backed up under this name") {
		t.Errorf("lines %s and %s, alerts %q", mine.Line, theirs.Line, theirs.Alerts)
	}
	again := s.backup()
	if again.Line != mine.Line || len(again.Alerts) != 1 || !strings.Contains(again.Alerts[0], "two clusters share one name") {
		t.Errorf("lines %s and %s, alerts %q", mine.Line, again.Line, again.Alerts)
	}
	text := s.run("backup", "dcs").Exits(t, command.ExitOK, "two clusters share one name")
	if n := strings.Count(text.Stderr, "two clusters share one name"); n != 1 {
		t.Errorf("the alert is told %d times:\n%s", n, text)
	}
	s.run("list", "dcs").Exits(t, command.ExitOK, "2 lines of history", mine.Line, theirs.Line)
}

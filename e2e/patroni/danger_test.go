package patroni

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// inDanger skips the test unless `make lab-danger` runs it.
func inDanger(t *testing.T) {
	t.Helper()
	if os.Getenv("REQUORUM_LAB") != "danger" {
		t.Skip("make lab-danger runs this")
	}
}

// restorePlainly does what etcd's own documentation says, with a fresh token even.
func (l *lab) restorePlainly(snapshot string) {
	l.t.Helper()
	for _, m := range l.etcd.Members {
		run(l.t, etcdtest.Binary(l.t, "etcdutl", etcdtest.Latest), "snapshot", "restore", snapshot, "--name", m.Name, "--data-dir", m.DataDir,
			"--initial-cluster", l.etcd.InitialCluster(), "--initial-advertise-peer-urls", m.PeerURL, "--initial-cluster-token", "restored",
			"--bump-revision", "1000000000", "--mark-compacted")
	}
	l.etcd.Start(l.t)
}

// lost counts the acknowledged rows that the final primary lacks.
func (l *lab) lost() int {
	l.t.Helper()
	acked := l.writer.stop()
	p := l.leader()
	missing := p.lacks(acked)
	l.t.Logf("%s leads in the end: %d of %d acknowledged rows are LOST", p.name, missing, len(acked))
	return missing
}

// Scenario 2 with plain `etcdutl snapshot restore`: the laggard that the stale leader key names is promoted, and the true primary is
// rewound.
func TestDangerPlainRestore(t *testing.T) {
	inDanger(t)
	t.Parallel()
	l := newLab(t, labOptions{})
	l.writer.more(50)
	snapshot := filepath.Join(l.dir, "snapshot.db")
	saveSnapshot(t, l.etcd.Client(t), snapshot)
	l.switchover("b")
	l.shutOut("a")
	l.writer.more(300)
	l.standing("before")
	l.lose()
	l.demoted("b")
	l.restorePlainly(snapshot)
	l.streaming(l.leader().name)
	l.standing("after")
	if l.lost() == 0 {
		t.Error("no row was lost: the danger is not what docs/patroni.md says")
	}
}

// Scenario 7, with ghosts removed and the scope paused as by --open-paused, but resumed by hand as soon as all agents are back. A paused
// Patroni does not start PostgreSQL, so that the race begins with whoever is up first, and a crashed primary is last.
func TestDangerResumedByHand(t *testing.T) {
	inDanger(t)
	t.Parallel()
	l := newLab(t, labOptions{})
	l.writer.more(50)
	l.backup()
	l.switchover("b")
	l.shutOut("a")
	l.busy(4_000_000)
	l.writer.more(300)
	l.standing("before")
	for _, n := range l.nodes {
		n.kill()
	}
	l.lose()
	l.requorum("restore", "dcs", "--yes", "--open-paused", "--agent-deadline", "1s").Exits(t, command.ExitAgents, "waits for")
	for _, n := range l.nodes {
		n.start()
	}
	l.until("all agents to be back", func() bool {
		for _, n := range l.nodes {
			if _, code := n.ask("/patroni"); code == 0 || l.get("members/"+n.name) == "" {
				return false
			}
		}
		return true
	})
	l.put("config", strings.NewReplacer(`, "pause": true`, "", `"pause": true,`, "").Replace(l.get("config")))
	l.leader()
	l.standing("after")
	if l.lost() == 0 {
		t.Error("no row was lost: the danger is not what docs/patroni.md says")
	}
}

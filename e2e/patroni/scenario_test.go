package patroni

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// The scenarios of `make test`, with three more in long_test.go. Their numbers are those of docs/patroni.md.

// 1 and 8. Everyone is healthy, and the backup says that a leads although b does by now. The cluster comes back under the same
// URLs, with another id: that is how clients notice.
func TestStaleLeader(t *testing.T) {
	t.Parallel()
	l := newLab(t, labOptions{})
	l.writer.more(50)
	l.backup()
	l.requorum("show", "dcs", "latest").Exits(t, command.ExitOK, "patroni /service/main", "leader: a", "name c, state running", "synchronous_mode: off", "system_identifier: ")
	before := l.etcd.Members[0].Status(t)
	l.switchover("b")
	l.writer.more(50)
	l.standing("before")
	l.lose()
	r := l.restore(agents.NoLoss)
	l.standing("after")
	after := l.etcd.Members[0].Status(t)
	if after.Header.ClusterId == before.Header.ClusterId || fmt.Sprintf("%016x", after.Header.ClusterId) != r.ClusterID {
		t.Errorf("cluster id %x, before %x, reported %s", after.Header.ClusterId, before.Header.ClusterId, r.ClusterID)
	}
	t.Logf("raft term %d, before %d", after.RaftTerm, before.RaftTerm)
	l.writer.more(20)
	l.requorum("check", "dcs", "--wait", "6m").Exits(t, command.ExitOK, "agent patroni /service/main: "+agents.NoLoss)
	l.accounted()
}

// 2. The same, and a lags behind by acknowledged rows. A plain restore makes it the leader, and rewinds the others.
func TestStaleLeaderLags(t *testing.T) {
	t.Parallel()
	l := newLab(t, labOptions{discover: true})
	l.writer.more(50)
	l.backup()
	l.switchover("b")
	l.shutOut("a")
	l.writer.more(150)
	l.standing("before")
	l.lose()
	l.demoted("b")
	done := l.restoring()
	l.reelected()
	l.letIn("a")
	done(agents.NoLoss)
	l.standing("after")
	l.writer.more(20)
	if p := l.accounted(); p.name == "a" {
		t.Error("the laggard leads")
	}
}

// 4. A switchover to a is pending in the backup, for 2030, and a lags behind. Patroni without a leader would do it at once.
func TestStaleFailover(t *testing.T) {
	t.Parallel()
	l := newLab(t, labOptions{})
	l.writer.more(50)
	l.switchover("b")
	l.put("failover", `{"leader":"b","member":"a","scheduled_at":"2030-01-01T00:00:00+00:00"}`)
	l.backup()
	l.shutOut("a")
	l.writer.more(150)
	l.standing("before")
	l.lose()
	l.demoted("b")
	done := l.restoring()
	l.reelected()
	l.letIn("a")
	done(agents.NoLoss)
	l.standing("after")
	if got := l.get("failover"); got != "" && got != "{}" {
		t.Errorf("failover is %s", got)
	}
	l.writer.more(20)
	if p := l.accounted(); p.name == "a" {
		t.Error("the laggard leads")
	}
}

// syncLab is a scope in synchronous mode: a leads, the second return is its synchronous standby, the third the other one.
func syncLab(t *testing.T) (l *lab, standby, other string) {
	l = newLab(t, labOptions{config: `"synchronous_mode": true`})
	l.until("a synchronous standby", func() bool { standby = l.syncStandby(); return standby != "" })
	other = "b"
	if standby == other {
		other = "c"
	}
	l.writer.more(50)
	return l, standby, other
}

// syncStandby is whom sync names as standby, "" for nobody.
func (l *lab) syncStandby() string {
	var s struct {
		Standby string `json:"sync_standby"`
	}
	if err := json.Unmarshal([]byte(l.get("sync")), &s); err != nil {
		return ""
	}
	return s.Standby
}

// outdated makes the sync key of the backup wrong: the node that leads, and has rows that nobody else has, is not in it.
func (l *lab) outdated(standby, other string) {
	l.t.Helper()
	l.shutOut(standby)
	l.until(other+" to be the synchronous standby", func() bool { return l.syncStandby() == other })
	l.switchoverAlone(other)
	l.shutOut("a")
	l.writer.more(150)
	l.standing("before")
	l.lose()
	l.demoted(other)
}

// 5. A stale sync key, answered with remove: whoever has the most WAL wins.
func TestStaleSyncRemoved(t *testing.T) {
	t.Parallel()
	l, standby, other := syncLab(t)
	l.backup()
	l.outdated(standby, other)
	l.requorum("restore", "dcs", "--yes").Exits(t, command.ExitRefused, "synchronous mode is on", "a, "+standby, "--patroni-sync remove or --patroni-sync keep")
	done := l.restoring("--patroni-sync", "remove")
	l.reelected()
	l.letIn("a")
	l.letIn(standby)
	done(agents.NoLoss)
	l.standing("after")
	l.writer.more(20)
	if p := l.accounted(); p.name != other {
		t.Errorf("%s leads; %s has the most", p.name, other)
	}
}

// 5. A sync key that still holds, answered with keep: the node that is not in it lags behind and may not race.
func TestSyncKept(t *testing.T) {
	t.Parallel()
	l, standby, other := syncLab(t)
	l.backup()
	l.shutOut(other)
	l.writer.more(150)
	l.standing("before")
	l.lose()
	l.demoted("a")
	l.requorum("restore", "dcs", "--yes").Exits(t, command.ExitRefused, "--patroni-sync remove or --patroni-sync keep")
	done := l.restoring("--patroni-sync", "keep")
	l.reelected()
	l.letIn(other)
	done(agents.NoLoss)
	l.standing("after")
	l.writer.more(20)
	if p := l.accounted(); p.name == other {
		t.Errorf("%s leads, which was no synchronous standby (%s was)", p.name, standby)
	}
}

// 7. Cold start: the power fails for everyone, and the laggard is back first. Without the others the restore is held; opened paused it waits
// for them, and nobody is promoted before all of them have told how far they are.
func TestColdStart(t *testing.T) {
	t.Parallel()
	l := newLab(t, labOptions{})
	l.writer.more(50)
	l.backup()
	l.switchover("b")
	l.shutOut("a")
	if os.Getenv("REQUORUM_LAB") == "1" {
		l.busy(4_000_000) // as in the control run, TestDangerResumedByHand
	} else {
		l.busy(500_000)
	}
	l.writer.more(150)
	l.standing("before")
	for _, n := range l.nodes {
		n.kill()
	}
	l.lose()
	l.requorum("restore", "dcs", "--yes").Exits(t, command.ExitRefused, "a (http", "b (http", "c (http", "--open-paused")
	l.node("a").start()
	done := l.restoring("--open-paused")
	l.alone("a")
	l.node("b").start()
	l.node("c").start()
	l.reelected()
	l.letIn("a")
	r := done(agents.NoLoss)
	l.standing("after")
	if !strings.Contains(fmt.Sprint(r.Agents), "no longer paused") {
		t.Error("the report does not say that the scope was opened again")
	}
	if config := l.get("config"); strings.Contains(config, "pause") || strings.Contains(config, "synchronous_mode") {
		t.Errorf("config is left as %s", config)
	}
	l.writer.more(20)
	if p := l.accounted(); p.name == "a" {
		t.Error("the laggard leads")
	}
}

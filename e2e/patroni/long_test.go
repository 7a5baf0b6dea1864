package patroni

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// inLab skips the test unless `make lab` runs it.
func inLab(t *testing.T) {
	t.Helper()
	if os.Getenv("REQUORUM_LAB") != "1" {
		t.Skip("make lab runs this")
	}
}

// 3. The true primary is down until after the restore, and the recorded owner of the leader key, which lags behind, is up.
func TestTruePrimaryIsDown(t *testing.T) {
	inLab(t)
	t.Parallel()
	l := newLab(t, labOptions{discover: true})
	l.writer.more(50)
	l.backup()
	l.switchover("b")
	l.shutOut("a")
	l.writer.more(150)
	l.standing("before")
	l.node("b").kill()
	l.requorum("check", "dcs", "--wait", "5s").Exits(t, 2, "agent patroni /service/main: "+agents.NotBack, "b does not answer")
	l.lose()
	l.requorum("restore", "dcs", "--yes").Exits(t, command.ExitRefused, "1 of 3 agents did not answer: b (http", "--open-paused")
	done := l.restoring("--open-paused")
	l.alone("a", "c")
	l.node("b").start()
	l.reelected()
	l.letIn("a")
	done(agents.NoLoss)
	l.standing("after")
	l.writer.more(20)
	if p := l.accounted(); p.name == "a" {
		t.Error("the laggard leads")
	}
}

// The true primary stays away: the restore waits for it until the deadline, says so and how to go on, and goes on when it is called
// again.
func TestWaitsForTheTruePrimary(t *testing.T) {
	inLab(t)
	t.Parallel()
	l := newLab(t, labOptions{})
	l.writer.more(50)
	l.backup()
	l.node("a").kill()
	l.lose()
	l.requorum("restore", "dcs", "--yes", "--open-paused", "--agent-deadline", "20s").Exits(t, command.ExitAgents,
		"waits for", l.node("a").restURL(), "restore dcs")
	if l.primary() != nil {
		t.Error("somebody leads although the true primary is away and nobody gave it up")
	}
	l.node("a").start()
	done := l.restoring()
	l.reelected()
	r := done(agents.NoLoss)
	if r.Unfinished() {
		t.Errorf("unfinished: %+v", r.Agents)
	}
	l.writer.more(20)
	l.accounted()
}

// 5. A stale sync key, answered with keep, which is wrong: the loss is suspected, and not called success.
func TestStaleSyncKept(t *testing.T) {
	inLab(t)
	t.Parallel()
	l, standby, other := syncLab(t)
	l.backup()
	l.outdated(standby, other)
	begun := l.begin("-o", "json", "restore", "dcs", "--yes", "--patroni-sync", "keep")
	l.reelected()
	l.letIn("a")
	l.letIn(standby)
	result := begun.Wait(t).Exits(t, command.ExitAgents)
	v := reported(t, result).verdict(t)
	if v.Verdict != agents.DataLossSuspected {
		t.Errorf("verdict %s", v.Verdict)
	}
	acked := l.writer.stop()
	p := l.leader()
	missing := p.lacks(acked)
	t.Logf("%d of %d acknowledged rows are missing on %s: that was the answer's risk", missing, len(acked), p.name)
	if missing == 0 {
		t.Error("no row is lost: the test shows nothing")
	}
}

// 6. A paused scope stays paused, and its primary goes on.
func TestPaused(t *testing.T) {
	inLab(t)
	t.Parallel()
	l := newLab(t, labOptions{})
	l.writer.more(50)
	l.switchover("b")
	l.put("config", strings.Replace(l.get("config"), "{", `{"pause":true,`, 1))
	l.until("the pause", func() bool { r, _ := l.node("c").ask("/patroni"); return r.Pause })
	l.backup()
	l.writer.more(50)
	l.lose()
	l.restore(agents.NoLoss)
	if !strings.Contains(l.get("config"), `"pause":true`) {
		t.Error("the pause is gone")
	}
	l.writer.more(20)
	if p := l.accounted(); p.name != "b" {
		t.Errorf("%s leads", p.name)
	}
}

// 6. In failsafe mode the primary is not demoted while etcd is away, and nobody else takes over.
func TestFailsafe(t *testing.T) {
	inLab(t)
	t.Parallel()
	l := newLab(t, labOptions{config: `"failsafe_mode": true`})
	l.writer.more(50)
	l.backup()
	l.switchover("b")
	l.writer.more(50)
	l.lose()
	time.Sleep((retryTimeout + 2*loopWait) * time.Second) // without failsafe mode it would be demoted by now
	l.writer.more(50)
	l.restore(agents.NoLoss)
	l.writer.more(20)
	if p := l.accounted(); p.name != "b" {
		t.Errorf("%s leads", p.name)
	}
}

// 8b. etcd with authentication and TLS, and Patroni's REST API with client certificates.
func TestSecured(t *testing.T) {
	t.Parallel()
	// Client certificates with a common name and authentication exclude each other on etcd's gateway, which Patroni uses. And Patroni 3.0.2 lists
	// the members before it logs in, which a newer etcd refuses.
	version := etcdtest.V34
	if patroni != "patroni" {
		version = etcdtest.V37
	}
	l := newLab(t, labOptions{etcd: etcdtest.Options{Version: version, TLS: true, PeerTLS: true, ExtraFlags: []string{"--client-cert-auth=false", "--trusted-ca-file="}},
		auth: true, restTLS: true})
	l.writer.more(50)
	l.backup()
	l.switchover("b")
	l.shutOut("a")
	l.writer.more(150)
	l.lose()
	done := l.restoring()
	l.reelected()
	l.letIn("a")
	done(agents.NoLoss)
	l.writer.more(20)
	l.requorum("check", "dcs", "--wait", "6m").Exits(t, command.ExitOK, agents.NoLoss)
	l.accounted()
}

// 8c. Rollback, after Patroni has switched over on the restored cluster: what was before is itself from the past by then.
func TestRollback(t *testing.T) {
	inLab(t)
	t.Parallel()
	l := newLab(t, labOptions{})
	l.writer.more(50)
	l.backup()
	l.etcd.Kill(t) // the data dirs stay: there is something to roll back to
	l.restore(agents.NoLoss)
	to := "b"
	if l.leader() == l.node("b") {
		to = "c"
	}
	l.switchover(to)
	l.writer.more(100)
	result := l.requorum("-o", "json", "rollback", "dcs", "--yes", "--discard-writes").Exits(t, command.ExitOK)
	if v := reported(t, result).verdict(t); v.Verdict != agents.NoLoss {
		t.Errorf("verdict %s", v.Verdict)
	}
	l.writer.more(20)
	l.accounted()
}

// 8d. A scope that nobody configured lies beside: its ghosts go too, and nothing is claimed about it. In the configured one synchronous
// mode was switched on after the backup, which is told.
func TestUnconfiguredBeside(t *testing.T) {
	inLab(t)
	t.Parallel()
	l := newLab(t, labOptions{})
	client := l.etcd.Client(t)
	etcdtest.Put(t, client, "/service/other/config", `{"ttl":30,"loop_wait":10,"retry_timeout":10}`)
	etcdtest.Put(t, client, "/service/other/initialize", "7434512345678901234")
	lease := etcdtest.Lease(t, client, 30*time.Minute)
	etcdtest.Put(t, client, "/service/other/leader", "x", clientv3.WithLease(lease))
	etcdtest.Put(t, client, "/service/other/members/x", `{"conn_url":"postgres://127.0.0.1:1/postgres","api_url":"http://127.0.0.1:1/patroni","state":"running","role":"master"}`, clientv3.WithLease(lease))
	l.writer.more(50)
	l.backup()
	l.switchover("b")
	l.put("config", strings.Replace(l.get("config"), "{", `{"synchronous_mode": true, `, 1))
	l.until("a synchronous standby", func() bool { return l.syncStandby() != "" })
	l.writer.more(50)
	l.lose()
	r := l.restore(agents.NoLoss)
	if said := fmt.Sprint(r.Agents); !strings.Contains(said, "synchronous_mode true (now not set)") {
		t.Errorf("the report does not say which settings are others now: %s", said)
	}
	removed := map[string]int{}
	for _, g := range r.GhostsRemoved {
		removed[g.Prefix] += g.Count
	}
	if removed["/service/other/"] != 2 || removed["/service/main/"] != 4 {
		t.Errorf("removed %v", removed)
	}
	for _, v := range r.Agents {
		if v.Name != "patroni /service/main" && v.Verdict != agents.Unknown {
			t.Errorf("%s: %s: nobody was asked", v.Name, v.Verdict)
		}
	}
	l.writer.more(20)
	l.accounted()
}

// 9. The backup is that of another PostgreSQL: every agent would exit and take PostgreSQL down with it.
func TestForeignInitialize(t *testing.T) {
	t.Parallel()
	l := newLab(t, labOptions{})
	l.writer.more(50)
	other := etcdtest.StartCluster(t, etcdtest.Options{Members: 1, Name: "other"})
	client := other.Client(t)
	etcdtest.Put(t, client, l.key("config"), l.get("config"))
	etcdtest.Put(t, client, l.key("initialize"), "7434512345678901234")
	file := filepath.Join(l.dir, "foreign.db")
	saveSnapshot(t, client, file)
	l.lose()
	l.requorum("restore", "dcs", "--yes", "--from", "file:"+file).Exits(t, command.ExitRefused, "7434512345678901234", "runs", "--accept-unverified /service/main")
	if l.etcd.Members[0].Running() {
		t.Error("etcd was started in spite of the refusal")
	}
	// And nobody came to harm: PostgreSQL runs on every node.
	for _, n := range l.nodes {
		n.mustSQL("SELECT 1")
	}
}

func saveSnapshot(t *testing.T, client *clientv3.Client, path string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stream, err := client.Snapshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, stream); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// 10. There is no usable backup: none at all, then only damaged ones. Nothing is touched, and what to try is said. Members' own disks
// are as good as a backup, if they are asked for or nobody forbids it.
func TestNoUsableBackup(t *testing.T) {
	t.Parallel()
	l := newLab(t, labOptions{})
	l.writer.more(50)
	l.etcd.Kill(t)
	l.requorum("restore", "dcs", "--yes", "--from", "store").Exits(t, command.ExitNothing, "--from file:FILE")
	l.restore(agents.NoLoss)
	l.writer.more(20)
	backups, err := filepath.Glob(filepath.Join(l.dir, "store", "dcs", "snapshots", "*", "*", "db.zst*"))
	if err != nil || len(backups) == 0 { // the restore has taken one
		t.Fatalf("%v, %v", backups, err)
	}
	for _, file := range backups {
		damage(t, file)
	}
	l.etcd.Kill(t)
	l.requorum("restore", "dcs", "--yes", "--from", "store").Exits(t, command.ExitVerify)
	l.etcd.Start(t)
	l.leader()
	l.writer.more(20)
	l.accounted()
}

// damage changes one byte of a file in a store, which are read-only.
func damage(t *testing.T, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 0xff
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Unfinished says whether something waits for a command that goes on.
func (r restored) Unfinished() bool {
	for _, v := range r.Agents {
		if v.Unfinished != "" {
			return true
		}
	}
	return false
}

package patroni

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/agents"
)

// behind and ahead are baselines that the lab's agents, at 3/0x3000000 and
// moving, are above of and below of.
var (
	behind = baseline{Furthest: position{Timeline: 3, LSN: 0x2000000}, Complete: true}
	ahead  = baseline{Furthest: position{Timeline: 3, LSN: 0x99000000}, Complete: true}
)

func TestVerify(t *testing.T) {
	tests := []struct {
		name    string
		spoil   func(l *lab)
		base    baseline
		verdict string
		ok      bool
		check   string // a check that says so
		says    string
	}{
		{name: "all back, nothing lost", base: behind, verdict: agents.NoLoss, ok: true, check: "nothing below the baseline", says: "at the gate the furthest was at timeline 3, LSN 0/2000000"},
		{name: "no baseline is no claim", verdict: agents.Converged, ok: true, check: "nothing below the baseline", says: "loss is unknown"},
		{name: "an incomplete baseline is no claim", base: baseline{Furthest: behind.Furthest}, verdict: agents.Converged, ok: true, check: "nothing below the baseline", says: "not every agent told its position"},
		{name: "below the baseline", base: ahead, verdict: agents.DataLossSuspected, check: "nothing below the baseline", says: "but at the gate an agent was at timeline 3, LSN 0/99000000"},
		{name: "below an incomplete baseline", base: baseline{Furthest: ahead.Furthest}, verdict: agents.DataLossSuspected, check: "nothing below the baseline", says: "0/99000000"},
		{
			name: "a timeline that ended below the baseline", base: baseline{Furthest: position{Timeline: 3, LSN: 0x3000000}, Complete: true}, verdict: agents.DataLossSuspected,
			spoil: func(l *lab) {
				l.etcd.Put(dir+"history", `[[1,25110200,"x"],[3,41943040,"no recovery target specified","2026-11-22T08:00:00+00:00","db1"]]`, 0)
				for _, n := range l.nodes {
					n.timeline = 4
				}
			},
			check: "nothing below the baseline", says: "timeline 3 ended at LSN 0/2800000, but at the gate an agent was at timeline 3, LSN 0/3000000",
		},
		{
			name: "whoever was further cannot follow", base: ahead, verdict: agents.DataLossSuspected,
			spoil: func(l *lab) { l.nodes[0].streams = []string{"db3"} },
			check: "nothing below the baseline", says: "but at the gate an agent was at timeline 3, LSN 0/99000000",
		},
		{
			name: "a new timeline from above the baseline", base: behind, verdict: agents.NoLoss, ok: true,
			spoil: func(l *lab) {
				l.etcd.Put(dir+"history", `[[1,25110200,"x"],[2,33554592,"x"],[3,50331648,"x"]]`, 0)
				for _, n := range l.nodes {
					n.timeline = 4
				}
			},
		},
		{
			name: "history that does not reach the baseline", base: behind, verdict: agents.Converged, ok: true,
			spoil: func(l *lab) {
				for _, n := range l.nodes {
					n.timeline = 4
				}
			},
			check: "nothing below the baseline", says: "history does not say where timeline 3 ended",
		},
		{
			name: "agents come back late", base: behind, verdict: agents.NoLoss, ok: true,
			spoil: func(l *lab) {
				l.etcd.Delete(dir + "leader")
				l.etcd.Delete(dir + "members/db3")
				l.nodes[2].says = "not yet"
				time.AfterFunc(300*time.Millisecond, func() {
					l.do(func() {
						l.nodes[2].says = ""
						l.register(l.nodes[2])
						l.lead(l.nodes[0])
					})
				})
			},
		},
		{
			name: "the leader changes meanwhile", base: behind, verdict: agents.NoLoss, ok: true,
			spoil: func(l *lab) {
				time.AfterFunc(100*time.Millisecond, func() {
					l.do(func() {
						l.nodes[0].role, l.nodes[0].lock, l.nodes[0].streams, l.nodes[0].extra = "replica", false, nil, ""
						l.nodes[1].role, l.nodes[1].lock, l.nodes[1].streams = l.nodes[1].leaderRole(), true, []string{"db1", "db3"}
						l.lead(l.nodes[1])
					})
				})
			},
		},
		{
			name: "a cascading replica", base: behind, verdict: agents.NoLoss, ok: true,
			spoil: func(l *lab) { l.nodes[0].streams, l.nodes[1].streams = []string{"db2"}, []string{"db3"} },
		},
		{
			name: "a standby cluster", base: behind, verdict: agents.NoLoss, ok: true,
			spoil: func(l *lab) {
				l.etcd.Put(dir+"config", `{"loop_wait":0.2,"standby_cluster":{"host":"10.9.9.9"}}`, 0)
				l.nodes[0].role = "standby_leader"
			},
		},

		{name: "no leader", spoil: func(l *lab) { l.etcd.Delete(dir + "leader") }, verdict: agents.NotBack, check: "leader registered anew", says: "no leader yet"},
		{
			name: "no leader while paused", spoil: func(l *lab) {
				l.etcd.Delete(dir + "leader")
				l.etcd.Put(dir+"config", `{"loop_wait":0.2,"pause":true}`, 0)
			}, verdict: agents.NotBack, check: "leader registered anew", says: "patronictl resume",
		},
		{
			name: "the restored leader key", spoil: func(l *lab) { l.etcd.Grant(1, time.Hour); l.etcd.Restore(dir+"leader", "db1", 20, 1) },
			verdict: agents.NotBack, check: "leader registered anew", says: "only the restored key is there",
		},
		{
			name: "a leader key under somebody else's lease", spoil: func(l *lab) {
				l.etcd.Delete(dir + "leader")
				l.etcd.Put(dir+"leader", "db1", l.etcd.Grant(0, time.Hour))
			}, verdict: agents.NotBack, check: "leader registered anew", says: "its member key under",
		},
		{
			name: "a member is missing", spoil: func(l *lab) { l.etcd.Delete(dir + "members/db2") },
			verdict: agents.NotBack, check: "members registered anew", says: "2 of 3 expected members are registered; of the backup's, absent: db2",
		},
		{
			name: "a restored member", spoil: func(l *lab) { l.etcd.Restore(dir+"members/db2", memberValue("replica", 1), 20, 1) },
			verdict: agents.NotBack, check: "members registered anew", says: "db2: only the restored key is there",
		},
		{
			name: "a dying agent's last word", spoil: func(l *lab) { l.nodes[1].state = "stopped"; l.register(l.nodes[1]) },
			verdict: agents.NotBack, check: "members registered anew", says: `db2 registered, but says "stopped"`,
		},
		{
			name: "an agent that never saw the new etcd", spoil: func(l *lab) { l.nodes[1].sees, l.nodes[1].seen = false, 1700000000 },
			verdict: agents.NotBack, check: "agents see etcd", says: "db2 last saw etcd at 2023-11-14T22:13:20Z, before it opened",
		},
		{
			name: "an agent that saw etcd once", spoil: func(l *lab) { l.nodes[1].sees = false },
			verdict: agents.NotBack, check: "agents keep seeing etcd", says: "db2 has not seen etcd again",
		},
		{
			name: "an agent that does not answer", spoil: func(l *lab) { l.nodes[1].server.Close() },
			verdict: agents.NotBack, check: "agents see etcd", says: "does not answer",
		},
		{
			name: "failsafe mode", spoil: func(l *lab) { l.nodes[0].extra = `,"failsafe_mode_is_active":true` },
			verdict: agents.NotBack, check: "agents see etcd", says: "db1 runs in failsafe mode",
		},
		{
			name: "unlocked", spoil: func(l *lab) { l.nodes[2].extra = `,"cluster_unlocked":true` },
			verdict: agents.NotBack, check: "agents see etcd", says: "db3 sees no leader",
		},
		{
			name: "an unexpected pause", spoil: func(l *lab) { l.nodes[1].extra = `,"pause":true` },
			verdict: agents.NotBack, check: "agents see etcd", says: "db2 says paused on, config says off",
		},
		{
			name: "a foreign PostgreSQL", spoil: func(l *lab) { l.nodes[1].systemID = otherSysID },
			verdict: agents.NotBack, check: "system identifier", says: "db2 runs " + otherSysID,
		},
		{
			name: "another initialize than the backup's", spoil: func(l *lab) {
				l.etcd.Put(dir+"initialize", otherSysID, 0)
				for _, n := range l.nodes {
					n.systemID = otherSysID
				}
			}, verdict: agents.NotBack, check: "system identifier", says: "the backup " + sysID,
		},
		{
			name: "the lock without a primary", spoil: func(l *lab) { l.nodes[0].role = "demoted" },
			verdict: agents.Reconnected, check: "one leader", says: "db1 holds the lock, but is demoted, running",
		},
		{
			name: "two primaries", spoil: func(l *lab) { l.nodes[1].role, l.nodes[1].lock = l.nodes[0].role, true },
			verdict: agents.Reconnected, check: "one leader", says: "db1 and db2 all lead",
		},
		{
			name: "a primary without the lock", spoil: func(l *lab) { l.nodes[1].role = l.nodes[0].role },
			verdict: agents.Reconnected, check: "one leader", says: "without the lock",
		},
		{
			name: "another one leads than the key says", spoil: func(l *lab) { l.lead(l.nodes[1]) },
			verdict: agents.Reconnected, check: "one leader", says: `db1 leads, but the leader key says "db2"`,
		},
		{
			name: "a replica that does not stream", spoil: func(l *lab) { l.nodes[0].streams = []string{"db2"} },
			verdict: agents.Reconnected, check: "replicas stream", says: "nobody streams to db3",
		},
		{
			name: "timelines differ", spoil: func(l *lab) { l.nodes[2].timeline = 2 },
			verdict: agents.Reconnected, check: "one timeline", says: "db3 is on timeline 2, the leader on 3",
		},
		{
			name: "two histories with one timeline number", spoil: func(l *lab) { l.nodes[2].writes = false },
			verdict: agents.Reconnected, check: "WAL moves on every replica", says: "db3 stands at LSN 0/3000000 while the leader writes",
		},
		{
			name: "an idle leader", spoil: func(l *lab) {
				for _, n := range l.nodes {
					n.writes = false
				}
			}, verdict: agents.Reconnected, ok: true, check: "WAL moves on every replica", says: "the leader has written nothing meanwhile",
		},
		{
			name: "an idle leader and a replica behind", spoil: func(l *lab) {
				for _, n := range l.nodes {
					n.writes = false
				}
				l.nodes[1].lsn -= 0x1000
			}, verdict: agents.Reconnected, check: "WAL moves on every replica", says: "the leader has written nothing meanwhile",
		},
		{
			name: "a failover request", spoil: func(l *lab) { l.etcd.Put(dir+"failover", `{"member":"db2"}`, 0) },
			verdict: agents.Reconnected, check: "no failover request", says: "a request is pending",
		},
		{name: "an empty failover key", spoil: func(l *lab) { l.etcd.Put(dir+"failover", `{}`, 0) }, base: behind, verdict: agents.NoLoss, ok: true},
		{
			name: "etcd does not answer", spoil: func(l *lab) { l.etcd.Fail(errors.New("no leader")) },
			verdict: agents.NotBack, check: "etcd answers", says: "no leader",
		},
	}
	for _, version := range []string{"3.0.2", "4.1.4"} {
		for _, test := range tests {
			t.Run(version+"/"+test.name, func(t *testing.T) {
				t.Parallel()
				l := newLab(t, 3, version)
				if test.spoil != nil {
					l.do(func() { test.spoil(l) })
				}
				proof := l.verify(baselineOf(t, nil, test.base), l.restored())
				if test.verdict == agents.NotBack || test.verdict == agents.Reconnected || test.says == "history does not say where timeline 3 ended" {
					l.until("what is to be said", func() bool {
						v := proof.last.Load()
						return v != nil && v.Verdict == test.verdict && strings.Contains(list(*v), test.says)
					})
					proof.lookOn() // and nothing more comes
					proof.expire()
				}
				r := <-proof.result
				if r.err != nil {
					t.Fatal(r.err)
				}
				v := r.Verdict
				if v.Verdict != test.verdict || v.OK != test.ok {
					t.Errorf("verdict %s, ok %v; want %s, %v", v.Verdict, v.OK, test.verdict, test.ok)
				}
				said := test.check == ""
				for _, c := range v.Checks {
					said = said || c.Name == test.check && strings.Contains(c.Detail, test.says)
					if c.OK && c.Seconds <= 0 || !c.OK && c.Seconds != 0 {
						t.Errorf("check %s: ok %v after %v s", c.Name, c.OK, c.Seconds)
					}
				}
				if !said || t.Failed() {
					t.Errorf("check %q does not say %q in\n%s", test.check, test.says, list(v))
				}
			})
		}
	}
}

func (n *node) leaderRole() string {
	if strings.HasPrefix(n.version, "3.") {
		return "master"
	}
	return "primary"
}

func list(v agents.Verdict) string {
	var b strings.Builder
	for _, c := range v.Checks {
		fmt.Fprintf(&b, "  %v %s: %s (%.2f s)\n", c.OK, c.Name, c.Detail, c.Seconds)
	}
	return b.String()
}

// Two looks must be a loop_wait apart: one moment of agreement proves nothing.
func TestVerifyTakesALoopWait(t *testing.T) {
	l := newLab(t, 3, "4.1.4")
	l.etcd.Put(dir+"config", `{"loop_wait":1}`, 0)
	start := time.Now()
	v, err := l.agent(Options{}).Verify(t.Context(), baselineOf(t, nil, behind), l.restored())
	if err != nil || v.Verdict != agents.NoLoss {
		t.Fatalf("%+v, %v", v, err)
	}
	if took := time.Since(start); took < time.Second {
		t.Errorf("proven after %s, less than loop_wait", took)
	}
}

// On 4.x a replica says itself whether it streams.
func TestReplicationState(t *testing.T) {
	l := newLab(t, 3, "4.1.4")
	l.nodes[2].extra = `,"replication_state":"in archive recovery"`
	proof := l.verify(agents.Baseline{}, l.restored())
	l.until("a verdict", func() bool { v := proof.last.Load(); return v != nil && v.Verdict != agents.NotBack })
	proof.lookOn()
	if r := proof.end(); r.err != nil || r.Verdict.Verdict != agents.Reconnected || !strings.Contains(list(r.Verdict), `db3 says of itself "in archive recovery"`) {
		t.Errorf("%v\n%s", r.err, list(r.Verdict))
	}
}

func TestVerifyWithoutREST(t *testing.T) {
	v, err := newScopeAgent(t, Options{}).Verify(t.Context(), agents.Baseline{}, agents.Restored{})
	if err != nil || v.Verdict != agents.Unknown || !v.OK {
		t.Errorf("got %+v, %v", v, err)
	}
}

func TestVerifyCancelled(t *testing.T) {
	l := newLab(t, 1, "4.1.4")
	l.etcd.Delete(dir + "leader")
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	if _, err := l.agent(Options{}).Verify(ctx, agents.Baseline{}, l.restored()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

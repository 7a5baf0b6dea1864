package patroni

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/agents/agentstest"
)

const (
	pausedConfig = `{"ttl":30,"loop_wait":0.2,"pause":true}`
	keptSync     = `{"leader":"db1","sync_standby":"db2"}`
)

// openPaused is a scope as --open-paused restored it after a cold start: everyone is registered, PostgreSQL is down, nobody leads.
func openPaused(t *testing.T, version string) (*lab, agents.Restored) {
	l := newLab(t, 2, version)
	l.etcd.Delete(dir + "leader")
	l.etcd.Restore(dir+"config", pausedConfig, 10, 0)
	l.etcd.Restore(dir+"sync", keptSync, 13, 0)
	for _, n := range l.nodes {
		n.role, n.lock, n.state, n.streams, n.writes = "replica", false, "stopped", nil, false
		n.extra = `,"pause":true,"cluster_unlocked":true`
	}
	done := l.restored()
	done.Written = map[string]bool{dir + "config": true}
	done.Change = l.etcd.Change
	return l, done
}

func (l *lab) value(rel string) string {
	kvs, err := l.etcd.Get(context.Background(), dir+rel)
	if err != nil || len(kvs) == 0 {
		return ""
	}
	return string(kvs[0].Value)
}

// patience is how long anything may take, on a machine that does much else.
const patience = 3 * time.Minute

func (l *lab) until(what string, f func() bool) {
	l.t.Helper()
	for end := time.Now().Add(patience); !f(); {
		if time.Now().After(end) {
			l.t.Fatalf("waited %s for %s; config %s, sync %s", patience, what, l.value("config"), l.value("sync"))
		}
		time.Sleep(5 * time.Millisecond)
	}
}

type ended struct {
	agents.Verdict
	err error
}

// run is a Verify that goes on while the test does something. Its deadline is when the test says so.
type run struct {
	*lab
	result chan ended
	expire func()
	looks  atomic.Int64 // so far
	last   atomic.Pointer[agents.Verdict]
}

// deadline is a context whose deadline comes when passed is closed.
type deadline struct {
	context.Context
	passed chan struct{}
}

func (d deadline) Done() <-chan struct{} { return d.passed }

func (d deadline) Err() error {
	select {
	case <-d.passed:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

func (l *lab) verify(base agents.Baseline, done agents.Restored) *run {
	ctx := deadline{context.Background(), make(chan struct{})}
	r := &run{lab: l, result: make(chan ended, 1), expire: sync.OnceFunc(func() { close(ctx.passed) })}
	tell := done.Tell
	done.Tell = func(v agents.Verdict) {
		if tell != nil {
			tell(v)
		}
		r.last.Store(&v)
		r.looks.Add(1)
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		v, err := l.agent(Options{}).Verify(ctx, base, done)
		r.result <- ended{v, err}
	}()
	l.t.Cleanup(func() { r.expire(); <-stopped })
	return r
}

// lookOn waits until everything has been looked at a few times more.
func (r *run) lookOn() {
	r.t.Helper()
	want := r.looks.Load() + 4 // one may have begun before
	r.until("more looks", func() bool { return r.looks.Load() >= want })
}

// end lets the deadline pass.
func (r *run) end() ended {
	r.expire()
	return <-r.result
}

// After a cold start, an agent that lags behind and starts sooner than the others must not find itself alone in the race.
func TestReopenAfterColdStart(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"3.0.2", "4.1.4"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			l, done := openPaused(t, version)
			late, first := l.nodes[0], l.nodes[1]
			l.do(func() { late.says = "<html>not yet</html>" })
			var waited bool
			done.Tell = func(v agents.Verdict) {
				waited = waited || strings.Contains(v.Unfinished, "which does not answer")
			}
			proof := l.verify(agents.Baseline{Missing: l.urls()}, done)
			proof.lookOn()
			if l.value("config") != pausedConfig || l.value("sync") != keptSync {
				t.Fatalf("config %s, sync %s: changed although an agent is missing", l.value("config"), l.value("sync"))
			}
			l.do(func() { late.says = "" })
			l.until("the hold", func() bool { return strings.Contains(l.value("sync"), "(nobody") })
			if c := parseConfig([]byte(l.value("config"))); c.paused() || !c.synchronous() {
				t.Errorf("held with config %s: PostgreSQL would not start, or anyone could be promoted", l.value("config"))
			}
			l.do(func() { // the laggard is up first
				first.state, first.lsn, first.extra = "running", 0x2000000, `,"cluster_unlocked":true`
			})
			proof.lookOn()
			if !strings.Contains(l.value("sync"), "(nobody") {
				t.Fatal("released although one agent does not say how far it is")
			}
			l.do(func() { late.state, late.lsn, late.extra = "running", 0x5000000, `,"cluster_unlocked":true` })
			l.until("the release", func() bool { return l.value("sync") == keptSync })
			if got := l.value("config"); got != `{"ttl":30,"loop_wait":0.2}` {
				t.Errorf("config %s: not what it was without pause", got)
			}
			l.do(func() {
				late.role, late.lock, late.writes, late.extra, late.streams = "primary", true, true, "", []string{first.name}
				if version == "3.0.2" {
					late.role = "master"
				}
				first.lsn, first.writes, first.extra = 0x5000000, true, ""
				l.lead(late)
			})
			l.until("the proof", func() bool { return len(proof.result) > 0 })
			r := <-proof.result
			if r.err != nil || r.Verdict.Verdict != agents.NoLoss || !r.OK || r.Unfinished != "" {
				t.Errorf("%+v: what all told before anyone was promoted is a complete baseline", r)
			}
			if !waited {
				t.Error("nobody was told who is waited for")
			}
		})
	}
}

// Where PostgreSQL runs everywhere, resuming is enough: positions are known and compared.
func TestReopenWhileRunning(t *testing.T) {
	t.Parallel()
	l, done := openPaused(t, "4.1.4")
	l.do(func() {
		for _, n := range l.nodes {
			n.state = "running"
		}
	})
	changes := 0
	done.Change = func(ctx context.Context, all ...agents.Change) (bool, error) {
		changes += len(all)
		return l.etcd.Change(ctx, all...)
	}
	proof := l.verify(agents.Baseline{}, done)
	l.until("the end of the pause", func() bool { return !strings.Contains(l.value("config"), "pause") })
	proof.lookOn()
	r := proof.end()
	if v, err := r.Verdict, r.err; err != nil || v.Unfinished != "" || changes != 1 || l.value("sync") != keptSync || strings.Contains(l.value("config"), "pause") {
		t.Errorf("%+v, %v; %d changes, config %s, sync %s", v, err, changes, l.value("config"), l.value("sync"))
	}
}

// At the deadline, and when it is interrupted, a held scope is left as it was restored: paused, and easy to understand.
func TestHeldScopeIsPausedAgain(t *testing.T) {
	t.Parallel()
	l, done := openPaused(t, "3.0.2")
	proof := l.verify(agents.Baseline{}, done)
	l.until("the hold", func() bool { return strings.Contains(l.value("sync"), "(nobody") })
	proof.lookOn()
	r := proof.end()
	if v, err := r.Verdict, r.err; err != nil || v.OK || !strings.Contains(v.Unfinished, "held until PostgreSQL runs on db1, db2") {
		t.Errorf("%+v, %v", v, err)
	}
	if c := parseConfig([]byte(l.value("config"))); !c.paused() || c.synchronous() || l.value("sync") != keptSync {
		t.Errorf("left with config %s, sync %s", l.value("config"), l.value("sync"))
	}
}

// Only what a restore paused is opened: the pause of somebody else stays, and `check` writes nothing at all.
func TestNobodyElsesPauseIsEnded(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*agents.Restored){
		"paused in the backup": func(d *agents.Restored) { d.Written = nil },
		"only looking":         func(d *agents.Restored) { d.Change = nil },
	} {
		l, done := openPaused(t, "4.1.4")
		change(&done)
		proof := l.verify(agents.Baseline{}, done)
		proof.lookOn()
		r := proof.end()
		if v, err := r.Verdict, r.err; err != nil || v.OK || l.value("config") != pausedConfig || l.value("sync") != keptSync {
			t.Errorf("%s: %+v, %v; config %s", name, v, err, l.value("config"))
		}
	}
}

// Without rest the agents are those of the backup, at both gates and in the proof.
func TestAgentsFromTheBackup(t *testing.T) {
	t.Parallel()
	l := newLab(t, 2, "4.1.4")
	kv := agentstest.NewBackup()
	for _, n := range l.nodes {
		kv.Put(dir+"members/"+n.name, `{"conn_url":"postgres://h/","api_url":"`+n.server.URL+`/patroni","state":"running"}`, 1)
	}
	a := newScopeAgent(t, Options{Poll: 50 * time.Millisecond})
	first, err := a.Gate(t.Context(), agents.Known{Keys: kv.Keys})
	if err != nil || len(first.Missing) > 0 {
		t.Fatalf("%+v, %v", first, err)
	}
	again, err := a.Gate(t.Context(), agents.Known{Before: &first})
	if known, _ := parseBaseline(again); err != nil || len(known.Agents) != 2 || !known.Complete {
		t.Fatalf("%+v, %v", again, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	v, err := a.Verify(ctx, again, l.restored())
	if err != nil || v.Verdict != agents.NoLoss {
		t.Errorf("%+v, %v", v, err)
	}
}

package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/agents/agentstest"
)

const opened = 1_000_000_100

// live is a restored control plane on the clock of a bubble.
type live struct {
	*agentstest.Cluster
	ctx context.Context
}

// every does something again and again until the bubble ends.
func (l live) every(d time.Duration, f func()) {
	go func() {
		for l.ctx.Err() == nil {
			f()
			time.Sleep(d)
		}
	}()
}

// server is an API server: it writes its registration every 10 s, each time under a new lease.
func (l live) server(address string) {
	generation := uint64(0)
	l.every(10*time.Second, func() {
		generation++
		l.Put("/registry/masterleases/"+address, agentstest.KubernetesRegistration(address, generation), l.Grant(0, 15*time.Second))
	})
}

// holder renews a lease.
func (l live) holder(name, holder string, period time.Duration) {
	l.every(period, func() {
		key, value := row(name, holder, 15, time.Now().UTC())
		l.Put(key, value, 0)
	})
}

// everyone is what comes back after a restore of controlPlane, in its order.
func (l live) everyone(but ...string) {
	for name, begin := range map[string]func(){
		"10.0.0.1":  func() { l.server("10.0.0.1") },
		"10.0.0.2":  func() { l.server("10.0.0.2") },
		"scheduler": func() { l.holder("kube-system/kube-scheduler", "cp1_0c8b", 2*time.Second) },
		"manager":   func() { l.holder("kube-system/kube-controller-manager", "cp1_new", 2*time.Second) }, // another leader
		"apiserver": func() { l.holder("kube-system/apiserver-x5l", "apiserver-x5l_9", 10*time.Second) },
		"worker1":   func() { l.holder("kube-node-lease/worker1", "worker1", 10*time.Second) },
		"worker2":   func() { l.holder("kube-node-lease/worker2", "worker2", 10*time.Second) },
	} {
		missing := false
		for _, b := range but {
			missing = missing || b == name
		}
		if !missing {
			begin()
		}
	}
}

func TestVerify(t *testing.T) {
	const deadline = 3 * time.Minute
	for _, test := range []struct {
		name    string
		options Options
		more    func(kv *agentstest.Backup) // of the backup
		play    func(l live)
		check   bool // without a restore
		noGate  bool // the gate was not asked
		verdict string
		ok      bool
		waits   time.Duration // at least
		within  time.Duration
		says    []string
		not     []string
	}{
		{
			name: "everyone is back", play: func(l live) { l.everyone() },
			verdict: agents.Reconnected, ok: true, waits: 8 * time.Second, within: 20 * time.Second, // an API server is proven by its second write
			says: []string{"2 of 2: 10.0.0.1, 10.0.0.2", "kube-system/kube-scheduler by cp1_0c8b", "kube-system/kube-controller-manager by cp1_new", "2 of 2: worker1, worker2"},
			not:  []string{"cert-manager", "worker3", "released"},
		},
		{
			name: "as far as the backup tells", noGate: true, play: func(l live) { l.everyone() },
			verdict: agents.Reconnected, ok: true, within: 20 * time.Second, says: []string{"3 of 3"},
		},
		{
			name: "an API server stays away", play: func(l live) { l.everyone("10.0.0.2") },
			verdict: agents.NotBack, waits: deadline, within: deadline, says: []string{"1 of 2: 10.0.0.1; not: 10.0.0.2 (absent)"},
		},
		{
			name: "an API server came back elsewhere", play: func(l live) { l.everyone("10.0.0.2"); l.server("10.0.0.9") },
			verdict: agents.Reconnected, ok: true, within: 20 * time.Second, says: []string{"2 of 2: 10.0.0.1, 10.0.0.9; not: 10.0.0.2 (absent)"},
		},
		{
			name: "an API server that registers once and dies",
			play: func(l live) {
				l.everyone("10.0.0.2")
				l.Put("/registry/masterleases/10.0.0.2", agentstest.KubernetesRegistration("10.0.0.2", 1), l.Grant(0, 15*time.Second))
			},
			verdict: agents.NotBack, waits: deadline, within: deadline, says: []string{"not: 10.0.0.2"},
		},
		{
			name: "a registration that was restored",
			play: func(l live) {
				l.everyone("10.0.0.2")
				l.Restore("/registry/masterleases/10.0.0.2", "", 7, l.Grant(0, time.Hour))
				l.every(time.Second, func() { l.Put("/registry/masterleases/10.0.0.2", "", l.Grant(0, time.Hour)) })
			},
			verdict: agents.NotBack, waits: deadline, within: deadline, says: []string{"10.0.0.2 (only the restored key is there (create revision 7"},
		},
		{
			name: "no leader", play: func(l live) { l.everyone("manager") },
			verdict: agents.NotBack, waits: deadline, within: deadline,
			says: []string{"not: kube-system/kube-controller-manager (last held by cp2_77aa)"},
		},
		{
			name: "a leader that gave up",
			play: func(l live) {
				l.everyone("scheduler")
				key, value := row("kube-system/kube-scheduler", "", 1, time.Now().UTC())
				l.Put(key, value, 0)
			},
			verdict: agents.NotBack, waits: deadline, within: deadline, says: []string{"kube-system/kube-scheduler (released, nobody holds it)"},
		},
		{
			name: "a write that renews nothing",
			play: func(l live) {
				l.everyone("scheduler")
				l.every(time.Second, func() { // as somebody who sets a label does
					key, value := row("kube-system/kube-scheduler", "cp1_0c8b", 15, renewed)
					l.Put(key, value, 0)
				})
			},
			verdict: agents.NotBack, waits: deadline, within: deadline, says: []string{"kube-system/kube-scheduler (last held by cp1_0c8b)"},
		},
		{
			name: "a leader whose clock is behind", play: func(l live) {
				l.everyone("manager")
				l.every(2*time.Second, func() {
					key, value := row("kube-system/kube-controller-manager", "cp1_new", 15, renewed.Add(-time.Hour))
					l.Put(key, value, 0)
				})
			},
			verdict: agents.Reconnected, ok: true, within: 20 * time.Second,
		},
		{
			name: "a node stays away", play: func(l live) { l.everyone("worker2") },
			verdict: agents.NotBack, waits: deadline, within: deadline, says: []string{"1 of 2: worker1; not: kube-node-lease/worker2"},
		},
		{
			name: "half of the nodes are enough", options: Options{Nodes: 0.5}, play: func(l live) { l.everyone("worker2") },
			verdict: agents.Reconnected, ok: true, within: 20 * time.Second, says: []string{"not: kube-node-lease/worker2 (last held by worker2); 1 are enough"},
		},
		{
			name: "a node was deleted", play: func(l live) { l.everyone("worker2"); l.Delete("/registry/leases/kube-node-lease/worker2") },
			verdict: agents.Reconnected, ok: true, within: 20 * time.Second, says: []string{"1 of 1: worker1; deleted since: kube-node-lease/worker2"},
		},
		{
			name: "encrypted at rest",
			more: func(kv *agentstest.Backup) {
				kv.Put("/registry/leases/kube-system/written", "k8s:enc:aesgcm:v1:key1:\x01", 0)
				kv.Put("/registry/leases/kube-system/silent", "k8s:enc:aesgcm:v1:key1:\x02", 0)
			},
			play: func(l live) {
				l.everyone()
				l.every(time.Second, func() { l.Put("/registry/leases/kube-system/written", "k8s:enc:aesgcm:v1:key1:\x03", 0) })
			},
			verdict: agents.Unknown, ok: true, waits: patience, within: patience + 20*time.Second,
			says: []string{"1 of 2 written since", "is unknown: encrypted at rest (\"aesgcm\")", "not written: kube-system/silent", "2 of 2: 10.0.0.1"},
		},
		{
			name: "encrypted at rest, and a node stays away",
			more: func(kv *agentstest.Backup) {
				kv.Put("/registry/leases/kube-system/silent", "k8s:enc:aesgcm:v1:key1:\x02", 0)
			},
			play:    func(l live) { l.everyone("worker1") },
			verdict: agents.NotBack, waits: deadline, within: deadline, says: []string{"kube-node-lease/worker1"},
		},
		{
			name: "etcd does not answer at first",
			play: func(l live) {
				l.Fail(errors.New("no leader"))
				time.AfterFunc(30*time.Second, func() { l.Fail(nil); l.everyone() })
			},
			verdict: agents.Reconnected, ok: true, waits: 30 * time.Second, within: time.Minute,
		},
		{
			name: "etcd never answers", play: func(l live) { l.Fail(errors.New("no leader")) },
			verdict: agents.NotBack, waits: deadline, within: deadline, says: []string{"no leader"},
		},
		{
			name: "nobody was there", options: Options{Prefix: "/other"}, play: func(l live) { l.everyone() },
			verdict: agents.Unknown, ok: true, within: time.Second, says: []string{"nobody was registered under /other/masterleases/"},
		},
		{
			name: "on any day", check: true, play: func(l live) { l.everyone(); time.Sleep(time.Minute) },
			verdict: agents.Reconnected, ok: true, within: 20 * time.Second, says: []string{"2 of 2: 10.0.0.1, 10.0.0.2", "3 of 3", "2 of 2: worker1, worker2"},
		},
		{
			name: "on any day: not due", check: true,
			play: func(l live) {
				l.everyone()
				key, value := row("default/slow", "slow_1", 3600, time.Now().UTC())
				l.Put(key, value, 0)
				time.Sleep(time.Minute)
			},
			verdict: agents.Reconnected, ok: true, waits: deadline, within: deadline, says: []string{"default/slow by slow_1 (not due yet)"},
		},
		{
			name: "on any day: a leader died", check: true,
			play: func(l live) {
				l.everyone("scheduler")
				key, value := row("kube-system/kube-scheduler", "cp1_0c8b", 15, time.Now().UTC())
				l.Put(key, value, 0)
				time.Sleep(time.Minute)
			},
			verdict: agents.NotBack, waits: deadline, within: deadline, says: []string{"not: kube-system/kube-scheduler (last held by cp1_0c8b)"},
		},
		{
			name: "on any day: nobody renews anything", check: true,
			play: func(l live) {
				for _, name := range []string{"kube-system/kube-scheduler", "kube-system/kube-controller-manager"} {
					key, value := row(name, "cp1_0c8b", 3600, time.Now().UTC())
					l.Put(key, value, 0)
				}
			},
			verdict: agents.NotBack, waits: deadline, within: deadline, says: []string{"0 of 2"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, stop := context.WithCancel(t.Context())
				l := live{agentstest.NewCluster(opened), ctx}
				a := newAgent(t, test.options)
				done := agents.Restored{Revision: opened, Leases: map[int64]bool{}, HealthyAt: time.Now(), Live: l}
				var base agents.Baseline
				if test.check {
					done.Revision, done.Leases = 0, nil
					test.play(l)
				} else {
					kv := controlPlane()
					if test.more != nil {
						test.more(kv)
					}
					for k := range kv.Keys("/registry/leases/") {
						l.Restore(string(k.Key), string(k.Value), k.ModRevision, 0)
					}
					if test.noGate {
						done.Backup = kv
					} else {
						var err error
						if base, err = a.Gate(ctx, agents.Known{Keys: kv.Keys}); err != nil {
							t.Fatal(err)
						}
					}
					test.play(l)
				}
				told := 0
				done.Tell = func(agents.Verdict) { told++ }
				waiting, cancel := context.WithTimeout(ctx, deadline)
				defer cancel()
				begun := time.Now()
				v, err := a.Verify(waiting, base, done)
				took := time.Since(begun)
				stop()
				time.Sleep(time.Minute) // of the bubble's clock: everyone ends
				if err != nil {
					t.Fatal(err)
				}
				if v.Verdict != test.verdict || v.OK != test.ok {
					t.Errorf("verdict %s, ok %v; want %s, %v\n%+v", v.Verdict, v.OK, test.verdict, test.ok, v.Checks)
				}
				if took < test.waits || took > test.within {
					t.Errorf("took %s, want %s to %s", took, test.waits, test.within)
				}
				if told == 0 {
					t.Error("nobody was told how far it is")
				}
				said := fmt.Sprint(v.Checks)
				for _, want := range test.says {
					if !strings.Contains(said, want) {
						t.Errorf("%q is not said in\n%s", want, said)
					}
				}
				for _, never := range test.not {
					if strings.Contains(said, never) {
						t.Errorf("%q is said in\n%s: it was not there in the backup either", never, said)
					}
				}
			})
		})
	}
}

// An interrupted restore must not look like one whose agents stayed away.
func TestVerifyCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(3*time.Second, cancel)
		_, err := newAgent(t, Options{}).Verify(ctx, agents.Baseline{Data: []byte(`{"api_servers":{"10.0.0.1":1}}`)}, agents.Restored{Live: agentstest.NewCluster(opened), HealthyAt: time.Now()})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want %v", err, context.Canceled)
		}
	})
}

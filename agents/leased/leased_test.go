package leased_test

import (
	"context"
	"errors"
	"flag"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/agents/agentstest"
	"github.com/requorum/requorum/agents/leased"
)

var _ = flag.Bool("update", false, "write the golden files")

func newAgent(t *testing.T, opt leased.Options) *leased.Agent {
	t.Helper()
	a, err := leased.New(opt)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestNewRefuses(t *testing.T) {
	tests := []struct {
		opt  leased.Options
		want string
	}{
		{leased.Options{}, "prefix is missing"},
		{leased.Options{Prefix: "/a/", Count: -1}, "count is -1"},
		{leased.Options{Prefix: "/a/", Count: 1, Expect: []string{"/a/b"}}, "both"},
		{leased.Options{Prefix: "/a/", Expect: []string{"b"}}, "not under the prefix"},
		{leased.Options{Prefix: "/a/", Expect: []string{"/a/b", "/a/b"}}, "twice"},
	}
	for _, test := range tests {
		if _, err := leased.New(test.opt); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: got %v, want an error with %q", test.opt, err, test.want)
		}
	}
}

func TestPlan(t *testing.T) {
	kv := agentstest.NewBackup().Grant(1, 86400).Grant(2, 60).
		Put("/app/leader", "a", 1).Put("/app/members/a", "a", 1).Put("/app/config", "stays", 0).
		Put("/app/data/x", "kept by keep_leased", 2).
		Put("/other", "general rule", 2)
	configured := []agents.Configured{{Name: "leased /app/", Kind: "leased", Agent: newAgent(t, leased.Options{Prefix: "/app/"})}}
	d, err := agents.Ghosts(kv, configured, agents.Options{KeepPrefixes: []string{"/app/data/", "/"}})
	if err != nil {
		t.Fatal(err)
	}
	agentstest.Golden(t, "plan", agentstest.Plan(d))
}

func TestObserve(t *testing.T) {
	kv := agentstest.NewBackup().Grant(1, 60).Put("/app/a", "", 1).Put("/app/plain", "", 0).Put("/b", "", 1)
	got, err := newAgent(t, leased.Options{Prefix: "/app/", Expect: []string{"/app/a", "/app/gone"}}).Observe(t.Context(), kv)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"prefix":"/app/","count":1,"keys":["/app/a"],"missing":["/app/gone"]}`; string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

const opened = 1_000_000_100

// program registers a key after some time and renews its lease.
func program(ctx context.Context, live *agentstest.Cluster, key string, after time.Duration) {
	time.Sleep(after) // of the bubble's clock
	lease := live.Grant(0, 30*time.Second)
	live.Put(key, "here", lease)
	for ctx.Err() == nil {
		live.KeepAlive(lease)
		time.Sleep(10 * time.Second)
	}
}

func TestVerify(t *testing.T) {
	const deadline = 2 * time.Minute
	all := []string{"/app/a", "/app/b", "/app/c"}
	tests := []struct {
		name    string
		opt     leased.Options
		play    func(ctx context.Context, live *agentstest.Cluster)
		verdict string
		ok      bool
		within  time.Duration // it must end by then
		says    []string      // in the details
	}{
		{
			name: "all back by number", opt: leased.Options{Count: 3}, verdict: agents.Reconnected, ok: true, within: 30 * time.Second,
			play: func(ctx context.Context, live *agentstest.Cluster) {
				for i, key := range all {
					go program(ctx, live, key, time.Duration(i)*3*time.Second)
				}
			},
			says: []string{"3 of 3 expected under /app/: /app/a, /app/b, /app/c"},
		},
		{
			name: "all back by name", opt: leased.Options{Expect: all}, verdict: agents.Reconnected, ok: true, within: 30 * time.Second,
			play: func(ctx context.Context, live *agentstest.Cluster) {
				for _, key := range all {
					go program(ctx, live, key, time.Second)
				}
			},
			says: []string{"registered anew, lease renewed"},
		},
		{
			name: "one stays away", opt: leased.Options{Count: 3}, verdict: agents.NotBack, within: deadline,
			play: func(ctx context.Context, live *agentstest.Cluster) {
				go program(ctx, live, "/app/a", 0)
				go program(ctx, live, "/app/c", 0)
			},
			says: []string{"2 of 3 expected under /app/; not back: /app/b (absent)"},
		},
		{
			name: "one stays away, by name", opt: leased.Options{Expect: all}, verdict: agents.NotBack, within: deadline,
			play: func(ctx context.Context, live *agentstest.Cluster) {
				go program(ctx, live, "/app/a", 0)
				go program(ctx, live, "/app/c", 0)
			},
			says: []string{"absent"},
		},
		{
			name: "a ghost is no program", opt: leased.Options{Expect: all[:1]}, verdict: agents.NotBack, within: deadline,
			play: func(ctx context.Context, live *agentstest.Cluster) {
				live.Grant(7, time.Hour)
				live.Restore("/app/a", "ghost", 50, 7)
			},
			says: []string{"only the restored key is there (create revision 50, opened at 1000000100)"},
		},
		{
			name: "a ghost that is renewed is still the restored key", opt: leased.Options{Count: 1}, verdict: agents.NotBack, within: deadline,
			play: func(ctx context.Context, live *agentstest.Cluster) {
				live.Grant(7, 30*time.Second)
				live.Restore("/app/a", "ghost", 50, 7)
				go func() {
					for ctx.Err() == nil {
						live.KeepAlive(7)
						live.Put("/app/a", "again", 7)
						time.Sleep(5 * time.Second)
					}
				}()
			},
			says: []string{"0 of 1", "only the restored key"},
		},
		{
			name: "a restored lease proves nothing", opt: leased.Options{Expect: all[:1]}, verdict: agents.NotBack, within: deadline,
			play: func(ctx context.Context, live *agentstest.Cluster) {
				live.Grant(7, time.Hour)
				live.Put("/app/a", "anew", 7)
			},
			says: []string{"under lease 0000000000000007, which was restored"},
		},
		{
			name: "no lease proves nothing", opt: leased.Options{Expect: all[:1]}, verdict: agents.NotBack, within: deadline,
			play: func(ctx context.Context, live *agentstest.Cluster) { live.Put("/app/a", "anew", 0) },
			says: []string{"without a lease"},
		},
		{
			name: "registered once and dead", opt: leased.Options{Count: 1}, verdict: agents.NotBack, within: deadline,
			play: func(ctx context.Context, live *agentstest.Cluster) {
				live.Put("/app/a", "here", live.Grant(0, time.Hour))
			},
			says: []string{"0 of 1", "/app/a (registered anew, but lease", "has not been seen renewed yet"},
		},
		{
			name: "registered, gone, and back", opt: leased.Options{Count: 1}, verdict: agents.Reconnected, ok: true, within: time.Minute,
			play: func(ctx context.Context, live *agentstest.Cluster) {
				live.Put("/app/a", "here", live.Grant(0, 5*time.Second))
				go program(ctx, live, "/app/a", 20*time.Second)
			},
		},
		{
			name: "etcd hiccups", opt: leased.Options{Count: 1}, verdict: agents.Reconnected, ok: true, within: time.Minute,
			play: func(ctx context.Context, live *agentstest.Cluster) {
				live.Fail(errors.New("no leader"))
				time.AfterFunc(10*time.Second, func() { live.Fail(nil) })
				go program(ctx, live, "/app/a", 0)
			},
		},
		{
			name: "etcd never answers", opt: leased.Options{Count: 1}, verdict: agents.NotBack, within: deadline,
			play: func(ctx context.Context, live *agentstest.Cluster) { live.Fail(errors.New("no leader")) },
			says: []string{"0 of 1", "no leader"},
		},
		{
			name: "only reported", verdict: agents.Unknown, ok: true, within: time.Second,
			play: func(ctx context.Context, live *agentstest.Cluster) {
				live.Put("/app/a", "here", live.Grant(0, time.Minute))
				live.Restore("/app/b", "ghost", 50, 7)
			},
			says: []string{"1 registered anew so far, 3 were in the backup", "none was waited for"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				live := agentstest.NewCluster(opened)
				backup := agentstest.NewBackup().Grant(7, 30)
				for _, key := range all {
					backup.Put(key, "then", 7)
				}
				ctx, cancel := context.WithTimeout(t.Context(), deadline)
				defer cancel()
				start := time.Now()
				test.play(ctx, live)
				test.opt.Prefix = "/app/"
				v, err := newAgent(t, test.opt).Verify(ctx, agents.Baseline{}, agents.Restored{
					Revision: opened, Leases: map[int64]bool{7: true}, HealthyAt: start, Live: live, Backup: backup,
				})
				if err != nil {
					t.Fatal(err)
				}
				if v.Verdict != test.verdict || v.OK != test.ok {
					t.Errorf("verdict %s, ok %v; want %s, %v\n%+v", v.Verdict, v.OK, test.verdict, test.ok, v.Checks)
				}
				if took := time.Since(start); took > test.within {
					t.Errorf("took %s, want %s at most", took, test.within)
				}
				cancel()
				time.Sleep(time.Minute) // of the bubble's clock: the programs end
				var said strings.Builder
				for _, c := range v.Checks {
					said.WriteString(c.Detail + "\n")
					if c.OK && test.verdict == agents.Reconnected && c.Seconds <= 0 {
						t.Errorf("check %s says %v s since etcd was healthy", c.Name, c.Seconds)
					}
				}
				for _, want := range test.says {
					if !strings.Contains(said.String(), want) {
						t.Errorf("%q is not said in\n%s", want, said.String())
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
		_, err := newAgent(t, leased.Options{Prefix: "/app/", Count: 1}).
			Verify(ctx, agents.Baseline{}, agents.Restored{Live: agentstest.NewCluster(opened), HealthyAt: time.Now()})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want %v", err, context.Canceled)
		}
	})
}

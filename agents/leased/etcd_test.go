package leased_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/agents/agentstest"
	"github.com/requorum/requorum/agents/leased"
	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/internal/etcdtest"
)

// On a real etcd: what Verify believes about revisions, leases and TTLs is what
// the server says.
func TestVerifyOnEtcd(t *testing.T) {
	server := etcdtest.StartCluster(t, etcdtest.Options{Members: 1})
	live, err := cluster.Dial(cluster.Options{Endpoints: server.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { live.Close() })
	client := server.Client(t)

	// What a restore without any care would bring back: keys of the past under
	// leases that live on.
	ghost := etcdtest.Lease(t, client, time.Hour, "/ghost/a")
	shared := etcdtest.Lease(t, client, time.Hour)
	backup := agentstest.NewBackup().Grant(int64(ghost), 3600)
	for _, prefix := range []string{"/back/", "/ghost/", "/shared/", "/part/", "/dead/", "/late/"} {
		for _, name := range []string{"a", "b"} {
			backup.Put(prefix+name, name, int64(ghost))
		}
	}
	done := agents.Restored{
		Revision: etcdtest.Revision(t, client), Leases: map[int64]bool{int64(ghost): true, int64(shared): true},
		HealthyAt: time.Now(), Live: live, Backup: backup,
	}

	tests := []struct {
		name    string
		opt     leased.Options
		play    func(t *testing.T)
		verdict string
		says    string
	}{
		{
			name: "registered anew and renewed", opt: leased.Options{Prefix: "/back/", Count: 2}, verdict: agents.Reconnected,
			play: func(t *testing.T) { alive(t, client, "/back/a", 0); alive(t, client, "/back/b", time.Second) },
			says: "2 of 2 expected under /back/: /back/a, /back/b",
		},
		{
			name: "after a while", opt: leased.Options{Prefix: "/late/", Expect: []string{"/late/a"}}, verdict: agents.Reconnected,
			play: func(t *testing.T) { alive(t, client, "/late/a", 3*time.Second) },
			says: "registered anew, lease renewed",
		},
		{
			name: "a ghost stays a ghost", opt: leased.Options{Prefix: "/ghost/", Expect: []string{"/ghost/a"}}, verdict: agents.NotBack,
			play: func(t *testing.T) {
				// Even if its lease is renewed and the key written again.
				etcdtest.Put(t, client, "/ghost/a", "again", clientv3.WithLease(ghost))
				if err := renew(t.Context(), client, ghost); err != nil {
					t.Fatal(err)
				}
			},
			says: "only the restored key is there",
		},
		{
			name: "under a restored lease", opt: leased.Options{Prefix: "/shared/", Expect: []string{"/shared/a"}}, verdict: agents.NotBack,
			play: func(t *testing.T) { etcdtest.Put(t, client, "/shared/a", "x", clientv3.WithLease(shared)) },
			says: fmt.Sprintf("under lease %016x, which was restored", int64(shared)),
		},
		{
			name: "partly back", opt: leased.Options{Prefix: "/part/", Count: 2}, verdict: agents.NotBack,
			play: func(t *testing.T) { alive(t, client, "/part/b", 0) },
			says: "1 of 2 expected under /part/; not back: /part/a (absent)",
		},
		{
			name: "registered once, never renewed", opt: leased.Options{Prefix: "/dead/", Count: 1}, verdict: agents.NotBack,
			play: func(t *testing.T) { etcdtest.Lease(t, client, time.Hour, "/dead/a") },
			says: "has not been seen renewed yet",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			agent := newAgent(t, test.opt)
			test.play(t)
			// The deadline comes when what is to be said has been said in one look after the other: later than any lease
			// could be seen renewed that is, and however long that takes here.
			ctx, expire := deadline(t.Context())
			defer expire()
			looks := 0
			done := done
			done.Tell = func(v agents.Verdict) {
				if looks++; v.Verdict != test.verdict || !strings.Contains(fmt.Sprint(v.Checks), test.says) {
					looks = 0
				}
				if looks == 8 {
					expire()
				}
			}
			defer time.AfterFunc(3*time.Minute, expire).Stop()
			v, err := agent.Verify(ctx, agents.Baseline{}, done)
			if err != nil {
				t.Fatal(err)
			}
			if v.Verdict != test.verdict || v.OK != (test.verdict == agents.Reconnected) || !strings.Contains(fmt.Sprint(v.Checks), test.says) {
				t.Errorf("got %+v, want %s and %q", v, test.verdict, test.says)
			}
		})
	}
}

// deadline is a context whose deadline comes when expire is called.
func deadline(ctx context.Context) (_ context.Context, expire func()) {
	d := passed{ctx, make(chan struct{})}
	return d, sync.OnceFunc(func() { close(d.done) })
}

type passed struct {
	context.Context
	done chan struct{}
}

func (p passed) Done() <-chan struct{} { return p.done }

func (p passed) Err() error {
	select {
	case <-p.done:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

// alive is a program that registers after some time and renews its lease again
// and again, until the test ends. On a busy machine it may be late.
func alive(t *testing.T, client *clientv3.Client, key string, after time.Duration) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		err := register(ctx, client, key, after)
		if ctx.Err() != nil {
			err = nil // as it should end
		}
		ended <- err
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the program at %s ended: %v", key, err)
		}
	})
}

func register(ctx context.Context, client *clientv3.Client, key string, after time.Duration) error {
	select {
	case <-time.After(after):
	case <-ctx.Done():
		return ctx.Err()
	}
	var lease *clientv3.LeaseGrantResponse
	err := etcdtest.Retried(ctx, func() (err error) {
		if lease, err = client.Grant(ctx, 600); err == nil {
			_, err = client.Put(ctx, key, "here", clientv3.WithLease(lease.ID))
		}
		return err
	})
	if err != nil {
		return err
	}
	for err == nil {
		select {
		case <-time.After(time.Second):
			err = renew(ctx, client, lease.ID)
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	return err
}

func renew(ctx context.Context, client *clientv3.Client, lease clientv3.LeaseID) error {
	return etcdtest.Retried(ctx, func() error {
		_, err := client.KeepAliveOnce(ctx, lease)
		return err
	})
}

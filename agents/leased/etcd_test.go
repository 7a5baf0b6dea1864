package leased_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
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
		name     string
		opt      leased.Options
		play     func(t *testing.T)
		deadline time.Duration
		verdict  string
		says     string
	}{
		{
			name: "registered anew and renewed", opt: leased.Options{Prefix: "/back/", Count: 2}, deadline: 2 * time.Minute, verdict: agents.Reconnected,
			play: func(t *testing.T) { alive(t, client, "/back/a", 0); alive(t, client, "/back/b", time.Second) },
			says: "2 of 2 expected under /back/: /back/a, /back/b",
		},
		{
			name: "after a while", opt: leased.Options{Prefix: "/late/", Expect: []string{"/late/a"}}, deadline: 2 * time.Minute, verdict: agents.Reconnected,
			play: func(t *testing.T) { alive(t, client, "/late/a", 3*time.Second) },
			says: "registered anew, lease renewed",
		},
		{
			name: "a ghost stays a ghost", opt: leased.Options{Prefix: "/ghost/", Expect: []string{"/ghost/a"}}, deadline: 20 * time.Second, verdict: agents.NotBack,
			play: func(t *testing.T) {
				// Even if its lease is renewed and the key written again.
				etcdtest.Put(t, client, "/ghost/a", "again", clientv3.WithLease(ghost))
				if _, err := client.KeepAliveOnce(t.Context(), ghost); err != nil {
					t.Fatal(err)
				}
			},
			says: "only the restored key is there",
		},
		{
			name: "under a restored lease", opt: leased.Options{Prefix: "/shared/", Expect: []string{"/shared/a"}}, deadline: 20 * time.Second, verdict: agents.NotBack,
			play: func(t *testing.T) { etcdtest.Put(t, client, "/shared/a", "x", clientv3.WithLease(shared)) },
			says: fmt.Sprintf("under lease %016x, which was restored", int64(shared)),
		},
		{
			name: "partly back", opt: leased.Options{Prefix: "/part/", Count: 2}, deadline: 20 * time.Second, verdict: agents.NotBack,
			play: func(t *testing.T) { alive(t, client, "/part/b", 0) },
			says: "1 of 2 expected under /part/; not back: /part/a (absent)",
		},
		{
			name: "registered once, never renewed", opt: leased.Options{Prefix: "/dead/", Count: 1}, deadline: 20 * time.Second, verdict: agents.NotBack,
			play: func(t *testing.T) { etcdtest.Lease(t, client, time.Minute, "/dead/a") },
			says: "has not been seen renewed yet",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			agent := newAgent(t, test.opt)
			test.play(t)
			ctx, cancel := context.WithTimeout(t.Context(), test.deadline)
			defer cancel()
			start := time.Now()
			v, err := agent.Verify(ctx, agents.Baseline{}, done)
			if err != nil {
				t.Fatal(err)
			}
			if v.Verdict != test.verdict || v.OK != (test.verdict == agents.Reconnected) || !strings.Contains(fmt.Sprint(v.Checks), test.says) {
				t.Errorf("got %+v, want %s and %q", v, test.verdict, test.says)
			}
			if took := time.Since(start); took > test.deadline+time.Minute {
				t.Errorf("took %s with a deadline of %s", took, test.deadline)
			}
		})
	}
}

// alive is a program that registers after some time and renews its lease as
// clientv3 does, until the test ends.
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
		if lease, err = client.Grant(ctx, 6); err == nil {
			_, err = client.Put(ctx, key, "here", clientv3.WithLease(lease.ID))
		}
		return err
	})
	if err != nil {
		return err
	}
	renewals, err := client.KeepAlive(ctx, lease.ID)
	if err != nil {
		return err
	}
	for range renewals {
	}
	return errors.New("its lease is not renewed any more")
}

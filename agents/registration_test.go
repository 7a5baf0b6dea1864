package agents_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/agents/agentstest"
)

func TestAnew(t *testing.T) {
	done := agents.Restored{Revision: 100, Leases: map[int64]bool{7: true}}
	tests := []struct {
		name string
		key  *mvccpb.KeyValue
		ok   bool
	}{
		{"absent", nil, false},
		{"restored", &mvccpb.KeyValue{CreateRevision: 50, ModRevision: 50, Lease: 9}, false},
		{"restored and written again", &mvccpb.KeyValue{CreateRevision: 100, ModRevision: 105, Lease: 9}, false},
		{"without a lease", &mvccpb.KeyValue{CreateRevision: 101, ModRevision: 101}, false},
		{"under a restored lease", &mvccpb.KeyValue{CreateRevision: 101, ModRevision: 101, Lease: 7}, false},
		{"anew", &mvccpb.KeyValue{CreateRevision: 101, ModRevision: 101, Lease: 9}, true},
	}
	for _, test := range tests {
		if why, ok := done.Anew(test.key); ok != test.ok || ok != (why == "") {
			t.Errorf("%s: got %v, %q", test.name, ok, why)
		}
	}
}

func TestRenewals(t *testing.T) {
	tests := []struct {
		name  string
		ttl   time.Duration
		renew time.Duration // 0: never
		after time.Duration // how long it is watched
		want  bool
	}{
		{"renewed as clients do", 30 * time.Second, 10 * time.Second, 15 * time.Second, true},
		{"renewed all the time", 30 * time.Second, 500 * time.Millisecond, 5 * time.Second, true},
		{"short", 2 * time.Second, 600 * time.Millisecond, 10 * time.Second, true},
		{"never renewed", 30 * time.Second, 0, 29 * time.Second, false},
		{"an hour, never renewed", time.Hour, 0, 10 * time.Minute, false},
		{"not yet renewed", 30 * time.Second, 10 * time.Second, 9 * time.Second, false},
		{"ended", 5 * time.Second, 0, 10 * time.Second, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				live := agentstest.NewCluster(100)
				lease := live.Grant(0, test.ttl)
				ctx, cancel := context.WithTimeout(t.Context(), test.after)
				defer cancel()
				if test.renew > 0 {
					go keepAlive(ctx, live, lease, test.renew)
				}
				renewals := agents.NewRenewals(live)
				got := false
				for ctx.Err() == nil && !got {
					_, ok, err := renewals.Look(t.Context(), lease)
					if err != nil {
						t.Fatal(err)
					}
					got = ok
					time.Sleep(300 * time.Millisecond) // of the bubble's clock
				}
				if got != test.want {
					t.Errorf("renewed: %v, want %v", got, test.want)
				}
			})
		})
	}
}

func keepAlive(ctx context.Context, live *agentstest.Cluster, lease int64, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			live.KeepAlive(lease)
		case <-ctx.Done():
			return
		}
	}
}

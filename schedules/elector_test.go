package schedules

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/requorum/requorum/internal/etcdtest"
)

// replica is an elector and what it leads.
type replica struct {
	*Elector
	proxy *etcdtest.Proxy
	leave func() // stops following and gives the lease back

	mu      sync.Mutex
	leads   map[string]bool
	orphans map[string]bool
}

func (r *replica) leading() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.leads))
}

func (r *replica) orphaned() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.orphans)
}

func startReplica(t *testing.T, c *etcdtest.Cluster, id string, lease time.Duration, names []string, options ...grpc.DialOption) *replica {
	t.Helper()
	r := &replica{proxy: etcdtest.NewProxy(t, strings.TrimPrefix(c.Endpoints()[0], "http://")), leads: map[string]bool{}, orphans: map[string]bool{}}
	connect := func(context.Context) (*clientv3.Client, error) {
		// The client calls a lease lost whose first renewal is not answered within the time for dialling and a second.
		return clientv3.New(clientv3.Config{Endpoints: []string{"http://" + r.proxy.Addr()}, DialTimeout: min(lease/4, time.Minute), DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: time.Second, DialOptions: options})
	}
	r.Elector = NewElector(ElectorOptions{Connect: connect, Prefix: "/requorum/test", ID: id, Lease: lease, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	session, end := context.WithCancel(t.Context())
	var following, running sync.WaitGroup
	running.Go(func() { r.Run(session) })
	for _, name := range names {
		following.Go(func() {
			r.Follow(ctx, name, func(ctx context.Context, term Term) {
				set := r.leads
				if term.Orphan {
					set = r.orphans
				}
				r.mu.Lock()
				set[name] = true
				r.mu.Unlock()
				select {
				case <-ctx.Done():
				case <-term.Yield:
				}
				r.mu.Lock()
				delete(set, name)
				r.mu.Unlock()
			})
		})
	}
	r.leave = sync.OnceFunc(func() {
		cancel()
		following.Wait()
		end()
		running.Wait()
	})
	t.Cleanup(r.leave)
	return r
}

// patience is for slow machines: that something happens is what is asked.
const patience = 3 * time.Minute

func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", within, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// once says whether every name is led by exactly one of the replicas.
func once(names []string, replicas ...*replica) bool {
	var all []string
	for _, r := range replicas {
		all = append(all, r.leading()...)
	}
	slices.Sort(all)
	return slices.Equal(all, names)
}

// favoured are the names that a replica is to lead among so many replicas, which it may not know yet.
func (r *replica) favoured(names []string, replicas int) (own []string, known bool) {
	now, _ := r.now()
	for _, name := range names {
		if now.favours(name) {
			own = append(own, name)
		}
	}
	return own, len(now.replicas) == replicas
}

// settled says whether each replica knows of all and leads what it is to lead: then nothing moves any more.
func settled(names []string, replicas ...*replica) bool {
	return once(names, replicas...) && !slices.ContainsFunc(replicas, func(r *replica) bool {
		own, known := r.favoured(names, len(replicas))
		return !known || !slices.Equal(own, r.leading())
	})
}

// Replicas share the names evenly, and take over from one that leaves, at once because it gives its lease back, and from nobody else.
func TestReplicasShareNames(t *testing.T) {
	if testing.Short() {
		t.Skip("starts etcd")
	}
	const lease = 10 * time.Minute // nobody loses it on a slow machine
	c := etcdtest.StartCluster(t, etcdtest.Options{Members: 1})
	names := manyNames()
	a := startReplica(t, c, "a", lease, names)
	eventually(t, patience, "one replica leads all", func() bool { return once(names, a) })
	b, d := startReplica(t, c, "b", lease, names), startReplica(t, c, "d", lease, names)
	eventually(t, patience, "three replicas share all", func() bool {
		return settled(names, a, b, d) && min(len(a.leading()), len(b.leading()), len(d.leading())) > 5
	})
	keptByB, keptByD := b.leading(), d.leading()
	a.leave()
	eventually(t, patience, "others lead what a replica led that has left", func() bool { return once(names, b, d) })
	for _, name := range keptByB {
		if !slices.Contains(b.leading(), name) {
			t.Errorf("%s moved although b, its leader, stayed", name)
		}
	}
	for _, name := range keptByD {
		if !slices.Contains(d.leading(), name) {
			t.Errorf("%s moved although d, its leader, stayed", name)
		}
	}
}

func manyNames() (names []string) {
	for i := range 100 { // so many that every replica gets some, however their shares fall
		names = append(names, fmt.Sprintf("cluster%02d", i))
	}
	return names
}

// Replicas take over from one that is cut off, give its share back when it comes back, and all work as orphans when there is no coordination any more.
func TestReplicasSurviveEachOther(t *testing.T) {
	if testing.Short() {
		t.Skip("starts etcd")
	}
	const lease = 4 * time.Second
	c := etcdtest.StartCluster(t, etcdtest.Options{Members: 1})
	names := manyNames()
	b, d := startReplica(t, c, "b", lease, names), startReplica(t, c, "d", lease, names)
	eventually(t, patience, "two replicas share all", func() bool { return once(names, b, d) && min(len(b.leading()), len(d.leading())) > 5 })

	b.proxy.Set(etcdtest.Fault{Stall: true})
	eventually(t, patience, "the other leads all when one is cut off", func() bool { return once(names, d) })
	eventually(t, patience, "the one that is cut off leads nothing", func() bool { return len(b.leading()) == 0 })
	eventually(t, patience, "and works as an orphan", func() bool { return b.orphaned() == len(names) })
	b.proxy.Set(etcdtest.Fault{})
	eventually(t, patience, "it takes its share back", func() bool { return once(names, b, d) && len(b.leading()) > 5 && b.orphaned() == 0 })

	c.Kill(t)
	eventually(t, patience, "all work without coordination", func() bool {
		return b.orphaned() == len(names) && d.orphaned() == len(names) && once(nil, b, d)
	})
	if b.Stagger("cluster00", time.Minute) == d.Stagger("cluster00", time.Minute) {
		t.Error("orphans work at the same moment")
	}
	c.Start(t)
	c.WaitHealthy(t)
	eventually(t, patience, "they share again", func() bool { return once(names, b, d) && b.orphaned()+d.orphaned() == 0 })
}

// A replica whose requests are answered late or not at all keeps no name from others: what it asked for while it was the favourite is taken back.
func TestSlowRequestsKeepNoNameFromOthers(t *testing.T) {
	if testing.Short() {
		t.Skip("starts etcd")
	}
	const lease = 10 * time.Minute
	c := etcdtest.StartCluster(t, etcdtest.Options{Members: 1})
	names := manyNames()
	a := startReplica(t, c, "a", lease, names)
	eventually(t, patience, "one replica leads all", func() bool { return once(names, a) })

	// What b puts is carried out at once and answered late, or carried out late, also when nobody waits for it any more.
	late := make(chan struct{})
	var asked, refused atomic.Int64
	b := startReplica(t, c, "b", lease, names, grpc.WithUnaryInterceptor(
		func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
			switch {
			case method == "/etcdserverpb.KV/Txn":
				answered := make(chan error, 1)
				atOnce := asked.Add(1)%2 == 0
				go func() {
					if !atOnce {
						<-late
					}
					err := invoke(context.WithoutCancel(ctx), method, req, reply, conn, options...)
					<-late
					answered <- err
				}()
				select {
				case err := <-answered:
					return err
				case <-ctx.Done():
					return status.FromContextError(ctx.Err()).Err()
				}
			case method == "/etcdserverpb.KV/DeleteRange" && refused.Add(1) <= 5:
				return status.Error(codes.DeadlineExceeded, "etcdserver: request timed out")
			}
			return invoke(ctx, method, req, reply, conn, options...)
		}))
	eventually(t, patience, "b asks for its share", func() bool {
		own, known := b.favoured(names, 2)
		return known && asked.Load() >= int64(len(own))
	})
	d := startReplica(t, c, "d", lease, names)
	eventually(t, patience, "d leads what only a held", func() bool { return len(d.leading()) > 2 })
	close(late)
	eventually(t, patience, "b takes back what d is to lead", func() bool { return refused.Load() > 0 })
	eventually(t, patience, "all share", func() bool {
		return settled(names, a, b, d) && min(len(a.leading()), len(b.leading()), len(d.leading())) > 5
	})
	// What they lead they can also give back, all of it.
	d.leave()
	eventually(t, patience, "two share what the third led", func() bool { return once(names, a, b) })
}

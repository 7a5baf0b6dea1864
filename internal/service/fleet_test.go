package service

import (
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/schedules"
	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/repository"
)

// counters are what the coordination etcd has served.
func counters(b *testing.B, endpoint string) map[string]float64 {
	b.Helper()
	resp, err := http.Get(endpoint + "/metrics")
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.Fatal(err)
	}
	sums := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		name, _, _ = strings.Cut(name, "{")
		if v, err := strconv.ParseFloat(strings.TrimSpace(value[strings.LastIndexByte(value, ' ')+1:]), 64); err == nil {
			sums[name] += v
		}
	}
	return sums
}

// starts notes when runs of each cluster began, whoever began them.
type starts struct {
	deaf
	mu  sync.Mutex
	all map[string][]Run
}

func (s *starts) RunStarted(r Run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[r.Cluster] = append(s.all[r.Cluster], r)
}

// BenchmarkFleet is 1,000 clusters on a five-minute schedule over three replicas: real scheduler, real election, real records; the
// members are fakes that answer at once, and a backup is a pause of one to three seconds. In the middle one replica is lost without a word. With
// REQUORUM_BENCH_QUICK the schedule is one of 30 seconds.
func BenchmarkFleet(b *testing.B) {
	const clusters, lease = 1000, 15 * time.Second
	every, spec, rounds, atOnce := 5*time.Minute, "*/5 * * * *", 2, 40
	if os.Getenv("REQUORUM_BENCH_QUICK") != "" {
		every, spec, atOnce = 30*time.Second, "@every 30s", 400 // all of a replica begin together
	}
	schedule, err := schedules.Parse(spec)
	if err != nil {
		b.Fatal(err)
	}
	etcd := etcdtest.StartCluster(b, etcdtest.Options{Members: 1})
	repos := make([]*repository.Repository, clusters)
	for i := range repos {
		repos[i] = memoryRepository(b, fmt.Sprintf("c%04d", i))
	}
	work := func(repo *repository.Repository) Work {
		return func(ctx context.Context, _ *slog.Logger, id string) (Report, error) {
			started := time.Now().UTC()
			h := fnv.New32a()
			h.Write([]byte(id))
			select {
			case <-ctx.Done():
				return Report{}, ctx.Err()
			case <-time.After(time.Second + time.Duration(h.Sum32()%2000)*time.Millisecond):
			}
			return Report{}, repo.Record(ctx, catalog.Run{ID: id, Kind: "backup", Outcome: "ok", Cluster: repo.Cluster(), Started: started})
		}
	}
	all := make([]Cluster, clusters)
	for i, repo := range repos {
		all[i] = Cluster{Name: repo.Cluster(), Repository: repo, Interval: 15 * time.Second, Jitter: time.Minute, Deadline: time.Hour,
			Watch: func() (Watcher, func(), error) { return &eye{}, func() {}, nil },
			Jobs:  map[Kind]Job{Snapshot: {Schedule: schedule, Record: "backup", Work: work(repo)}}}
	}
	events := &starts{all: map[string][]Run{}}
	type replica struct {
		stop    func()
		proxy   *etcdtest.Proxy
		elector *schedules.Elector
	}
	begin := func(id string) replica {
		p := etcdtest.NewProxy(b, strings.TrimPrefix(etcd.Endpoints()[0], "http://"))
		elector := schedules.NewElector(schedules.ElectorOptions{Prefix: "/requorum", ID: id, Lease: lease, Log: slog.New(slog.DiscardHandler),
			Connect: func(context.Context) (*clientv3.Client, error) {
				return clientv3.New(clientv3.Config{Endpoints: []string{"http://" + p.Addr()}, DialTimeout: 5 * time.Second, DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 3 * time.Second, Logger: zap.NewNop()})
			}})
		s := New(Options{Elector: elector, AtOnce: atOnce, Classify: classify, Events: events})
		ctx, cancel := context.WithCancel(b.Context())
		done := make(chan struct{})
		go func() { defer close(done); s.Run(ctx, all) }()
		return replica{func() { cancel(); <-done }, p, elector}
	}
	began := time.Now()
	replicas := []replica{begin("a"), begin("b"), begin("c")}
	settled := began.Truncate(every).Add(every)
	time.Sleep(time.Until(settled.Add(-5 * time.Second)))
	runtime.GC()
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	goroutines := runtime.NumGoroutine()
	before := counters(b, etcd.Endpoints()[0])
	time.Sleep(time.Until(settled.Add(every)))
	after := counters(b, etcd.Endpoints()[0])
	// Lost in the middle of its backups, and its lease not given back.
	time.Sleep(5 * time.Second)
	replicas[0].proxy.Set(etcdtest.Fault{Stall: true})
	lost := time.Now()
	replicas[0].stop()
	end := settled.Add(time.Duration(rounds) * every)
	time.Sleep(time.Until(end.Add(every / 2)))
	for _, r := range replicas[1:] {
		r.stop()
	}

	missed, late, runs, longest := 0, []float64{}, 0, time.Duration(0)
	for _, c := range all {
		mine := events.all[c.Name]
		slices.SortFunc(mine, func(x, y Run) int { return x.Started.Compare(y.Started) })
		for i, r := range mine {
			if i == 0 || r.Started.Before(settled) || r.Started.After(end) {
				continue
			}
			runs++
			gap := r.Started.Sub(mine[i-1].Started) // each cluster has its own moment, so that what is more than the interval is late
			late = append(late, max(0, (gap-every).Seconds()))
			longest = max(longest, gap)
		}
		for from := settled; from.Before(end); from = from.Add(every) {
			if !slices.ContainsFunc(mine, func(r Run) bool { return !r.Started.Before(from) && r.Started.Before(from.Add(every)) }) {
				missed++
			}
		}
	}
	slices.Sort(late)
	overLease := len(late) - slices.IndexFunc(append(late, 1e9), func(s float64) bool { return s > lease.Seconds() })
	minutes := every.Minutes()
	b.ReportMetric(float64(runs), "runs")
	b.ReportMetric(float64(missed), "missed")
	b.ReportMetric(float64(max(overLease, 0)), "later-than-lease")
	b.ReportMetric(late[len(late)/2], "s-late-p50")
	b.ReportMetric(late[len(late)*99/100], "s-late-p99")
	b.ReportMetric(late[len(late)-1], "s-late-max")
	b.ReportMetric(float64(goroutines)/3, "goroutines/replica")
	b.ReportMetric(float64(mem.HeapInuse+mem.StackInuse)/3/(1<<20), "MiB/replica")
	b.ReportMetric((after["grpc_server_handled_total"]-before["grpc_server_handled_total"])/minutes, "etcd-calls/min")
	b.ReportMetric((after["grpc_server_msg_received_total"]-before["grpc_server_msg_received_total"])/minutes, "etcd-messages/min")
	b.ReportMetric((after["etcd_server_proposals_applied_total"]-before["etcd_server_proposals_applied_total"])/minutes, "etcd-writes/min")
	b.ReportMetric((after["etcd_network_client_grpc_received_bytes_total"]-before["etcd_network_client_grpc_received_bytes_total"])/minutes, "etcd-bytes/min")
	b.Logf("a replica was lost %s into a round; the longest time between two runs of a cluster was %s; to elect all at the start took %.0f calls", lost.Sub(settled.Add(every)).Round(time.Second), longest.Round(time.Second), before["grpc_server_handled_total"])
}

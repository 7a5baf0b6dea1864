package main

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/requorum/requorum/backup"
	"github.com/requorum/requorum/internal/config"
	"github.com/requorum/requorum/internal/health"
	"github.com/requorum/requorum/internal/metrics"
	people "github.com/requorum/requorum/internal/notify"
	"github.com/requorum/requorum/internal/service"
	"github.com/requorum/requorum/storage"
)

// telling passes on what happens in serve: to Prometheus and to people. It implements [service.Events].
type telling struct {
	metrics *metrics.Metrics
	people  *people.Notifier

	listeners listeners // of the configuration in use; one goroutine reloads

	mu    sync.Mutex
	asked map[string]config.Cluster // by name, for what they ask for
}

func newTelling(a *app, cfg *config.Config) (*telling, error) {
	t := &telling{metrics: metrics.New(version, thisVersion().Commit)}
	var err error
	if t.listeners, err = listening(cfg, listeners{}); err != nil {
		return nil, err
	}
	t.people = people.New(people.Options{Audience: t.listeners.Audience, Host: hostname(), Sent: t.metrics.Notified, Log: a.log()})
	t.configure(cfg)
	t.metrics.Reloaded(true, time.Now())
	return t, nil
}

// run tells until ctx ends, and what was still to be told before it returns.
func (t *telling) run(ctx context.Context) { t.people.Run(ctx) }

// listen tells others from now on.
func (t *telling) listen(l listeners) {
	t.listeners = l
	t.people.Replace(l.Audience)
}

// configure takes what the configuration asks for.
func (t *telling) configure(cfg *config.Config) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.asked = map[string]config.Cluster{}
	for _, cl := range cfg.Sorted() {
		t.asked[cl.Name] = *cl
	}
}

// objectives shows what is asked for of a cluster.
func (t *telling) objectives(cluster string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if cl, ok := t.asked[cluster]; ok {
		o := cl.Objectives
		t.metrics.Configured(cluster, metrics.Objectives{RPO: time.Duration(o.RPO), RTO: time.Duration(o.RTO), DrillAge: time.Duration(o.DrillAge)}, int64(cl.Thresholds.Quota))
	}
}

func (t *telling) handler() http.Handler                            { return t.metrics.Handler() }
func (t *telling) store(name string, s storage.Store) storage.Store { return t.metrics.Store(name, s) }
func (t *telling) reloaded(ok bool)                                 { t.metrics.Reloaded(ok, time.Now()) }
func (t *telling) observed(cluster string, o health.Observation)    { t.metrics.Observed(cluster, o) }

// expired passes on what became of the backups in each store.
func (t *telling) expired(cluster string, e backup.Expiry) {
	by := map[string]metrics.Retention{}
	for _, v := range e.Verdicts {
		r := by[v.Store]
		switch {
		case v.Deleted:
			r.Deleted++
		case v.Locked:
			r.Locked++
		case v.Err != nil:
			r.Failed++
		default:
			r.Kept++
		}
		by[v.Store] = r
	}
	t.metrics.Expired(cluster, by)
}

// RunStarted implements [service.Events].
func (t *telling) RunStarted(r service.Run) { t.metrics.RunStarted(r.Cluster, string(r.Kind)) }

// RunEnded implements [service.Events].
func (t *telling) RunEnded(r service.Run, res service.Result) {
	t.metrics.RunEnded(r.Cluster, string(r.Kind), metrics.Run{Outcome: string(res.Outcome), Reason: string(res.Reason), Started: r.Started, Ended: res.Ended})
	if res.Backup != "" { // also when it did not reach every store, which is told apart
		t.people.Beat(r.Cluster)
		t.metrics.BackedUp(r.Cluster, metrics.Backup{Bytes: res.Bytes, Keys: res.Keys, Seconds: res.Seconds})
	}
	if res.News != "" {
		t.people.News(people.News{Cluster: r.Cluster, Name: string(r.Kind), What: res.News, Time: res.Ended.UTC()})
	}
}

// StateChanged implements [service.Events].
func (t *telling) StateChanged(s service.State) {
	if s.Role == "" || s.Role == service.Follower {
		// Another replica shows what the cluster is like; two would contradict each other.
		t.metrics.Forget(s.Cluster)
		t.people.Forget(s.Cluster)
	}
	if s.Role == "" {
		return
	}
	next := map[string]time.Time{}
	for kind, at := range s.Next {
		next[string(kind)] = at
	}
	if s.Role != service.Follower {
		t.objectives(s.Cluster)
	}
	t.metrics.State(s.Cluster, string(s.Role), s.Held, next)
	if s.Stored == nil {
		return
	}
	if d := s.Stored.Drill; d != nil {
		t.metrics.Drilled(s.Cluster, metrics.Drill{Time: d.Time, RPO: d.RPO, RTO: d.RTO})
	}
	found := health.Stored{Snapshots: s.Stored.Backups}
	m := metrics.Stored{LastVerified: found.LastVerified(), Backups: map[string]int{}, Reachable: map[string]bool{}}
	if newest, ok := found.Newest(); ok {
		m.Last, m.LastBytes = newest.Time, newest.StoredBytes
	}
	for _, b := range s.Stored.Backups {
		if b.Failed() {
			m.Failed++
		}
		for _, store := range b.Stores {
			m.Backups[store]++
		}
	}
	for store, err := range s.Stored.StoreErr {
		m.Reachable[store] = err == nil
		if err == nil {
			m.Backups[store] += 0 // an empty one is known to be empty
		}
	}
	t.metrics.Listed(s.Cluster, m)
}

// Alerted implements [service.Events].
func (t *telling) Alerted(a service.Alert) {
	t.metrics.Problem(a.Cluster, a.Name, health.Severity(a.Severity), a.Over)
	if a.Over {
		t.people.Over(a.Cluster, a.Name)
		return
	}
	t.people.Problem(people.Problem{Cluster: a.Cluster, Name: a.Name, Severity: string(a.Severity), What: a.What, Advice: a.Advice, Since: a.Since,
		Happens: strings.HasSuffix(a.Name, "_failed")})
}

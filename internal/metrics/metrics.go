// Package metrics shows what the service does and finds as Prometheus metrics, on a registry of its own.
//
// It is told plain values and keeps the last of each; a scrape reads them. What is not known has no series, rather than a zero,
// and what the configuration no longer has loses its series at once. Labels come from closed sets: the
// configuration's names and endpoints, and the words that docs/metrics.md lists. All methods may be called at once.
package metrics

import (
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/requorum/requorum/internal/health"
)

// Metrics holds everything that is exposed.
type Metrics struct {
	*definitions
	registry        *prometheus.Registry
	version, commit string

	mu       sync.Mutex
	known    map[string]*state
	reloaded time.Time
	refused  bool
	notified map[[2]string]float64
}

// state is what is known of one cluster.
type state struct {
	runs     map[[2]string]float64 // kind, outcome
	failures map[[2]string]float64 // kind, reason
	kinds    map[string]kind
	next     map[string]time.Time

	stored    *Stored
	backup    *Backup
	drill     Drill
	asked     Objectives
	retention map[string]Retention // by store
	role      string
	held      *bool

	observation *health.Observation
	quota       int64
	leader      string
	changes     float64
	problems    map[string]health.Severity
}

// kind is what is known of one kind of runs.
type kind struct {
	ended           bool
	failing         bool
	success         time.Time
	seconds, active float64
}

// New has a registry with the metrics of the Go runtime and the process beside its own.
func New(version, commit string) *Metrics {
	m := &Metrics{definitions: define(), registry: prometheus.NewRegistry(), version: version, commit: commit,
		known: map[string]*state{}, notified: map[[2]string]float64{}}
	m.registry.MustRegister(m, m.operations, m.bytes, m.seconds, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Handler serves them to Prometheus.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}

// of returns a cluster's state and locks; the caller unlocks.
func (m *Metrics) of(name string) *state {
	m.mu.Lock()
	c := m.known[name]
	if c == nil {
		c = &state{runs: map[[2]string]float64{}, failures: map[[2]string]float64{}, kinds: map[string]kind{}, retention: map[string]Retention{}, problems: map[string]health.Severity{}}
		m.known[name] = c
	}
	return c
}

// Forget drops a cluster that the configuration no longer has.
func (m *Metrics) Forget(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.known, name)
}

// Reloaded notes that a configuration was read at that time: it is in use, or was refused.
func (m *Metrics) Reloaded(ok bool, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refused = !ok
	if ok {
		m.reloaded = at
	}
}

// Notified counts a notification that a kind of receiver took, or did not.
func (m *Metrics) Notified(receiver string, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	outcome := "ok"
	if !ok {
		outcome = "failed"
	}
	m.notified[[2]string{receiver, outcome}]++
}

// RunStarted counts a run that is under way until RunEnded.
func (m *Metrics) RunStarted(cluster, of string) {
	c := m.of(cluster)
	defer m.mu.Unlock()
	k := c.kinds[of]
	k.active++
	c.kinds[of] = k
}

// A Run is how one ended.
type Run struct {
	Outcome string // ok, partly, failed, skipped, stopped
	Reason  string // of a closed set; "" when ok
	Started time.Time
	Ended   time.Time
}

// RunEnded counts a run that has ended. Skipped and stopped ones say nothing about whether runs succeed.
func (m *Metrics) RunEnded(cluster, of string, r Run) {
	c := m.of(cluster)
	defer m.mu.Unlock()
	k := c.kinds[of]
	k.active = max(0, k.active-1)
	c.runs[[2]string{of, r.Outcome}]++
	if r.Reason != "" {
		c.failures[[2]string{of, r.Reason}]++
	}
	switch r.Outcome {
	case "ok", "partly":
		k.ended, k.failing, k.success, k.seconds = true, false, r.Ended, r.Ended.Sub(r.Started).Seconds()
	case "failed":
		k.ended, k.failing, k.seconds = true, true, r.Ended.Sub(r.Started).Seconds()
	}
	c.kinds[of] = k
}

// A Backup is one that this replica took.
type Backup struct {
	Bytes, Keys int64
	Seconds     map[string]float64 // by stage
}

// BackedUp notes what a backup held and how long its stages took. A follower, which takes one on demand, does not show it: it would go on showing it
// when the leader has taken others.
func (m *Metrics) BackedUp(cluster string, b Backup) {
	c := m.of(cluster)
	defer m.mu.Unlock()
	if c.role == "follower" {
		return
	}
	b.Seconds = maps.Clone(b.Seconds)
	c.backup = &b
}

// Stored sums up what the stores hold.
type Stored struct {
	Last         time.Time // the newest proven backup; zero: none
	LastBytes    int64     // of it, in one store
	LastVerified time.Time // zero: never
	Failed       int       // backups whose newest verdict is failed
	Backups      map[string]int
	Reachable    map[string]bool // by store, whether it could be listed
}

// Listed notes what the stores hold.
func (m *Metrics) Listed(cluster string, s Stored) {
	c := m.of(cluster)
	defer m.mu.Unlock()
	s.Backups, s.Reachable = maps.Clone(s.Backups), maps.Clone(s.Reachable)
	c.stored = &s
}

// A Drill is a rehearsed restore that succeeded.
type Drill struct {
	Time     time.Time
	RPO, RTO time.Duration // as measured
}

// Drilled notes the last drill.
func (m *Metrics) Drilled(cluster string, d Drill) {
	c := m.of(cluster)
	defer m.mu.Unlock()
	c.drill = d
}

// Objectives are what the configuration asks for; a zero one is not asked for.
type Objectives struct{ RPO, RTO, DrillAge time.Duration }

// Configured notes what the configuration says of a cluster: its objectives, and the quota of servers that do not tell theirs
// (bytes; 0: unknown).
func (m *Metrics) Configured(cluster string, o Objectives, quota int64) {
	c := m.of(cluster)
	defer m.mu.Unlock()
	c.asked, c.quota = o, quota
}

// Retention is what became of the backups in one store.
type Retention struct{ Kept, Deleted, Locked, Failed int }

// Expired notes the last expiry in each store.
func (m *Metrics) Expired(cluster string, byStore map[string]Retention) {
	c := m.of(cluster)
	defer m.mu.Unlock()
	c.retention = maps.Clone(byStore)
}

// State notes the replica's role (leader, follower, orphan), whether a restore is under way, and when each kind of run is due.
func (m *Metrics) State(cluster, role string, held bool, next map[string]time.Time) {
	c := m.of(cluster)
	defer m.mu.Unlock()
	c.role, c.held, c.next = role, &held, maps.Clone(next)
}

// Observed notes what the last look at a cluster found.
func (m *Metrics) Observed(cluster string, o health.Observation) {
	c := m.of(cluster)
	defer m.mu.Unlock()
	if o.LeaderID != "" {
		if c.leader != "" && c.leader != o.LeaderID {
			c.changes++
		}
		c.leader = o.LeaderID
	}
	c.observation = &o
}

// Problem notes that a problem stands with that severity, or no longer.
func (m *Metrics) Problem(cluster, name string, severity health.Severity, over bool) {
	c := m.of(cluster)
	defer m.mu.Unlock()
	if over {
		delete(c.problems, name)
		return
	}
	c.problems[name] = severity
}

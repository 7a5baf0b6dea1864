package metrics

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/requorum/requorum/internal/health"
)

// Describe implements prometheus.Collector: it names nothing, since series come and go with what is known.
func (m *Metrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(to chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := emitter{m.definitions, to}
	e.gauge(m.build, 1, m.version, m.commit, runtime.Version())
	configured := 0
	for name := range m.known {
		if name != "" { // which is the service itself
			configured++
		}
	}
	e.gauge(m.clusters, float64(configured))
	if !m.reloaded.IsZero() || m.refused {
		e.gauge(m.reloadOK, truth(!m.refused))
		e.moment(m.reloadAt, m.reloaded)
	}
	for k, n := range m.notified {
		e.counter(m.notifications, n, k[0], k[1])
	}
	for name, c := range m.known {
		e.backups(name, c)
		e.runs(name, c)
		e.cluster(name, c)
	}
}

type emitter struct {
	*definitions
	to chan<- prometheus.Metric
}

func (e emitter) gauge(d *prometheus.Desc, value float64, labels ...string) {
	e.to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
}

func (e emitter) counter(d *prometheus.Desc, value float64, labels ...string) {
	e.to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, value, labels...)
}

// moment is a time in seconds since 1970; no series for the zero time.
func (e emitter) moment(d *prometheus.Desc, t time.Time, labels ...string) {
	if !t.IsZero() {
		e.gauge(d, float64(t.UnixMilli())/1e3, labels...)
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (e emitter) backups(name string, c *state) {
	if s := c.stored; s != nil {
		e.moment(e.lastTime, s.Last, name)
		if !s.Last.IsZero() {
			e.gauge(e.lastStored, float64(s.LastBytes), name)
		}
		e.gauge(e.bad, float64(s.Failed), name)
		e.moment(e.verified, s.LastVerified, name)
		for store, n := range s.Backups {
			e.gauge(e.held, float64(n), name, store)
		}
		for store, ok := range s.Reachable {
			e.gauge(e.reachable, truth(ok), name, store)
		}
	}
	if b := c.backup; b != nil {
		e.gauge(e.lastDatabase, float64(b.Bytes), name)
		e.gauge(e.lastKeys, float64(b.Keys), name)
		for stage, s := range b.Seconds {
			e.gauge(e.stage, s, name, stage)
		}
	}
	if d := c.drill; !d.Time.IsZero() {
		e.moment(e.drilled, d.Time, name)
		e.gauge(e.drillRPO, d.RPO.Seconds(), name)
		e.gauge(e.drillRTO, d.RTO.Seconds(), name)
	}
	for word, d := range map[string]time.Duration{"rpo": c.asked.RPO, "rto": c.asked.RTO, "drill_age": c.asked.DrillAge} {
		if d > 0 {
			e.gauge(e.objective, d.Seconds(), name, word)
		}
	}
	for store, r := range c.retention {
		for result, n := range map[string]int{"kept": r.Kept, "deleted": r.Deleted, "locked": r.Locked, "failed": r.Failed} {
			e.gauge(e.retention, float64(n), name, store, result)
		}
	}
}

func (e emitter) runs(name string, c *state) {
	for k, n := range c.runs {
		e.counter(e.definitions.runs, n, name, k[0], k[1])
	}
	for k, n := range c.failures {
		e.counter(e.failures, n, name, k[0], k[1])
	}
	for of, k := range c.kinds {
		e.gauge(e.active, k.active, name, of)
		if k.ended {
			e.gauge(e.failing, truth(k.failing), name, of)
			e.gauge(e.duration, k.seconds, name, of)
		}
		e.moment(e.success, k.success, name, of)
	}
	for of, t := range c.next {
		e.moment(e.next, t, name, of)
	}
	if c.role != "" {
		for _, role := range []string{"leader", "follower", "orphan"} {
			e.gauge(e.role, truth(c.role == role), name, role)
		}
	}
	if c.held != nil {
		e.gauge(e.hold, truth(*c.held), name)
	}
	for problem, severity := range c.problems {
		e.gauge(e.problem, 1, name, problem, string(severity))
	}
}

func (e emitter) cluster(name string, c *state) {
	o := c.observation
	if o == nil {
		return
	}
	e.moment(e.observed, o.Time, name)
	e.gauge(e.voters, float64(o.Voters), name)
	e.gauge(e.healthy, float64(o.Healthy), name)
	if margin, known := o.Margin(); known {
		e.gauge(e.margin, float64(margin), name)
	}
	e.gauge(e.leader, truth(o.LeaderID != ""), name)
	e.counter(e.changes, c.changes, name)
	e.moment(e.ownCertificate, o.ClientCertificate, name)
	if o.Answered() {
		e.gauge(e.revision, float64(o.Revision), name)
		e.gauge(e.term, float64(o.RaftTerm), name)
		for _, kind := range []string{"NOSPACE", "CORRUPT"} {
			raised := false
			for _, a := range o.Alarms {
				raised = raised || a.Type == kind
			}
			e.gauge(e.alarm, truth(raised), name, kind)
		}
	}
	for _, m := range o.Members {
		e.member(name, m, c.quota)
	}
}

func (e emitter) member(name string, m health.Member, quota int64) {
	e.gauge(e.memberHealthy, truth(m.Healthy), name, m.Endpoint)
	e.moment(e.memberCertificate, m.Certificate, name, m.Endpoint)
	if m.SkewSeconds != nil {
		e.gauge(e.memberSkew, *m.SkewSeconds, name, m.Endpoint)
	}
	if !m.Answered {
		return
	}
	e.gauge(e.memberBytes, float64(m.DBBytes), name, m.Endpoint)
	e.gauge(e.memberUsed, float64(m.InUseBytes), name, m.Endpoint)
	if m.QuotaBytes > 0 {
		quota = m.QuotaBytes
	}
	if quota > 0 {
		e.gauge(e.memberQuota, float64(quota), name, m.Endpoint)
	}
	e.gauge(e.memberLag, float64(m.Lag), name, m.Endpoint)
}

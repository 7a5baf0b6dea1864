package main

import (
	"context"
	"encoding/json"
	"time"

	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/internal/health"
	"github.com/requorum/requorum/internal/service"
	"github.com/requorum/requorum/storage/catalog"
)

// lookEvery is how often clocks and certificates are looked at, which costs a connection of its own to each member.
const lookEvery = 10 * time.Minute

// watcher observes one cluster for serve, by the rules of check and with a memory.
type watcher struct {
	name    string
	client  *cluster.Client
	tracker *health.Tracker
	look    health.Look
	tell    *telling
}

func (t *target) watch(tell *telling) (service.Watcher, func(), error) {
	client, err := t.dial()
	if err != nil {
		return nil, nil, err
	}
	w := &watcher{name: t.cluster.Name, client: client, tracker: health.NewTracker(t.cluster.Name, t.thresholds()), tell: tell}
	return w, func() { _ = client.Close() }, nil
}

// Observe implements [service.Watcher].
func (w *watcher) Observe(ctx context.Context) (service.Observation, error) {
	now := time.Now()
	if now.Sub(w.look.At) >= lookEvery {
		w.look = health.TakeLook(ctx, w.client, now)
	}
	o, err := health.Observe(ctx, w.client, w.look, now)
	if err != nil {
		return service.Observation{}, err
	}
	out := service.Observation{Problems: problems(w.tracker.Add(o)), Tell: func() { w.tell.observed(w.name, o) }}
	if o.Answered() && len(o.ClusterIDs) == 1 { // endpoints of several clusters have no common history
		out.Seen = &catalog.Seen{ClusterID: o.ClusterIDs[0], Revision: o.Revision, RaftTerm: o.RaftTerm, Time: now.UTC()}
	}
	out.Detail, err = json.Marshal(o)
	return out, err
}

// problems are those of health as the service tells them, one for each name.
func problems(found []health.Problem) []service.Problem {
	var all []service.Problem
	for _, p := range health.ByName(found) {
		all = append(all, service.Problem{Name: p.Name, Severity: service.Severity(p.Severity), What: p.What, Advice: p.Advice})
	}
	return all
}

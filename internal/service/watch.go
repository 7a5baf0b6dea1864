package service

import (
	"context"
	"encoding/json"
	"errors"
	"hash/fnv"
	"sync"
	"time"

	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/repository"
)

const (
	// recordEvery is how often the highest revision seen is recorded in the stores: a restore must go beyond it, and measures
	// by it how much is lost.
	recordEvery = time.Hour
	// recordKind is the kind of those records.
	recordKind = "watch"
	// accountEvery is how often the stores are listed though nothing ran.
	accountEvery = 10 * time.Minute
	// smallTimeout bounds small requests to stores.
	smallTimeout = time.Minute
)

// watch observes the cluster until stop is closed or ctx ends.
func (u *unit) watch(ctx context.Context, stop <-chan struct{}, c Cluster, term int) {
	if c.Watch == nil {
		return
	}
	const source = "watch"
	watcher, closeWatcher, err := c.Watch()
	for err != nil { // a certificate that cannot be read, say, which may be there the next time
		u.in(term, func() {
			u.s.alerts.set(c.Name, source, Problem{Name: "access", Severity: Unknown, What: "cluster " + c.Name + " cannot be watched: " + err.Error()})
		})
		select {
		case <-ctx.Done():
			return
		case <-stop:
			return
		case <-time.After(c.Interval):
		}
		watcher, closeWatcher, err = c.Watch()
	}
	defer closeWatcher()
	recorded := u.lastWatched(ctx, c)
	var highest *catalog.Seen
	var records sync.WaitGroup // written beside the watching, which must not wait for a store that hangs
	defer records.Wait()
	// The first look is at once, the second at a moment of the cluster's own, so that many clusters are not asked together.
	timer := time.NewTimer(c.Interval/2 + spread(c.Name, c.Interval/2))
	defer timer.Stop()
	for {
		look, cancel := context.WithTimeout(ctx, c.Interval)
		o, err := watcher.Observe(look)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			u.s.o.Log.Warn("the cluster could not be observed", "cluster", c.Name, "error", err)
		default:
			u.in(term, func() {
				u.s.alerts.set(c.Name, source, o.Problems...)
				u.observed(o.Detail)
				if o.Tell != nil {
					o.Tell()
				}
			})
			if o.Seen != nil && (highest == nil || o.Seen.Revision >= highest.Revision || o.Seen.ClusterID != highest.ClusterID) {
				highest = o.Seen
			}
		}
		if now := u.s.o.Now(); highest != nil && now.Sub(recorded) >= recordEvery {
			recorded = now // also if it fails: the next hour tries again
			seen := *highest
			records.Go(func() { u.record(ctx, c, seen, now) })
			highest = nil
		}
		select {
		case <-ctx.Done():
			return
		case <-stop:
			return
		case <-timer.C:
			timer.Reset(c.Interval)
		}
	}
}

// spread is a part of limit, always the same for one name.
func spread(name string, limit time.Duration) time.Duration {
	h := fnv.New64a()
	h.Write([]byte(name))
	return time.Duration(h.Sum64() % uint64(limit))
}

func (u *unit) observed(detail json.RawMessage) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.detail = detail
}

// lastWatched is when this was recorded last, by any replica.
func (u *unit) lastWatched(ctx context.Context, c Cluster) time.Time {
	ctx, cancel := context.WithTimeout(ctx, smallTimeout)
	defer cancel()
	last, err := u.s.lastRecord(ctx, c, recordKind, u.s.o.Now().Add(-recordEvery))
	if err != nil && ctx.Err() == nil {
		u.s.o.Log.Warn("when the cluster was last recorded is not known", "cluster", c.Name, "error", err)
	}
	return last
}

// record leaves the highest that was seen in the stores.
func (u *unit) record(ctx context.Context, c Cluster, seen catalog.Seen, now time.Time) {
	ctx, cancel := context.WithTimeout(ctx, smallTimeout)
	defer cancel()
	log := u.s.o.Log.With("cluster", c.Name)
	if line, opens, _, err := c.Repository.Continue(ctx, seen); err == nil && !opens {
		seen.Line = line.Line
	}
	run := catalog.Run{ID: catalog.NewID(catalog.KindRun), Kind: recordKind, Outcome: "ok", Cluster: c.Name, Host: u.s.o.Host, Version: u.s.o.Version,
		Started: now.UTC(), Ended: now.UTC(), Seen: &seen}
	if err := c.Repository.Record(ctx, run); err != nil {
		log.Warn("the highest revision seen is not recorded in every store", "revision", seen.Revision, "error", err)
		return
	}
	log.Debug("the highest revision seen is recorded", "revision", seen.Revision, "run", run.ID)
}

// account lists the stores now, whenever it is asked to, and from time to time.
func (u *unit) account(ctx context.Context, stop <-chan struct{}, c Cluster, term int, look <-chan struct{}) {
	tick := time.NewTicker(accountEvery)
	defer tick.Stop()
	recalled := false
	for {
		recalled = recalled || u.recall(ctx, c, term)
		u.list(ctx, c, term)
		select {
		case <-ctx.Done():
			return
		case <-stop:
			return
		case <-look:
		case <-tick.C:
		}
	}
}

func (u *unit) list(ctx context.Context, c Cluster, term int) {
	leave, err := u.s.small.Enter(ctx, "listings")
	if err != nil {
		return
	}
	defer leave()
	list, cancel := context.WithTimeout(ctx, smallTimeout)
	defer cancel()
	snaps, err := c.Repository.Snapshots(list)
	holds, holdsErr := c.Repository.Holds(list)
	var drill *LastDrill
	var drillErr error
	if c.Drilled != nil {
		drill, drillErr = c.Drilled(list)
	}
	if ctx.Err() != nil {
		return
	}
	stored := &Stored{At: u.s.o.Now(), Backups: snaps, StoreErr: map[string]error{}, Err: err, Drill: drill, DrillErr: drillErr}
	for _, name := range c.Repository.Stores() {
		stored.StoreErr[name] = nil
	}
	for _, e := range repository.StoreErrors(errors.Join(err, holdsErr)) {
		stored.StoreErr[e.Store] = e.Err
	}
	u.in(term, func() {
		if c.Judge != nil {
			u.s.alerts.set(c.Name, "stored", c.Judge(stored.At, *stored, holds, holdsErr)...)
		}
		u.update(func(s *State) { s.Stored, s.Held = stored, len(holds) > 0 })
	})
}

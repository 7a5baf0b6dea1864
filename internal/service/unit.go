package service

import (
	"context"
	"encoding/json"
	"maps"
	"sync"
	"time"

	"github.com/requorum/requorum/schedules"
)

// unit is one cluster in the service, through all its configurations.
type unit struct {
	s    *Service
	name string
	stop chan struct{} // closed when nothing more is to be begun

	mu      sync.Mutex
	cluster Cluster
	changed chan struct{} // closed when cluster is another one
	state   State
	doubts  map[string]doubt // by their words
	detail  json.RawMessage  // of the newest observation
	retired bool
	running sync.WaitGroup

	// What is told of the cluster is told in a term: afterwards another replica says what holds, and two would contradict each other.
	terms  sync.RWMutex
	begun  int // terms
	active int // the number of the one that lasts, 0 for none
}

func newUnit(s *Service, c Cluster) *unit {
	return &unit{s: s, name: c.Name, stop: make(chan struct{}), cluster: c, changed: make(chan struct{}), doubts: map[string]doubt{},
		state: State{Cluster: c.Name, Role: Follower, Next: map[Kind]time.Time{}}}
}

func (u *unit) now() (Cluster, <-chan struct{}) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.cluster, u.changed
}

// replace brings in another configuration; the same one changes nothing.
func (u *unit) replace(c Cluster) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.cluster.Settings == c.Settings {
		return
	}
	u.s.o.Log.Info("the cluster has a new configuration", "cluster", u.name)
	u.cluster = c
	close(u.changed)
	u.changed = make(chan struct{})
}

// retire begins nothing more.
func (u *unit) retire() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.retired {
		u.retired = true
		close(u.stop)
	}
}

// live works for the cluster until ctx ends, or until the unit is retired and its runs have come to their end.
func (u *unit) live(ctx context.Context, cancel context.CancelCauseFunc) {
	u.update(func(*State) {})
	var ending sync.WaitGroup
	ending.Go(func() {
		select {
		case <-ctx.Done():
			return
		case <-u.stop:
		}
		u.running.Wait() // all of them see stop, so no more are begun
		cancel(nil)
	})
	if u.s.o.Elector == nil {
		u.work(ctx, schedules.Term{})
	} else {
		u.s.o.Elector.Follow(ctx, u.name, u.work)
	}
	cancel(nil)
	ending.Wait()
	u.s.alerts.forget(u.name)
	u.update(func(s *State) { s.Role = "" })
}

// work is one term: configuration after configuration, until the context ends, another is to take over, or the unit is retired. It returns
// when its runs have ended.
func (u *unit) work(ctx context.Context, term schedules.Term) {
	if !u.enter() {
		return
	}
	defer u.running.Done()
	number := u.begin(term)
	defer u.finish(number)
	var generations sync.WaitGroup
	defer generations.Wait()
	over := false
	for !over {
		cluster, changed := u.now()
		stop := make(chan struct{})
		generations.Go(func() { u.generation(ctx, stop, cluster, term.Orphan, number) })
		select {
		case <-changed:
		case <-term.Yield:
			over = true
		case <-u.stop:
			over = true
		case <-ctx.Done():
			over = true
		}
		close(stop)
	}
	u.finish(number) // not the one any more, though runs may be ending
}

// enter counts a term unless the unit is retired.
func (u *unit) enter() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.retired {
		return false
	}
	u.running.Add(1)
	return true
}

func (u *unit) begin(term schedules.Term) (number int) {
	role := Leader
	if term.Orphan {
		role = Orphan
	}
	u.terms.Lock()
	defer u.terms.Unlock()
	u.begun++
	u.active = u.begun
	u.update(func(s *State) { s.Role = role })
	u.s.o.Log.Info("working for the cluster", "cluster", u.name, "role", string(role))
	return u.active
}

// in does what is to be told if that term lasts, and nothing otherwise; any term with 0.
func (u *unit) in(term int, tell func()) {
	u.terms.RLock()
	defer u.terms.RUnlock()
	if u.active != 0 && (term == 0 || term == u.active) {
		tell()
	}
}

// finish ends a term, if no newer one has begun.
func (u *unit) finish(number int) {
	u.terms.Lock()
	defer u.terms.Unlock()
	if u.active != number {
		return
	}
	u.active = 0
	u.observed(nil)
	u.mu.Lock()
	clear(u.doubts)
	u.mu.Unlock()
	u.s.alerts.forget(u.name)
	u.update(func(s *State) { *s = State{Cluster: u.name, Role: Follower, Next: map[Kind]time.Time{}} })
}

// update changes the state and tells.
func (u *unit) update(change func(*State)) {
	u.mu.Lock()
	change(&u.state)
	state := u.state
	state.Next = maps.Clone(state.Next)
	u.mu.Unlock()
	u.s.events().StateChanged(state)
}

func (u *unit) current() State {
	u.mu.Lock()
	defer u.mu.Unlock()
	state := u.state
	state.Next = maps.Clone(state.Next)
	return state
}

// generation follows the schedules of one configuration and watches, until stop is closed or ctx ends and its runs have ended.
func (u *unit) generation(ctx context.Context, stop <-chan struct{}, c Cluster, orphan bool, term int) {
	look := make(chan struct{}, 1) // asks for the stores to be looked at
	triggers := map[Kind]chan struct{}{}
	for kind := range c.Jobs {
		triggers[kind] = make(chan struct{}, 1)
	}
	var jobs []schedules.Job
	var missing []Problem
	for _, kind := range Kinds {
		job, ok := c.Jobs[kind]
		if !ok {
			continue
		}
		if job.Work == nil {
			missing = append(missing, Problem{Name: NotSupported, Severity: Warning, What: "the schedule of kind " + string(kind) + " of cluster " + c.Name + " is not run: this version of requorum does not do that by itself",
				Advice: "remove the schedule, or start it by other means"})
			continue
		}
		jobs = append(jobs, u.job(c, kind, job, orphan, term, triggers, look))
	}
	u.in(term, func() {
		u.s.alerts.set(c.Name, "configuration", missing...)
		u.update(func(s *State) { s.Next = map[Kind]time.Time{} })
	})
	var group sync.WaitGroup
	group.Go(func() { u.watch(ctx, stop, c, term) })
	group.Go(func() { u.account(ctx, stop, c, term, look) })
	scheduler := schedules.Scheduler{Gate: u.s.gate, Log: u.s.o.Log, Now: u.s.o.Now}
	scheduler.Run(ctx, stop, jobs)
	group.Wait()
}

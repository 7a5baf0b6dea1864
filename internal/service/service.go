// Package service is what requorum serve does all year: it runs each cluster's schedules where this replica is the one to do so,
// watches the clusters, keeps account of what is wrong, and serves all that over HTTP.
//
// It is told by functions how to do each thing, and tells through [Events] what happens. It knows neither etcd nor prometheus. DESIGN.md beside
// this file has the rules.
package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/requorum/requorum/schedules"
	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/repository"
)

// Work does one run. log names cluster, kind and run; run is the id for the record that it leaves. It must end soon after ctx does,
// with what it had begun undone.
type Work func(ctx context.Context, log *slog.Logger, run string) (Report, error)

// Report is what a run has to say beside its error; see [Result].
type Report struct {
	Backup      string
	Time        time.Time
	Bytes       int64
	StoredBytes int64
	Keys        int64
	Seconds     map[string]float64
	Alerts      []string
	News        string // what people are told once of a run that went well; "" for what is routine
}

// Job is one kind of work of a cluster.
type Job struct {
	Schedule schedules.Schedule // zero: only after others, or on demand
	After    Kind               // also after each run of this kind that succeeded, "" for none
	Record   string             // the kind that its records have in the stores; "" if it leaves none
	Work     Work               // nil: this version cannot do it, and an alert says so
}

// Cluster is what is to be done for one cluster.
type Cluster struct {
	Name     string
	Settings string // changes when anything of the configuration of this cluster does

	Repository *repository.Repository
	Jobs       map[Kind]Job
	Jitter     time.Duration // the most that runs are spread by
	Deadline   time.Duration // of each run

	// Watch opens a watcher, which is closed by the function. nil: the cluster is not watched.
	Watch    func() (Watcher, func(), error)
	Interval time.Duration // between observations

	// Judge says what is wrong with the backups; nil: nothing is.
	Judge func(now time.Time, s Stored, holds []catalog.Hold, holdsErr error) []Problem

	// Drilled returns the newest drill that proved a restore, nil if there was none; a nil function: nobody asks for drills.
	Drilled func(ctx context.Context) (*LastDrill, error)

	// List, Schedules and Check give what the commands of the same names print as JSON.
	List      func(ctx context.Context) (any, error)
	Schedules func(ctx context.Context, next int) (any, error)
	Check     func(ctx context.Context) (any, error)
}

// Elector shares clusters among replicas: *schedules.Elector does.
type Elector interface {
	// Run holds this replica's lease until ctx ends.
	Run(ctx context.Context)
	// Follow calls work when this replica is the one to work for the name, until ctx ends and all work has returned.
	Follow(ctx context.Context, name string, work func(ctx context.Context, t schedules.Term))
	// Stagger is a delay below limit that differs between replicas.
	Stagger(name string, limit time.Duration) time.Duration
	// Connected says whether there is a lease, and how many replicas there are.
	Connected() (lease bool, replicas int)
}

// Options say how to serve.
type Options struct {
	Elector Elector // nil: this is the only replica
	AtOnce  int     // backups at once, and as many runs of other kinds beside them
	Grace   time.Duration

	// Classify says how a run ended that returned this error.
	Classify func(error) (Outcome, Reason)

	Host, Version string // for records
	Events        Events // nil: nobody is told
	Log           *slog.Logger
	Now           func() time.Time
}

// smallAtOnce is how many small requests of each kind are under way at once.
const smallAtOnce = 32

// Service runs. Its methods are safe for concurrent use.
type Service struct {
	o      Options
	gate   *schedules.Gate
	small  *schedules.Gate // for listings and other small requests: a thousand clusters must not ask all at once
	alerts *alerts

	mu       sync.Mutex
	units    map[string]*unit
	grace    time.Duration
	stopping bool
	running  int           // runs under way
	idle     chan struct{} // closed when stopping and nothing runs any more
	beat     time.Time
	group    sync.WaitGroup // units, also those that are on their way out
	parent   context.Context

	begun chan struct{} // closed when schedules are followed
}

// New returns a service that has not begun.
func New(o Options) *Service {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Service{o: o, grace: o.Grace, gate: schedules.NewGate(o.AtOnce), small: schedules.NewGate(smallAtOnce), units: map[string]*unit{}, idle: make(chan struct{}), begun: make(chan struct{})}
	s.alerts = newAlerts(o.Now, func(a Alert) {
		if s.o.Events != nil {
			s.o.Events.Alerted(a)
		}
		level, word := slog.LevelWarn, "problem"
		if a.Over {
			level, word = slog.LevelInfo, "problem is over"
		}
		s.o.Log.Log(context.Background(), level, word, "cluster", a.Cluster, "problem", a.Name, "severity", string(a.Severity), "what", a.What)
	})
	return s
}

// Run serves until ctx ends. Then nothing more is begun, running work gets the grace time to come to its end and is undone after
// it, leases are given back, and Run returns. It is called once.
func (s *Service) Run(ctx context.Context, clusters []Cluster) {
	hard, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	session, endSession := context.WithCancel(context.WithoutCancel(ctx))
	defer endSession()
	var background sync.WaitGroup
	if s.o.Elector != nil {
		background.Go(func() { s.o.Elector.Run(session) })
		background.Go(func() { s.watchElector(ctx) })
	}
	s.mu.Lock()
	s.parent, s.beat = hard, time.Now()
	s.mu.Unlock()
	s.Apply(clusters)
	close(s.begun)
	s.pulse(ctx)

	s.mu.Lock()
	s.stopping = true
	patience := s.grace
	for _, u := range s.units {
		u.retire()
	}
	if s.running == 0 {
		close(s.idle)
	}
	s.mu.Unlock()
	s.o.Log.Info("stopping", "grace", patience)
	grace := time.NewTimer(patience)
	defer grace.Stop()
	select {
	case <-s.idle:
	case <-grace.C:
		s.o.Log.Warn("the grace time is over: what still runs is undone")
	}
	cancel(ErrStopping)
	s.group.Wait()
	endSession()
	background.Wait()
}

// Begun is closed when Run follows the schedules.
func (s *Service) Begun() <-chan struct{} { return s.begun }

// ErrStopping is why runs end when the service does.
var ErrStopping = errors.New("the service stops")

// pulse shows that the service is alive while ctx lasts.
func (s *Service) pulse(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		s.mu.Lock()
		s.beat = time.Now()
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Alive returns an error if the service does not get on: for health checks and watchdogs.
func (s *Service) Alive() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if since := time.Since(s.beat); !s.stopping && since > 30*time.Second {
		return fmt.Errorf("the service has not moved for %s", since.Round(time.Second))
	}
	return nil
}

// Ready returns an error unless schedules are followed, alone, with a lease, or as an orphan.
func (s *Service) Ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.parent == nil:
		return errors.New("the service has not begun")
	case s.stopping:
		return ErrStopping
	}
	return nil
}

// Apply brings in the clusters of a changed configuration. Runs under way go on to their end under the old one, also those of clusters that
// are gone; a changed schedule holds at once.
func (s *Service) Apply(clusters []Cluster) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return
	}
	for name, u := range s.units {
		if !slices.ContainsFunc(clusters, func(c Cluster) bool { return c.Name == name }) {
			delete(s.units, name)
			u.retire()
			s.o.Log.Info("the cluster is not served any more", "cluster", name)
		}
	}
	for _, c := range clusters {
		if u := s.units[c.Name]; u != nil {
			u.replace(c)
			continue
		}
		u := newUnit(s, c)
		s.units[c.Name] = u
		ctx, cancel := context.WithCancelCause(s.parent)
		s.group.Go(func() {
			defer cancel(nil)
			u.live(ctx, cancel)
		})
	}
}

// Limit changes how many backups, and runs of other kinds, there are at once, and how long runs may last when the service stops. What runs goes on.
func (s *Service) Limit(atOnce int, grace time.Duration) {
	s.gate.Limit(atOnce)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.grace = grace
}

// Raise says that something is wrong with the service itself, one problem for each source; [Service.Clear] that it is over.
func (s *Service) Raise(source string, p Problem) { s.alerts.set("", source, p) }

// Clear ends what Raise began.
func (s *Service) Clear(source string) { s.alerts.set("", source) }

// unit is what serves a cluster.
func (s *Service) unit(cluster string) (*unit, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.units[cluster]; u != nil {
		return u, nil
	}
	return nil, fmt.Errorf("%w: %q", ErrNoCluster, cluster)
}

// sorted are all units, by name.
func (s *Service) sorted() []*unit {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*unit
	for _, name := range slices.Sorted(maps.Keys(s.units)) {
		all = append(all, s.units[name])
	}
	return all
}

// begin counts a run, or refuses it because the service stops.
func (s *Service) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	s.running++
	return true
}

func (s *Service) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running--; s.running == 0 && s.stopping {
		close(s.idle)
	}
}

// watchElector raises an alert while there is no lease.
func (s *Service) watchElector(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	missing := 0
	for {
		if lease, _ := s.o.Elector.Connected(); lease {
			missing = 0
			s.Clear("elector")
		} else if missing++; missing == 10 {
			s.Raise("elector", Problem{Name: Coordination, Severity: Critical, What: "the coordination etcd cannot be used: no replica can be sure that it is the only one to work for a cluster",
				Advice: "bring it back; meanwhile each replica works at a delay of its own and leaves out what another has recorded"})
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *Service) events() Events {
	if s.o.Events == nil {
		return deaf{}
	}
	return s.o.Events
}

// deaf is the Events of a service that tells nobody.
type deaf struct{}

func (deaf) RunStarted(Run)       {}
func (deaf) RunEnded(Run, Result) {}
func (deaf) StateChanged(State)   {}
func (deaf) Alerted(Alert)        {}

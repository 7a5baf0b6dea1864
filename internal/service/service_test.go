package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/requorum/requorum/schedules"
	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/memory"
	"github.com/requorum/requorum/storage/repository"
	"github.com/requorum/requorum/storage/storagetest"
)

// journal is an Events that remembers.
type journal struct {
	mu      sync.Mutex
	runs    []string // kind outcome
	started int
	alerts  []string // name, or name over
	states  map[string]State
}

func (j *journal) RunStarted(Run) { j.mu.Lock(); defer j.mu.Unlock(); j.started++ }

func (j *journal) RunEnded(r Run, res Result) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.runs = append(j.runs, string(r.Kind)+" "+string(res.Outcome))
}

func (j *journal) StateChanged(s State) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.states == nil {
		j.states = map[string]State{}
	}
	j.states[s.Cluster] = s
}

func (j *journal) Alerted(a Alert) {
	j.mu.Lock()
	defer j.mu.Unlock()
	text := a.Name
	if a.Over {
		text += " over"
	}
	j.alerts = append(j.alerts, text)
}

func (j *journal) count(run string) (n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, r := range j.runs {
		if r == run {
			n++
		}
	}
	return n
}

func (j *journal) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.runs)
}

func (j *journal) begun() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.started
}

func (j *journal) told() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.alerts, ", ")
}

func (j *journal) state(cluster string) State {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.states[cluster]
}

var (
	errHeld  = errors.New("held")
	errStore = errors.New("store is away")
	errPart  = errors.New("one store is away")
)

func classify(err error) (Outcome, Reason) {
	switch {
	case errors.Is(err, errHeld):
		return Skipped, Held
	case errors.Is(err, errPart):
		return Partly, StoreFailed
	}
	return Failed, StoreFailed
}

func memoryRepository(t testing.TB, cluster string) *repository.Repository {
	t.Helper()
	r, err := repository.New(repository.Options{Cluster: cluster, Stores: []repository.Named{{Name: "main", Store: memory.New(time.Now)}}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func every(t testing.TB, specs ...string) schedules.Schedule {
	t.Helper()
	s, err := schedules.Parse(specs...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// recorded is work that leaves a record as the real one does.
func recorded(repo *repository.Repository, kind string, work func(ctx context.Context) (Report, error)) Work {
	return func(ctx context.Context, _ *slog.Logger, id string) (Report, error) {
		started := time.Now().UTC()
		report, err := work(ctx)
		outcome := "ok"
		if err != nil {
			outcome = "failed"
		}
		if ctx.Err() != nil {
			outcome = "cancelled"
		}
		if e := repo.Record(context.WithoutCancel(ctx), catalog.Run{ID: id, Kind: kind, Outcome: outcome, Cluster: repo.Cluster(), Started: started}); e != nil {
			return report, e
		}
		return report, err
	}
}

func done(context.Context) (Report, error) { return Report{}, nil }

// serve runs a service in the background; stop ends it and waits.
func serve(t *testing.T, o Options, clusters ...Cluster) (s *Service, j *journal, stop func()) {
	t.Helper()
	j = &journal{}
	o.Events, o.Classify = j, classify
	if o.AtOnce == 0 {
		o.AtOnce = 4
	}
	s = New(o)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Run(ctx, clusters)
	}()
	synctest.Wait()
	return s, j, func() {
		cancel()
		<-ended
	}
}

// Retention follows each backup, and copies follow retention. After downtime one run is made up, not one for each that was missed.
func TestChainAndMakingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		repo := memoryRepository(t, "dcs")
		c := Cluster{Name: "dcs", Repository: repo, Deadline: time.Hour, Jobs: map[Kind]Job{
			Snapshot: {Schedule: every(t, "0 * * * *"), Record: "backup", Work: recorded(repo, "backup", done)},
			Expire:   {After: Snapshot, Record: "expire", Work: recorded(repo, "expire", done)},
			Copy:     {After: Expire, Work: func(context.Context, *slog.Logger, string) (Report, error) { return Report{}, nil }},
			Drill:    {Schedule: every(t, "@monthly")},
		}}
		_, j, stop := serve(t, Options{}, c)
		time.Sleep(2*time.Hour + time.Minute)
		if s, e, k := j.count("snapshot ok"), j.count("expire ok"), j.count("copy ok"); s != 3 || e != 3 || k != 3 {
			t.Errorf("%d backups, %d retentions, %d copies in two hours; want the first at once and 3 of each", s, e, k)
		}
		if j.told() != NotSupported {
			t.Errorf("alerts %q, want one about the drill", j.told())
		}
		if next := j.state("dcs").Next[Snapshot]; !next.Equal(time.Date(2000, 1, 1, 3, 0, 0, 0, time.UTC)) {
			t.Errorf("the next backup is announced for %s", next)
		}
		stop()
		if role := j.state("dcs").Role; role != "" {
			t.Errorf("the role after the end is %q", role)
		}
		time.Sleep(5 * time.Hour) // nobody is there
		_, j, stop = serve(t, Options{}, c)
		time.Sleep(30 * time.Minute)
		if n := j.count("snapshot ok"); n != 1 {
			t.Errorf("%d backups after downtime, want one made up", n)
		}
		stop()
		_, j, stop = serve(t, Options{}, c) // at once again: nothing is missing
		time.Sleep(20 * time.Minute)
		if n := j.count("snapshot ok"); n != 0 {
			t.Errorf("%d backups after a quick restart, want none before the next hour", n)
		}
		stop()
	})
}

// A failing run is tried again, told of when it keeps failing, and its recovery is told. Another store's outage does not make it fail.
func TestFailuresAreToldAndTheirEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		repo := memoryRepository(t, "dcs")
		var result atomic.Pointer[error]
		now := func(err error) { result.Store(&err) }
		c := Cluster{Name: "dcs", Repository: repo, Deadline: time.Hour, Jobs: map[Kind]Job{
			Snapshot: {Schedule: every(t, "*/10 * * * *"), Record: "backup", Work: recorded(repo, "backup", func(context.Context) (Report, error) { return Report{}, *result.Load() })}}}
		now(errStore)
		_, j, stop := serve(t, Options{}, c)
		defer stop()
		time.Sleep(9 * time.Second) // two attempts
		if j.told() != "" || j.count("snapshot failed") != 2 {
			t.Errorf("after two attempts: %q, %v", j.told(), j.all())
		}
		time.Sleep(20 * time.Minute)
		if j.told() != "snapshot_failed" {
			t.Errorf("after twenty minutes: %q, want one alert however many attempts failed", j.told())
		}
		now(errPart)
		time.Sleep(10 * time.Minute)
		now(errHeld)
		time.Sleep(10 * time.Minute)
		now(nil)
		time.Sleep(10 * time.Minute)
		if want := "snapshot_failed, snapshot_failed over, snapshot_partly, snapshot_partly over"; j.told() != want {
			t.Errorf("told %q, want %q", j.told(), want)
		}
		if j.count("snapshot skipped") != 1 {
			t.Errorf("runs %v, want one that a restore held up, without a second attempt", j.all())
		}
	})
}

// A backup that exists is told as one, also when its deadline ends while copies and records are made.
func TestABackupThatExistsIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Cluster{Name: "dcs", Repository: memoryRepository(t, "dcs"), Deadline: time.Minute, Jobs: map[Kind]Job{Snapshot: {Schedule: every(t, "@hourly"),
			Work: func(ctx context.Context, _ *slog.Logger, _ string) (Report, error) {
				<-ctx.Done()
				return Report{Backup: "b1"}, fmt.Errorf("%w: %w", errPart, ctx.Err())
			}}}}
		_, j, stop := serve(t, Options{}, c)
		defer stop()
		time.Sleep(2 * time.Minute)
		if !slices.Equal(j.all(), []string{"snapshot partly"}) || j.told() != "snapshot_partly" {
			t.Errorf("runs %v, told %q", j.all(), j.told())
		}
	})
}

// What a backup brought to light stays reported for a day, though the next one is clean, and though another replica leads by then.
func TestSuspiciousBackupsStayReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		repo := memoryRepository(t, "dcs")
		reports := []Report{{Backup: "b1", Alerts: []string{"the key count fell by half"}}, {Backup: "b2"}, {Backup: "b3", Alerts: []string{"the key count fell by half"}}}
		c := Cluster{Name: "dcs", Repository: repo, Jobs: map[Kind]Job{Snapshot: {Schedule: every(t, "0 * * * *"), Record: "backup",
			Work: recorded(repo, "backup", func(context.Context) (r Report, err error) {
				if len(reports) > 0 {
					r, reports = reports[0], reports[1:]
				}
				return r, nil
			})}}}
		s, j, stop := serve(t, Options{}, c)
		time.Sleep(12 * time.Hour)
		if open := s.alerts.list("dcs"); len(open) != 1 || open[0].Name != SuspiciousBackup || !strings.Contains(open[0].What, "b1: the key count fell") || j.told() != SuspiciousBackup {
			t.Errorf("after twelve hours %+v is open, told %q", open, j.told())
		}
		stop()
		s, j, stop = serve(t, Options{}, c)
		defer stop()
		time.Sleep(time.Second)
		if open := s.alerts.list("dcs"); len(open) != 1 || open[0].Name != SuspiciousBackup || !strings.Contains(open[0].What, "b1: the key count fell") {
			t.Errorf("the next leader reports %+v", open)
		}
		time.Sleep(13 * time.Hour) // since the first, and not since the last that showed it
		if j.told() != SuspiciousBackup {
			t.Errorf("a day after the first: %q", j.told())
		}
		time.Sleep(3 * time.Hour)
		if j.told() != SuspiciousBackup+", "+SuspiciousBackup+" over" {
			t.Errorf("a day after the last: %q", j.told())
		}
	})
}

// A reload holds at once and stops no run; the run's kind is not run twice meanwhile.
func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		repo := memoryRepository(t, "dcs")
		var running, most, finished atomic.Int32
		slow := func(ctx context.Context) (Report, error) {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			select {
			case <-ctx.Done():
				return Report{}, ctx.Err()
			case <-time.After(30 * time.Minute):
				finished.Add(1)
				return Report{}, nil
			}
		}
		with := func(settings, cron string) Cluster {
			return Cluster{Name: "dcs", Settings: settings, Repository: repo, Jobs: map[Kind]Job{
				Verify: {Schedule: every(t, cron), Record: "verify", Work: recorded(repo, "verify", slow)}}}
		}
		s, j, stop := serve(t, Options{}, with("1", "0 */6 * * *"))
		time.Sleep(time.Minute)
		s.Apply([]Cluster{with("2", "0 * * * *")})
		synctest.Wait()
		if next := j.state("dcs").Next[Verify]; running.Load() != 1 || next.Hour() != 0 && next.Hour() != 1 {
			t.Errorf("after the reload %d runs, the next planned for %s", running.Load(), next)
		}
		time.Sleep(2*time.Hour + 10*time.Minute)
		if most.Load() != 1 || finished.Load() < 2 {
			t.Errorf("%d runs at once at most, %d finished; want the old run finished and the new schedule followed", most.Load(), finished.Load())
		}
		s.Apply(nil)
		before := finished.Load()
		time.Sleep(3 * time.Hour)
		if len(s.sorted()) != 0 || finished.Load() > before+1 || running.Load() != 0 {
			t.Errorf("a cluster that is gone is still served: %d runs", finished.Load()-before)
		}
		stop()
	})
}

// SIGTERM: what runs may end, within the grace time, and is undone after it.
func TestStopping(t *testing.T) {
	for _, c := range []struct {
		name  string
		takes time.Duration
		after time.Duration
		want  string
		grace time.Duration // after a reload
	}{
		{"a run that ends in time is finished", 20 * time.Second, 20 * time.Second, "snapshot ok", 0},
		{"one that does not is stopped", time.Hour, 30 * time.Second, "snapshot stopped", 0},
		{"after a reload that asks for more patience it is finished", time.Hour, time.Hour, "snapshot ok", 2 * time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				repo := memoryRepository(t, "dcs")
				s, j, stop := serve(t, Options{Grace: 30 * time.Second}, Cluster{Name: "dcs", Repository: repo, Jobs: map[Kind]Job{
					Snapshot: {Schedule: every(t, "@hourly"), Work: func(ctx context.Context, _ *slog.Logger, _ string) (Report, error) {
						select {
						case <-ctx.Done():
							return Report{}, context.Cause(ctx)
						case <-time.After(c.takes):
							return Report{}, nil
						}
					}},
					Expire: {After: Snapshot, Work: func(context.Context, *slog.Logger, string) (Report, error) { return Report{}, nil }}}})
				if c.grace > 0 {
					s.Limit(4, c.grace)
				}
				start := time.Now()
				stop()
				if took := time.Since(start); took != c.after || !slices.Equal(j.all(), []string{c.want}) {
					t.Errorf("stopped after %s with %v, want %s with %s and nothing more", took, j.all(), c.after, c.want)
				}
				if j.told() != "" {
					t.Errorf("stopping raised %q", j.told())
				}
			})
		})
	}
}

// eye is a Watcher of what the test shows it.
type eye struct {
	mu       sync.Mutex
	revision int64
	problems []Problem
}

func (e *eye) Observe(context.Context) (Observation, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.revision++
	return Observation{Seen: &catalog.Seen{ClusterID: "00000000000000aa", Revision: e.revision, RaftTerm: 2, Time: time.Now().UTC()}, Problems: e.problems}, nil
}

// A restore must know the highest revision that the cluster ever showed, so it is recorded each hour, once whoever leads.
func TestWatching(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		repo := memoryRepository(t, "dcs")
		e := &eye{problems: []Problem{{Name: "quorum", Severity: Critical, What: "one more and it is gone"}}}
		var closed atomic.Int32
		c := Cluster{Name: "dcs", Repository: repo, Interval: 15 * time.Second,
			Watch: func() (Watcher, func(), error) { return e, func() { closed.Add(1) }, nil },
			Judge: func(_ time.Time, s Stored, _ []catalog.Hold, _ error) []Problem {
				if len(s.Backups) == 0 {
					return []Problem{{Name: "rpo", Severity: Critical, What: "there is no backup"}}
				}
				return nil
			}}
		_, j, stop := serve(t, Options{}, c)
		time.Sleep(time.Hour + time.Minute)
		e.mu.Lock()
		e.problems = nil
		e.mu.Unlock()
		time.Sleep(time.Hour)
		stop()
		_, _, stop = serve(t, Options{}, c)
		time.Sleep(30 * time.Second)
		stop()
		runs, err := repo.Runs(t.Context(), time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		var revisions []int64
		for _, r := range runs {
			revisions = append(revisions, r.Seen.Revision)
		}
		// 240 looks an hour, the first of them not a whole interval before the second.
		if len(revisions) != 3 || revisions[0] != 1 || revisions[1] < 240 || revisions[1] > 242 || revisions[2]-revisions[1] != 240 {
			t.Errorf("recorded revisions %v, want those of each hour, and none for a quick restart", revisions)
		}
		if told := j.told(); !strings.Contains(told, "quorum") || !strings.HasSuffix(told, "quorum over") || !strings.Contains(told, "rpo") {
			t.Errorf("told %q", told)
		}
		if closed.Load() != 2 {
			t.Errorf("%d watchers were closed, want both", closed.Load())
		}
	})
}

// A cluster that cannot be watched now, since a certificate is away, is watched when it can be.
func TestWatchingBeginsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries atomic.Int32
		_, j, stop := serve(t, Options{}, Cluster{Name: "dcs", Repository: memoryRepository(t, "dcs"), Interval: 15 * time.Second,
			Watch: func() (Watcher, func(), error) {
				if tries.Add(1) <= 3 {
					return nil, nil, errors.New("backup.pem is not there")
				}
				return &eye{problems: []Problem{{Name: "quorum", Severity: Critical, What: "gone"}}}, func() {}, nil
			}})
		defer stop()
		time.Sleep(time.Minute)
		if j.told() != "access, access over, quorum" || tries.Load() != 4 {
			t.Errorf("told %q after %d tries", j.told(), tries.Load())
		}
	})
}

// election is an Elector whose roles the test deals out.
type election struct {
	roles chan schedules.Term
	ctxs  chan context.Context
}

func (e *election) Run(ctx context.Context) { <-ctx.Done() }

func (e *election) Follow(ctx context.Context, _ string, work func(context.Context, schedules.Term)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case term := <-e.roles:
			under := <-e.ctxs
			both, cancel := context.WithCancelCause(ctx)
			context.AfterFunc(under, func() { cancel(context.Cause(under)) })
			wg.Go(func() { work(both, term) })
		}
	}
}

func (e *election) Stagger(string, time.Duration) time.Duration { return time.Minute }
func (e *election) Connected() (bool, int)                      { return true, 3 }

// A follower does nothing; a leader whose lease is lost is stopped in the middle; an orphan leaves out what is recorded.
func TestRoles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		repo := memoryRepository(t, "dcs")
		e := &election{roles: make(chan schedules.Term), ctxs: make(chan context.Context)}
		c := Cluster{Name: "dcs", Repository: repo, Jobs: map[Kind]Job{Snapshot: {Schedule: every(t, "*/10 * * * *"), Record: "backup",
			Work: recorded(repo, "backup", func(ctx context.Context) (Report, error) {
				select {
				case <-ctx.Done():
					return Report{}, ctx.Err()
				case <-time.After(2 * time.Minute):
					return Report{}, nil
				}
			})}}}
		_, j, stop := serve(t, Options{Elector: e}, c)
		defer stop()
		time.Sleep(time.Hour)
		if len(j.all()) != 0 || j.state("dcs").Role != Follower {
			t.Errorf("a follower ran %v as %s", j.all(), j.state("dcs").Role)
		}
		lease, lose := context.WithCancelCause(t.Context())
		e.roles <- schedules.Term{Yield: make(chan struct{})}
		e.ctxs <- lease
		time.Sleep(time.Minute) // in the middle of the run that is made up
		if j.state("dcs").Role != Leader || j.begun() != 1 {
			t.Errorf("role %s, %d runs begun", j.state("dcs").Role, j.begun())
		}
		lose(schedules.ErrLeaseLost)
		synctest.Wait()
		if j.count("snapshot stopped") != 1 || j.state("dcs").Role != Follower {
			t.Errorf("after the lease is lost: %v as %s", j.all(), j.state("dcs").Role)
		}
		time.Sleep(8 * time.Minute)
		another := func() {
			if err := repo.Record(t.Context(), catalog.Run{ID: catalog.NewID(catalog.KindRun), Kind: "backup", Outcome: "ok", Cluster: "dcs", Started: time.Now().UTC()}); err != nil {
				t.Fatal(err)
			}
		}
		another() // 01:09
		yield := make(chan struct{})
		e.roles <- schedules.Term{Orphan: true, Yield: yield}
		e.ctxs <- t.Context()
		time.Sleep(90 * time.Second)
		another() // 01:10:30: before this one's turn at 01:11
		time.Sleep(9 * time.Minute)
		if j.begun() != 1 {
			t.Errorf("the orphan ran what another has recorded: %v", j.all())
		}
		time.Sleep(5 * time.Minute)
		if j.count("snapshot ok") != 1 {
			t.Errorf("the orphan did not run what nobody has recorded: %v", j.all())
		}
		close(yield)
		synctest.Wait()
		if j.state("dcs").Role != Follower {
			t.Errorf("role %s after yielding", j.state("dcs").Role)
		}
	})
}

// What a replica finds out too late, when another leads already, it keeps to itself: two would contradict each other.
func TestNothingIsToldAfterTheTerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := storagetest.Break(memory.New(time.Now), storagetest.Faults{List: func(string, string) error { time.Sleep(10 * time.Second); return nil }})
		repo, err := repository.New(repository.Options{Cluster: "dcs", Stores: []repository.Named{{Name: "main", Store: slow}}})
		if err != nil {
			t.Fatal(err)
		}
		e := &election{roles: make(chan schedules.Term), ctxs: make(chan context.Context)}
		_, j, stop := serve(t, Options{Elector: e}, Cluster{Name: "dcs", Repository: repo,
			Judge: func(time.Time, Stored, []catalog.Hold, error) []Problem {
				return []Problem{{Name: "rpo", Severity: Critical, What: "there is no backup"}}
			}})
		defer stop()
		yield := make(chan struct{})
		e.roles <- schedules.Term{Yield: yield}
		e.ctxs <- t.Context()
		time.Sleep(time.Second)
		close(yield)
		time.Sleep(time.Minute)
		if s := j.state("dcs"); s.Role != Follower || s.Stored != nil || j.told() != "" {
			t.Errorf("after its term a replica tells of %+v, %q", s, j.told())
		}
	})
}

// A demanded backup runs beside no other of its cluster.
func TestDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Cluster{Name: "dcs", Repository: memoryRepository(t, "dcs"), Jobs: map[Kind]Job{Snapshot: {Work: func(context.Context, *slog.Logger, string) (Report, error) {
			time.Sleep(time.Minute)
			return Report{}, nil
		}}}}
		s, j, stop := serve(t, Options{Grace: time.Hour}, c)
		if err := s.Demand("dcs"); err != nil {
			t.Fatal(err)
		}
		if err := s.Demand("dcs"); !errors.Is(err, ErrBusy) {
			t.Errorf("a second one at once: %v", err)
		}
		if err := s.Demand("other"); !errors.Is(err, ErrNoCluster) {
			t.Errorf("an unknown cluster: %v", err)
		}
		time.Sleep(2 * time.Minute)
		if err := s.Demand("dcs"); err != nil {
			t.Error(err)
		}
		stop()
		if got := fmt.Sprint(j.all()); got != "[snapshot ok snapshot ok]" {
			t.Errorf("runs %s", got)
		}
		if err := s.Demand("dcs"); !errors.Is(err, ErrStopping) && !errors.Is(err, ErrNoCluster) {
			t.Errorf("after the end: %v", err)
		}
	})
}

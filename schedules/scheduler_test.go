package schedules

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func mustParse(t *testing.T, specs ...string) Schedule {
	t.Helper()
	s, err := Parse(specs...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ran is a job's Last that knows of one run.
func ran(last time.Time) func(context.Context, time.Time) (time.Time, error) {
	return func(context.Context, time.Time) (time.Time, error) { return last, nil }
}

// scheduler runs jobs for a while of fake time and waits for them to end.
func scheduler(t *testing.T, s Scheduler, d time.Duration, jobs ...Job) {
	t.Helper()
	if s.Gate == nil {
		s.Gate = NewGate(4)
	}
	s.Log = quiet()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	s.Run(ctx, nil, jobs)
}

// Several missed times are made up by one run, at once, not by one each.
func TestMissedRunsAreMadeUpOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var runs []time.Duration
		scheduler(t, Scheduler{}, 2*time.Hour+time.Minute, Job{Key: "dcs/snapshot", Schedule: mustParse(t, "@every 1h"), Last: ran(start.Add(-5*time.Hour - time.Minute)),
			Run: func(context.Context, Attempt) error { runs = append(runs, time.Since(start)); return nil }})
		if !slices.Equal(runs, []time.Duration{0, time.Hour, 2 * time.Hour}) {
			t.Errorf("runs at %v, want one at once and then one each hour", runs)
		}
	})
}

// A run longer than its interval must not be joined by a second one, and an error or a deadline must not end the schedule.
func TestRunsDoNotOverlapAndErrorsDoNotEndTheSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, runs atomic.Int32
		var told []error
		job := Job{Key: "dcs/verify", Schedule: mustParse(t, "@every 1m"), Last: ran(time.Now()), Deadline: 150 * time.Second,
			Run: func(ctx context.Context, _ Attempt) error {
				if running.Add(1) > 1 {
					t.Error("two runs of one job at once")
				}
				defer running.Add(-1)
				runs.Add(1)
				<-ctx.Done()
				return context.Cause(ctx)
			},
			Ended: func(_ Attempt, err error, _ bool) { told = append(told, err) }}
		scheduler(t, Scheduler{}, 10*time.Minute, job)
		if n := runs.Load(); n != 4 {
			t.Errorf("%d runs of 150 s in the nine minutes after the first was due, want 4 back to back", n)
		}
		if len(told) != 4 || !errors.Is(told[0], context.DeadlineExceeded) || !strings.Contains(told[0].Error(), "dcs/verify took longer than its deadline of 2m30s") {
			t.Errorf("the runs ended with %v, want the deadline named", told)
		}
	})
}

// One key is one thing at a time, also over two schedulers: those before and after a reload.
func TestOneKeyIsOneRunAcrossSchedulers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, runs atomic.Int32
		job := Job{Key: "dcs/snapshot", Schedule: mustParse(t, "@every 1m"),
			Run: func(context.Context, Attempt) error {
				if running.Add(1) > 1 {
					t.Error("two runs of one key at once")
				}
				defer running.Add(-1)
				runs.Add(1)
				time.Sleep(40 * time.Second)
				return nil
			}}
		s := Scheduler{Gate: NewGate(4)}
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { scheduler(t, s, 10*time.Minute, job) })
		}
		wg.Wait()
		if runs.Load() < 10 {
			t.Errorf("%d runs, want both schedulers to have some", runs.Load())
		}
	})
}

// More runs at once than allowed would fill the spool and the network.
func TestRunsAtOnceAreLimitedByClass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, most, runs, others atomic.Int32
		var jobs []Job
		for _, name := range strings.Split("abcdefghij", "") {
			jobs = append(jobs, Job{Key: name, Class: "backup", Schedule: mustParse(t, "@every 1h"), Run: func(context.Context, Attempt) error {
				n := running.Add(1)
				defer running.Add(-1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				runs.Add(1)
				time.Sleep(time.Minute)
				return nil
			}})
		}
		jobs = append(jobs, Job{Key: "v", Class: "verify", Schedule: mustParse(t, "@every 1h"), Run: func(context.Context, Attempt) error {
			time.Sleep(30 * time.Second)
			if running.Load() > 0 {
				others.Add(1)
			}
			return nil
		}})
		scheduler(t, Scheduler{Gate: NewGate(3)}, 30*time.Minute, jobs...)
		if most.Load() != 3 || runs.Load() != 10 || others.Load() != 1 {
			t.Errorf("%d backups in 30 minutes, at most %d at once, and %d verifications beside them; want 10, 3, 1", runs.Load(), most.Load(), others.Load())
		}
	})
}

// The limit may change while runs wait; nobody is forgotten, and who gives up leaves no place taken.
func TestLimitChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(1)
		var inside, most, entered atomic.Int32
		enter := func(patience time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			leave, err := g.Enter(ctx, "backup")
			if err != nil {
				return
			}
			defer leave()
			entered.Add(1)
			most.Store(max(most.Load(), inside.Add(1)))
			time.Sleep(time.Minute)
			inside.Add(-1)
		}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() { enter(time.Hour) })
		}
		for range 5 {
			wg.Go(func() { enter(30 * time.Second) }) // who came first is inside longer than that
		}
		synctest.Wait()
		if inside.Load() > 1 {
			t.Errorf("%d are inside, want one", inside.Load())
		}
		time.Sleep(45 * time.Second)
		g.Limit(3)
		synctest.Wait()
		if inside.Load() != 3 {
			t.Errorf("%d are inside after the limit was raised to 3", inside.Load())
		}
		g.Limit(1)
		time.Sleep(65 * time.Second)
		most.Store(0)
		wg.Wait()
		if most.Load() != 1 || entered.Load() < 8 || inside.Load() != 0 {
			t.Errorf("%d entered, %d are inside at the end, at most %d at once after the limit was lowered; want at least 8, 0, 1", entered.Load(), inside.Load(), most.Load())
		}
	})
}

// A failed run is tried again with growing pauses inside its deadline, and no longer than until the next one is due.
func TestRetries(t *testing.T) {
	for _, c := range []struct {
		name     string
		every    string
		deadline time.Duration
		fails    int // so many attempts
		retry    bool
		want     []time.Duration // starts
	}{
		{"until it succeeds", "@every 1h", 0, 3, true, []time.Duration{0, 5 * time.Second, 15 * time.Second, 35 * time.Second}},
		{"not beyond the deadline", "@every 1h", 20 * time.Second, 9, true, []time.Duration{0, 5 * time.Second, 15 * time.Second}},
		{"not beyond the next due time", "@every 30s", 0, 3, true, []time.Duration{0, 5 * time.Second, 15 * time.Second, 30 * time.Second}},
		{"not what is pointless", "@every 1h", 0, 9, false, []time.Duration{0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				var starts []time.Duration
				var again []bool
				scheduler(t, Scheduler{}, 50*time.Second, Job{Key: "k", Schedule: mustParse(t, c.every), Deadline: c.deadline,
					Run: func(context.Context, Attempt) error {
						starts = append(starts, time.Since(start))
						if len(starts) <= c.fails {
							return errors.New("refused")
						}
						return nil
					},
					Retry: func(error) bool { return c.retry },
					Ended: func(_ Attempt, err error, more bool) { again = append(again, more) }})
				if !slices.Equal(starts, c.want) {
					t.Errorf("attempts at %v, want %v", starts, c.want)
				}
				if len(again) != len(starts) || again[0] != (c.retry && c.fails > 0) || again[len(again)-1] {
					t.Errorf("told of further attempts: %v", again)
				}
			})
		})
	}
}

// What others may run too is left out when their record is there.
func TestSharedRunsAreLeftOutWhenRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var records []time.Time
		last := func(_ context.Context, since time.Time) (time.Time, error) {
			mu.Lock()
			defer mu.Unlock()
			if n := len(records); n > 0 && !records[n-1].Before(since) {
				return records[n-1], nil
			}
			return time.Time{}, nil
		}
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() {
				scheduler(t, Scheduler{}, 61*time.Minute, Job{Key: "dcs/verify", Schedule: mustParse(t, "*/10 * * * *"), Last: last, Shared: true, Stagger: time.Duration(i*20) * time.Second,
					Run: func(context.Context, Attempt) error {
						mu.Lock()
						records = append(records, time.Now())
						mu.Unlock()
						return nil
					}})
			})
		}
		wg.Wait()
		if len(records) != 7 {
			t.Errorf("three replicas ran %d times, want once for each of 7 due times: %v", len(records), records)
		}
	})
}

// A reload or the end of the service starts nothing more and lets what runs go on to its end.
func TestStopLetsARunEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop, done := make(chan struct{}), make(chan struct{})
		finished := 0
		go func() {
			defer close(done)
			Scheduler{Gate: NewGate(1), Log: quiet()}.Run(t.Context(), stop, []Job{{Key: "k", Schedule: mustParse(t, "@every 1m"),
				Run: func(ctx context.Context, _ Attempt) error {
					time.Sleep(10 * time.Minute)
					if ctx.Err() == nil {
						finished++
					}
					return nil
				}}})
		}()
		time.Sleep(time.Second)
		close(stop)
		<-done
		if finished != 1 {
			t.Errorf("%d runs were finished, want the one that was running", finished)
		}
	})
}

// What is demanded runs at once, once for many demands, and needs no schedule.
func TestTrigger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		trigger := make(chan struct{}, 1)
		runs := 0
		go func() {
			time.Sleep(time.Minute)
			trigger <- struct{}{}
		}()
		scheduler(t, Scheduler{}, time.Hour, Job{Key: "k", Trigger: trigger, Run: func(context.Context, Attempt) error { runs++; return nil }})
		if runs != 1 {
			t.Errorf("%d runs, want the one that was demanded", runs)
		}
	})
}

// A wall clock set forward makes a job due within the recheck time; one set back does not hold it until the old time comes again.
func TestClockJumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var jump atomic.Int64
		now := func() time.Time { return time.Now().Add(time.Duration(jump.Load())) }
		var runs atomic.Int32
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			Scheduler{Gate: NewGate(1), Log: quiet(), Now: now}.Run(ctx, nil, []Job{{Key: "dcs/snapshot", Schedule: mustParse(t, "@every 6h"), Last: ran(now()),
				Run: func(context.Context, Attempt) error { runs.Add(1); return nil }}})
		}()
		time.Sleep(time.Minute)
		jump.Store(int64(7 * time.Hour))
		time.Sleep(recheck + time.Second)
		if runs.Load() != 1 {
			t.Errorf("%d runs after the clock jumped over the due time, want 1", runs.Load())
		}
		jump.Store(0)
		time.Sleep(6*time.Hour + time.Minute)
		if runs.Load() != 2 {
			t.Errorf("%d runs six hours after the clock was set back, want 2", runs.Load())
		}
		jump.Store(int64(-2 * time.Second)) // a correction is no jump: nothing runs twice
		time.Sleep(time.Hour)
		if runs.Load() != 2 {
			t.Errorf("%d runs after a small correction, want 2", runs.Load())
		}
		cancel()
		<-done
	})
}

// On the days on which clocks change nothing is left out: a time that does not exist is made up at the change, one that comes twice is kept twice.
func TestDaylightSaving(t *testing.T) {
	for _, c := range []struct {
		name, from string
		specs      []string
		want       []string // within two days
	}{
		{"spring", "2026-03-28T12:00:00Z", []string{"CRON_TZ=Europe/Berlin 30 2 * * *"}, []string{"2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"}},
		{"autumn", "2026-10-24T12:00:00Z", []string{"CRON_TZ=Europe/Berlin 30 2 * * *"}, []string{"2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-26T01:30:00Z"}},
		{"in UTC nothing changes", "2026-03-28T12:00:00Z", []string{"30 2 * * *"}, []string{"2026-03-29T02:30:00Z", "2026-03-30T02:30:00Z"}},
		{"twice a day in a zone that does not change then", "2026-10-24T18:00:00Z", []string{"CRON_TZ=America/New_York 0 */12 * * *"}, []string{"2026-10-25T04:00:00Z", "2026-10-25T16:00:00Z", "2026-10-26T04:00:00Z", "2026-10-26T16:00:00Z"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ahead := time.Until(at(t, c.from))
				now := func() time.Time { return time.Now().Add(ahead) }
				var runs []string
				scheduler(t, Scheduler{Now: now}, 48*time.Hour-time.Second, Job{Key: "dcs/snapshot", Schedule: mustParse(t, c.specs...), Last: ran(now()),
					Run: func(context.Context, Attempt) error {
						runs = append(runs, now().UTC().Format(time.RFC3339))
						return nil
					}})
				if !slices.Equal(runs, c.want) {
					t.Errorf("runs at %v, want %v", runs, c.want)
				}
			})
		})
	}
}

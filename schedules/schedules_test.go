package schedules

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func at(t *testing.T, s string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// A wrong next time is a backup that is not taken when the operator expects it.
func TestNext(t *testing.T) {
	for _, c := range []struct {
		name, after, want string
		specs             []string
	}{
		{"hourly on the hour", "2026-11-22T08:16:00Z", "2026-11-22T09:00:00Z", []string{"0 * * * *"}},
		{"UTC whatever zone the moment has", "2026-11-22T10:16:00+02:00", "2026-11-22T09:00:00Z", []string{"0 * * * *"}},
		{"first day of each quarter", "2026-11-22T08:16:00Z", "2027-01-01T09:00:00Z", []string{"0 9 1 */3 *"}},
		{"the earliest of several", "2026-11-22T08:16:00Z", "2026-11-22T08:30:00Z", []string{"0 * * * *", "30 8 * * *"}},
		{"every", "2026-11-22T08:16:00Z", "2026-11-22T08:17:30Z", []string{"@every 90s"}},
		{"a zone, summer", "2026-07-01T00:00:00Z", "2026-07-01T01:30:00Z", []string{"CRON_TZ=Europe/Berlin 30 3 * * *"}},
		{"a zone, winter", "2026-12-01T00:00:00Z", "2026-12-01T02:30:00Z", []string{"CRON_TZ=Europe/Berlin 30 3 * * *"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := Parse(c.specs...)
			if err != nil {
				t.Fatal(err)
			}
			if got := s.Next(at(t, c.after)); !got.Equal(at(t, c.want)) || got.Location() != time.UTC {
				t.Errorf("after %s: next %s, want %s in UTC", c.after, got, c.want)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for spec, want := range map[string]string{
		"":                    "is empty",
		"0 * * *":             "expected exactly 5 fields",
		"61 * * * *":          "above maximum",
		"CRON_TZ=Nowhere/X 0": "Nowhere/X",
		"CRON_TZ=UTC":         "no schedule after it",
		"0 0 30 2 *":          "never comes",
		"@every soon":         "soon",
		"@every -5m":          "shorter than a second",
	} {
		if _, err := Parse("@daily", spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one that says %q", spec, err, want)
		}
	}
	if _, err := Parse("bad one", "bad two"); err == nil || !strings.Contains(err.Error(), "bad one") || !strings.Contains(err.Error(), "bad two") {
		t.Errorf("two bad expressions are not reported together: %v", err)
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func mustParse(t *testing.T, specs ...string) Schedule {
	t.Helper()
	s, err := Parse(specs...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Several missed times are made up by one run, at once, not by one each.
func TestMissedRunsAreMadeUpOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var runs []time.Duration
		start := time.Now()
		job := Job{Name: "dcs snapshot", Schedule: mustParse(t, "@every 1h"), Last: start.Add(-5*time.Hour - time.Minute),
			Run: func(context.Context) error { runs = append(runs, time.Since(start)); return nil }}
		done := make(chan error, 1)
		go func() { done <- Scheduler{Log: quiet()}.Run(ctx, []Job{job}) }()
		time.Sleep(2*time.Hour + time.Minute)
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if len(runs) != 3 || runs[0] != 0 || runs[1] != time.Hour || runs[2] != 2*time.Hour {
			t.Errorf("runs at %v, want one at once and then one each hour", runs)
		}
	})
}

// A run longer than its interval must not be joined by a second one, and an
// error or a deadline must not end the schedule.
func TestRunsDoNotOverlapAndErrorsDoNotEndTheSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var running, runs atomic.Int32
		job := Job{Name: "dcs verify", Schedule: mustParse(t, "@every 1m"), Deadline: 150 * time.Second,
			Run: func(ctx context.Context) error {
				if running.Add(1) > 1 {
					t.Error("two runs of one job at once")
				}
				defer running.Add(-1)
				runs.Add(1)
				<-ctx.Done()
				if !strings.Contains(context.Cause(ctx).Error(), "deadline") && ctx.Err() != context.Canceled {
					t.Errorf("the run ended by %v", context.Cause(ctx))
				}
				return errors.New("too slow")
			}}
		done := make(chan error, 1)
		go func() { done <- Scheduler{Log: quiet()}.Run(ctx, []Job{job}) }()
		time.Sleep(10 * time.Minute)
		cancel()
		<-done
		if n := runs.Load(); n != 4 {
			t.Errorf("%d runs of 150 s in the nine minutes after the first was due, want 4 back to back", n)
		}
	})
}

// A wall clock set forward makes a job due within the recheck time.
func TestClockJump(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var jump atomic.Int64
		now := func() time.Time { return time.Now().Add(time.Duration(jump.Load())) }
		var runs atomic.Int32
		job := Job{Name: "dcs snapshot", Schedule: mustParse(t, "@every 6h"), Run: func(context.Context) error { runs.Add(1); return nil }}
		done := make(chan error, 1)
		go func() { done <- Scheduler{Log: quiet(), Now: now}.Run(ctx, []Job{job}) }()
		time.Sleep(time.Minute)
		jump.Store(int64(7 * time.Hour))
		time.Sleep(recheck + time.Second)
		if runs.Load() != 1 {
			t.Errorf("%d runs after the clock jumped over the due time, want 1", runs.Load())
		}
		jump.Store(0) // set back: the next run is six hours after the last one by the wall clock
		time.Sleep(14 * time.Hour)
		if runs.Load() != 2 {
			t.Errorf("%d runs after the clock was set back, want 2", runs.Load())
		}
		cancel()
		<-done
	})
}

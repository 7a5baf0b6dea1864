package schedules

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"
)

// Job is one kind of work for one cluster.
type Job struct {
	Name     string // for logs: "dcs snapshot"
	Schedule Schedule
	Last     time.Time                       // when it last ran, by its records; zero: not known to have run
	Deadline time.Duration                   // of one run; 0: none
	Run      func(ctx context.Context) error // must end soon after its context does
}

// Scheduler runs jobs when they are due.
type Scheduler struct {
	Log *slog.Logger
	Now func() time.Time // the wall clock; nil: time.Now
}

// recheck bounds how late a jump of the wall clock is noticed.
const recheck = 15 * time.Second

// Run runs the jobs until the context ends, and returns when the last of them
// has. Runs of one job never overlap; times that pass during a run or during
// downtime since Job.Last are made up by a single run. A run's error is logged and
// does not end the schedule.
func (s Scheduler) Run(ctx context.Context, jobs []Job) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, job := range jobs {
		group.Go(func() error { return s.follow(ctx, job) })
	}
	return group.Wait()
}

func (s Scheduler) follow(ctx context.Context, job Job) error {
	last := job.Last
	if last.IsZero() {
		last = s.now()
	}
	for {
		due := job.Schedule.Next(last)
		if err := s.sleepUntil(ctx, due); err != nil {
			return nil
		}
		last = s.now()
		s.once(ctx, job, due)
		if ctx.Err() != nil {
			return nil
		}
	}
}

func (s Scheduler) once(ctx context.Context, job Job, due time.Time) {
	if job.Deadline > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, job.Deadline,
			fmt.Errorf("%s took longer than its deadline of %s", job.Name, job.Deadline))
		defer cancel()
	}
	start := s.now()
	log := s.Log.With("job", job.Name, "due", due)
	log.Info("run starts", "late", start.Sub(due).Round(time.Second))
	if err := job.Run(ctx); err != nil {
		log.Error("run ended with an error", "error", err, "took", s.now().Sub(start))
		return
	}
	log.Info("run is done", "took", s.now().Sub(start))
}

// sleepUntil sleeps by the wall clock, in slices, so that a clock set forward
// makes a job due at once and one set back does not hold it for ever.
func (s Scheduler) sleepUntil(ctx context.Context, t time.Time) error {
	for {
		left := t.Sub(s.now())
		if left <= 0 {
			return ctx.Err()
		}
		timer := time.NewTimer(min(left, recheck))
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

func (s Scheduler) now() time.Time {
	if s.Now != nil {
		return s.Now()
	}
	return time.Now()
}

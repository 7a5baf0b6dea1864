package schedules

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Job is one kind of work for one cluster.
type Job struct {
	Key      string   // of what never overlaps: "dcs/snapshot"
	Class    string   // what it counts against: see [NewGate]
	Schedule Schedule // the zero one: only when Trigger says so
	Trigger  <-chan struct{}

	Offset   time.Duration // after each due time: see [Schedule.Offset]
	Deadline time.Duration // of one run with all its attempts, from the first one's start; 0: none

	// Last returns when the newest run at or after since started, by the records of all replicas; zero for none. It is asked when the
	// schedule begins, and before every run if Shared is set. While it cannot say, a run counts as missing.
	Last func(ctx context.Context, since time.Time) (time.Time, error)

	// Shared says that others may do the same work without an election. Stagger then comes on top of Offset, and a run that
	// another has recorded meanwhile is left out.
	Shared  bool
	Stagger time.Duration

	// Run does the work. It must end soon after its context does. An error for which Retry says true is followed by another
	// attempt as long as neither the deadline nor the next due time has come. Ended is told of each attempt, and whether another
	// one is to follow, which the end of ctx or stop may still prevent; it may be nil, and so may Retry.
	Run   func(ctx context.Context, a Attempt) error
	Retry func(error) bool
	Ended func(a Attempt, err error, again bool)

	// Planned is told the next start whenever it changes; it may be nil.
	Planned func(time.Time)
}

// Attempt says what a run is for.
type Attempt struct {
	Due     time.Time // when it should have started, offset and stagger included
	Number  int       // 1 for the first
	Started time.Time
}

// Scheduler runs jobs when they are due.
type Scheduler struct {
	Gate *Gate
	Log  *slog.Logger
	Now  func() time.Time // the wall clock; nil: time.Now
}

const (
	// recheck bounds how late a jump of the wall clock is noticed.
	recheck = 15 * time.Second
	// slack is how far the clock may be set back without its counting as a jump.
	slack = time.Minute
	// The first wait before another attempt, and the longest.
	firstBackoff = 5 * time.Second
	lastBackoff  = 5 * time.Minute
)

// Run runs the jobs until ctx ends or stop is closed, and returns when the last run has ended. The end of ctx ends running work too;
// stop lets it go on to its end. stop may be nil.
//
// Runs of one key never overlap. Times that pass during a run, or during downtime since the last record, are made up by a
// single run. An error does not end a schedule.
func (s Scheduler) Run(ctx context.Context, stop <-chan struct{}, jobs []Job) {
	var wg sync.WaitGroup
	for _, job := range jobs {
		wg.Go(func() { s.follow(ctx, stop, job) })
	}
	wg.Wait()
}

func (s Scheduler) follow(ctx context.Context, stop <-chan struct{}, job Job) {
	last := s.lastRun(ctx, job)
	for ctx.Err() == nil && !closed(stop) {
		demanded, due := s.wait(ctx, stop, job, last)
		if due.IsZero() {
			return
		}
		release, ok := s.Gate.hold(ctx.Done(), stop, job.Key)
		if !ok {
			return
		}
		started := s.now()
		if job.Shared && !demanded {
			if other, err := s.recorded(ctx, job, started); err == nil && !other.IsZero() {
				release()
				last = other
				continue
			}
		}
		last = started
		s.attempts(ctx, stop, job, due)
		release()
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// lastRun is when the job last ran. If that cannot be found out, it counts as never.
func (s Scheduler) lastRun(ctx context.Context, job Job) time.Time {
	if job.Schedule.IsZero() {
		return time.Time{}
	}
	last, err := s.recorded(ctx, job, s.now())
	if err != nil && ctx.Err() == nil {
		s.Log.Warn("when it last ran is not known, so it runs when it is due and once before", "job", job.Key, "error", err)
	}
	return last
}

// recorded is the newest run that the job is still good for at a moment.
func (s Scheduler) recorded(ctx context.Context, job Job, at time.Time) (time.Time, error) {
	if job.Last == nil {
		return time.Time{}, nil
	}
	return job.Last(ctx, job.Schedule.Previous(at))
}

// wait sleeps by the wall clock, in slices, until the job is due or demanded. A clock set forward makes it due at once; one set
// back does not hold it until the old time comes again. The zero time says that there is nothing more to do.
func (s Scheduler) wait(ctx context.Context, stop <-chan struct{}, job Job, last time.Time) (demanded bool, due time.Time) {
	planned := time.Time{}
	for {
		now := s.now()
		if now.Before(last.Add(-slack)) {
			last, planned = now, time.Time{}
		}
		if planned.IsZero() && !job.Schedule.IsZero() {
			planned = job.Schedule.Due(last, now, job.Offset)
			if !planned.IsZero() && job.Shared {
				planned = planned.Add(job.Stagger)
			}
			if job.Planned != nil {
				job.Planned(planned)
			}
		}
		slice := recheck
		if !planned.IsZero() {
			left := planned.Sub(now)
			if left <= 0 {
				return false, planned
			}
			slice = min(left, recheck)
		}
		timer := time.NewTimer(slice)
		select {
		case <-ctx.Done():
			timer.Stop()
			return false, time.Time{}
		case <-stop:
			timer.Stop()
			return false, time.Time{}
		case <-job.Trigger:
			timer.Stop()
			return true, s.now()
		case <-timer.C:
		}
	}
}

// attempts does the work, again and again after failures for which that is worthwhile.
func (s Scheduler) attempts(ctx context.Context, stop <-chan struct{}, job Job, due time.Time) {
	leave, ok := s.Gate.enter(ctx.Done(), stop, job.Class)
	if !ok {
		return
	}
	begun := s.now()
	if job.Deadline > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, job.Deadline,
			fmt.Errorf("%s took longer than its deadline of %s: %w", job.Key, job.Deadline, context.DeadlineExceeded))
		defer cancel()
	}
	for a := (Attempt{Due: due, Number: 1}); ; a.Number++ {
		a.Started = s.now()
		err := job.Run(ctx, a)
		leave()
		pause := backoff(a.Number)
		again := err != nil && ctx.Err() == nil && !closed(stop) && job.Retry != nil && job.Retry(err) && s.worthwhile(job, begun, pause)
		if job.Ended != nil {
			job.Ended(a, err, again)
		}
		if !again || !sleep(ctx, stop, pause) {
			return
		}
		if leave, ok = s.Gate.enter(ctx.Done(), stop, job.Class); !ok {
			return
		}
	}
}

// backoff is the pause after an attempt: it doubles.
func backoff(attempt int) time.Duration {
	return min(firstBackoff<<min(attempt-1, 10), lastBackoff)
}

// worthwhile says whether another attempt after the pause would begin before the deadline and before the next run is due.
func (s Scheduler) worthwhile(job Job, begun time.Time, pause time.Duration) bool {
	at := s.now().Add(pause)
	if job.Deadline > 0 && !at.Before(begun.Add(job.Deadline)) {
		return false
	}
	next := job.Schedule.Next(begun)
	return next.IsZero() || at.Before(next.Add(job.Offset))
}

func sleep(ctx context.Context, stop <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-stop:
		return false
	case <-timer.C:
		return true
	}
}

func (s Scheduler) now() time.Time {
	if s.Now != nil {
		return s.Now()
	}
	return time.Now()
}

package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/requorum/requorum/schedules"
	"github.com/requorum/requorum/storage/catalog"
)

// The classes of the gate: verification, retention and copies never hold a backup up.
const (
	classBackup = "backup"
	classOther  = "other"
)

const (
	// patience is how many attempts may fail before somebody is told, if further ones follow.
	patience = 3
	// orphanDelay is the most that orphans wait for each other.
	orphanDelay = 10 * time.Minute
)

func class(k Kind) string {
	if k == Snapshot {
		return classBackup
	}
	return classOther
}

// Key names what never runs twice at once, and what jitter is reckoned from.
func Key(cluster string, kind Kind) string { return cluster + "/" + string(kind) }

// job makes a scheduled job of a cluster's.
func (u *unit) job(c Cluster, kind Kind, job Job, orphan bool, term int, triggers map[Kind]chan struct{}, look chan<- struct{}) schedules.Job {
	now := u.s.o.Now()
	var run Run
	var result Result
	sj := schedules.Job{
		Key: Key(c.Name, kind), Class: class(kind), Schedule: job.Schedule, Trigger: triggers[kind], Shared: orphan, Deadline: c.Deadline,
		Offset: job.Schedule.Offset(Key(c.Name, kind), c.Jitter, now),
		Run: func(ctx context.Context, a schedules.Attempt) error {
			if !u.s.begin() {
				return ErrStopping
			}
			defer u.s.end()
			run = Run{Cluster: c.Name, Kind: kind, Due: a.Due, Attempt: a.Number, Started: a.Started}
			result = u.s.execute(ctx, c, run, job.Work)
			return result.Err
		},
		Retry: func(error) bool { return worthAgain(kind, result) },
		Ended: func(a schedules.Attempt, _ error, again bool) {
			if !run.Started.Equal(a.Started) {
				return // it was not begun
			}
			result.Again = again
			u.ended(run, result, term)
			if !again && (result.Outcome == OK || result.Outcome == Partly) {
				for next, j := range c.Jobs {
					if j.After == kind && j.Work != nil {
						poke(triggers[next])
					}
				}
			}
			poke(look)
		},
		Planned: func(at time.Time) { u.in(term, func() { u.update(func(s *State) { s.Next[kind] = at }) }) },
	}
	if job.Record != "" {
		sj.Last = func(ctx context.Context, since time.Time) (time.Time, error) {
			return u.s.lastRecord(ctx, c, job.Record, since)
		}
	}
	if orphan && u.s.o.Elector != nil && !job.Schedule.IsZero() {
		next := job.Schedule.Next(now)
		sj.Stagger = u.s.o.Elector.Stagger(sj.Key, min(orphanDelay, job.Schedule.Next(next).Sub(next)/3))
	}
	return sj
}

func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// lastRecord is when the newest recorded run of a kind started, zero if none has since.
func (s *Service) lastRecord(ctx context.Context, c Cluster, kind string, since time.Time) (time.Time, error) {
	leave, err := s.small.Enter(ctx, "records")
	if err != nil {
		return time.Time{}, err
	}
	defer leave()
	runs, err := c.Repository.Recorded(ctx, since)
	last, ok := Last(runs, kind)
	if ok && !last.Started.Before(since) {
		return last.Started, nil // what another store may hold changes little
	}
	return time.Time{}, err
}

// Last is the newest of the recorded runs, the oldest first, that a schedule counts. One that was cancelled does not count, nor does a backup that
// failed: whoever comes next begins anew. A failed verification is one: it has found something.
func Last(runs []catalog.Run, kind string) (last catalog.Run, ok bool) {
	for _, r := range slices.Backward(runs) {
		if r.Kind == kind && r.Outcome != "cancelled" && (r.Outcome != "failed" || kind != "backup") {
			return r, true
		}
	}
	return catalog.Run{}, false
}

// execute does one attempt.
func (s *Service) execute(ctx context.Context, c Cluster, run Run, work Work) Result {
	id := catalog.NewID(catalog.KindRun)
	if run.Kind == Drill {
		id = catalog.NewID(catalog.KindDrill)
	}
	log := s.o.Log.With("cluster", run.Cluster, "kind", string(run.Kind), "run", id)
	log.Info("run starts", "due", run.Due.UTC(), "late", run.Started.Sub(run.Due).Round(time.Millisecond), "attempt", run.Attempt)
	s.events().RunStarted(run)
	report, err := work(ctx, log, id)
	r := Result{Ended: s.o.Now(), Outcome: OK, Err: err, RunID: id, Backup: report.Backup, Time: report.Time, Bytes: report.Bytes, StoredBytes: report.StoredBytes,
		Keys: report.Keys, Seconds: report.Seconds, Alerts: report.Alerts, News: report.News}
	switch cause := context.Cause(ctx); {
	case err == nil:
	case ctx.Err() == nil || report.Backup != "": // a backup exists, whatever ended then
		r.Outcome, r.Reason = s.o.Classify(err)
	case errors.Is(cause, context.DeadlineExceeded):
		r.Outcome, r.Reason, r.Err = Failed, Deadline, fmt.Errorf("%w: %w", cause, err)
	default:
		r.Outcome, r.Reason, r.Err = Stopped, Interrupted, fmt.Errorf("%w: %w", cause, err)
	}
	if len(r.Alerts) > 0 && r.Backup != "" {
		s.leaveDoubts(ctx, log, c, r)
	}
	took := r.Ended.Sub(run.Started).Round(time.Millisecond)
	switch r.Outcome {
	case OK:
		log.Info("run is done", "took", took, "backup", r.Backup)
	case Skipped:
		log.Warn("run is left out", "reason", string(r.Reason), "error", r.Err)
	default:
		log.Error("run ended with an error", "outcome", string(r.Outcome), "reason", string(r.Reason), "took", took, "error", r.Err)
	}
	return r
}

// worthAgain says whether another attempt could end better.
func worthAgain(kind Kind, r Result) bool {
	if r.Outcome != Failed {
		return false
	}
	if kind == Drill { // what it found is found; only where a store did not answer could another one find more
		return r.Reason == StoreFailed
	}
	return r.Reason != Held && r.Reason != Denied && r.Reason != Decryption && (r.Reason != Verification || kind == Snapshot)
}

// ended tells of an attempt, and keeps account of what is wrong if the term lasts that it was made in.
func (u *unit) ended(run Run, r Result, term int) {
	u.s.events().RunEnded(run, r)
	u.in(term, func() { u.judge(run, r) })
}

func (u *unit) judge(run Run, r Result) {
	source := "run " + string(run.Kind)
	switch r.Outcome {
	case OK:
		u.s.alerts.set(u.name, source)
	case Partly:
		u.s.alerts.set(u.name, source, Problem{Name: partlyName(run.Kind), Severity: Warning, What: fmt.Sprintf("%s of %s is not done in every store: %v", run.Kind, u.name, r.Err),
			Advice: "look at the store; what is missing is made up for when it is back"})
	case Failed:
		if r.Again && run.Attempt < patience {
			break
		}
		severity := Warning
		if run.Kind == Snapshot || r.Reason == Verification {
			severity = Critical
		}
		u.s.alerts.set(u.name, source, Problem{Name: failedName(run.Kind), Severity: severity, What: fmt.Sprintf("%s of %s failed: %v", run.Kind, u.name, r.Err)})
	case Skipped, Stopped:
	}
	if run.Kind == Snapshot && (r.Outcome == OK || r.Outcome == Partly) {
		found := map[string]doubt{}
		for _, text := range r.Alerts {
			found[text] = doubt{r.Backup, r.Ended}
		}
		u.suspect(r.Ended, found)
	}
}

// Errors of Demand.
var (
	ErrNoCluster = errors.New("there is no such cluster")
	ErrBusy      = errors.New("one is being taken right now")
)

// Demand begins a backup on this replica, whoever leads, and returns at once; how it ended is among the events, the records and the alerts.
func (s *Service) Demand(cluster string) error {
	u, err := s.unit(cluster)
	if err != nil {
		return err
	}
	c, _ := u.now()
	job := c.Jobs[Snapshot]
	if job.Work == nil {
		return fmt.Errorf("cluster %s: no backups are configured", cluster)
	}
	release, ok := s.gate.TryHold(Key(cluster, Snapshot))
	if !ok {
		return fmt.Errorf("a backup of %s: %w", cluster, ErrBusy)
	}
	if !s.begin() {
		release()
		return ErrStopping
	}
	s.group.Go(func() {
		defer s.end()
		defer release()
		s.mu.Lock()
		ctx, cancel := context.WithCancel(s.parent)
		s.mu.Unlock()
		defer cancel()
		if c.Deadline > 0 {
			ctx, cancel = context.WithTimeout(ctx, c.Deadline)
			defer cancel()
		}
		due := s.o.Now()
		leave, err := s.gate.Enter(ctx, classBackup)
		if err != nil {
			return
		}
		defer leave()
		run := Run{Cluster: cluster, Kind: Snapshot, Due: due, Attempt: 1, Started: s.o.Now()}
		u.ended(run, s.execute(ctx, c, run, job.Work), 0)
	})
	return nil
}

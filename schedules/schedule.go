// Package schedules decides when work is due and runs it: cron expressions, one run made up after downtime, no overlapping runs
// of one kind, deadlines, retries, a limit of runs at once; and it elects who does the work where several replicas share it. It knows
// nothing of backups; it runs the functions that it is given. DESIGN.md beside this file has the rules.
package schedules

import (
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Schedule is one or several cron expressions; it is due whenever any of them is. The zero Schedule is never due.
type Schedule struct {
	specs []string
	times []cron.Schedule
}

// Parse reads cron expressions: five fields, @hourly and its like, or
// @every DURATION, each in UTC unless it begins with CRON_TZ=ZONE. All bad
// expressions are reported together.
func Parse(specs ...string) (Schedule, error) {
	if len(specs) == 0 {
		return Schedule{}, errors.New("a schedule needs at least one cron expression")
	}
	var s Schedule
	var errs []error
	for _, spec := range specs {
		t, err := parse(spec)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.specs, s.times = append(s.specs, spec), append(s.times, t)
	}
	if err := errors.Join(errs...); err != nil {
		return Schedule{}, err
	}
	return s, nil
}

func parse(spec string) (cron.Schedule, error) {
	if strings.TrimSpace(spec) == "" {
		return nil, errors.New("a cron expression is empty")
	}
	zoned := spec
	switch {
	case strings.HasPrefix(spec, "TZ="), strings.HasPrefix(spec, "CRON_TZ="):
		// The library panics on a zone with nothing behind it.
		if _, rest, _ := strings.Cut(spec, " "); strings.TrimSpace(rest) == "" {
			return nil, fmt.Errorf("cron expression %q: a time zone and no schedule after it", spec)
		}
	default:
		zoned = "CRON_TZ=UTC " + spec // the library would take the machine's zone
	}
	t, err := cron.ParseStandard(zoned)
	if err != nil {
		return nil, fmt.Errorf("cron expression %q: %w", spec, err)
	}
	if every, rest, ok := strings.Cut(strings.TrimSpace(spec), " "); ok && every == "@every" {
		// The library rounds what is too short, and what is negative, up to a second.
		if d, err := time.ParseDuration(strings.TrimSpace(rest)); err == nil && d < time.Second {
			return nil, fmt.Errorf("cron expression %q: shorter than a second", spec)
		}
	}
	if t.Next(time.Unix(0, 0)).IsZero() {
		return nil, fmt.Errorf("cron expression %q: it names a date that never comes", spec)
	}
	return t, nil
}

// String gives the expressions as they were written.
func (s Schedule) String() string { return strings.Join(s.specs, ", ") }

// IsZero says that there is no expression: never due.
func (s Schedule) IsZero() bool { return len(s.times) == 0 }

// Next is the first due time after t, in UTC; the zero time for the zero Schedule.
//
// A time of day that does not exist on the day on which clocks are set forward is due when they were. One that comes twice
// on the day on which they are set back is due twice.
func (s Schedule) Next(t time.Time) time.Time {
	var next time.Time
	for _, c := range s.times {
		if n := after(c, t.UTC()); !n.IsZero() && (next.IsZero() || n.Before(next)) {
			next = n
		}
	}
	return next.UTC()
}

// after is the first due time of one expression after t.
func after(c cron.Schedule, t time.Time) time.Time {
	n := c.Next(t)
	spec, ok := c.(*cron.SpecSchedule)
	if !ok || n.IsZero() || spec.Location == time.UTC || spec.Hour&(1<<63) != 0 { // the library's mark of a star: each hour that there is
		return n
	}
	// The library leaves out what falls into the hour that is left out.
	for at := t; ; {
		_, change := at.In(spec.Location).ZoneBounds()
		if change.IsZero() || change.After(n) {
			return n
		}
		at = change
		_, before := change.Add(-time.Second).In(spec.Location).Zone()
		_, since := change.In(spec.Location).Zone()
		if since <= before || !change.After(t) {
			continue
		}
		unmoved := *spec
		unmoved.Location = time.FixedZone("", before)
		left := time.Duration(since-before) * time.Second
		if missing := unmoved.Next(change.Add(-time.Second)); !missing.IsZero() && missing.Before(change.Add(left)) {
			return change
		}
	}
}

// spans are how far Previous looks back, step by step.
var spans = []time.Duration{time.Minute, time.Hour, 24 * time.Hour, 8 * 24 * time.Hour, 32 * 24 * time.Hour, 367 * 24 * time.Hour, 5 * 367 * 24 * time.Hour}

// Previous is the moment since which there must be a run at t, or one is missing: the last due time at or before t, and for
// @every that long before t. It is zero if there was none in the last five years.
func (s Schedule) Previous(t time.Time) time.Time {
	var last time.Time
	for _, c := range s.times {
		if p := before(c, t.UTC()); p.After(last) {
			last = p
		}
	}
	return last
}

func before(c cron.Schedule, t time.Time) time.Time {
	if every, ok := c.(cron.ConstantDelaySchedule); ok {
		return t.Add(-every.Delay)
	}
	for _, span := range spans {
		var last time.Time
		for n := after(c, t.Add(-span)); !n.IsZero() && !n.After(t); n = after(c, n) {
			last = n
		}
		if !last.IsZero() {
			return last.UTC()
		}
	}
	return time.Time{}
}

// Due is when the next run should start, as seen at now: last is the start of the newest one that is known, zero for none. Without
// a run since the last due time that is now or has passed: times that were missed are made up by one run, and a job that never ran runs
// at once. The offset moves every due time by the same amount.
func (s Schedule) Due(last, now time.Time, offset time.Duration) time.Time {
	if s.IsZero() {
		return time.Time{}
	}
	if last.After(now) {
		last = now // recorded by a clock that was ahead
	}
	if previous := s.Previous(now); last.Before(previous) {
		return previous.Add(offset).UTC()
	}
	if last.IsZero() {
		last = now
	}
	return s.Next(last).Add(offset).UTC()
}

// Offset spreads jobs with the same schedule: always the same moment for one key, somewhere below limit, and below a tenth of the time
// from now to the next run but one.
func (s Schedule) Offset(key string, limit time.Duration, now time.Time) time.Duration {
	next := s.Next(now)
	limit = min(limit, s.Next(next).Sub(next)/10)
	if limit <= 0 {
		return 0
	}
	h := fnv.New64a()
	h.Write([]byte(key))
	return time.Duration(h.Sum64() % uint64(limit)).Truncate(time.Millisecond)
}

// Package schedules decides when work is due and runs it: cron expressions,
// one run made up after downtime, no overlapping runs of one job. It knows
// nothing of backups; it runs the functions that it is given.
package schedules

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Schedule is one or several cron expressions; it is due whenever any of them is.
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

// Next is the first due time after t, in UTC.
func (s Schedule) Next(t time.Time) time.Time {
	var next time.Time
	for _, c := range s.times {
		if n := c.Next(t.UTC()); !n.IsZero() && (next.IsZero() || n.Before(next)) {
			next = n
		}
	}
	return next.UTC()
}

package config

import (
	"errors"
	"strings"
	"time"

	"github.com/requorum/requorum/schedules"
)

// Cron is one cron expression: five fields, @hourly and the like, or @every DURATION; UTC unless it begins with
// CRON_TZ=ZONE.
type Cron string

// Crons is one or more cron expressions; each fires by itself.
type Crons []Cron

func (c *Cron) parse(text string, _ *decoder) *fault {
	const advice = `write five fields such as "0 * * * *" (UTC unless CRON_TZ=Europe/Berlin stands before them), @hourly, or @every 30m`
	text = strings.TrimSpace(text)
	if _, err := parseCron(text); err != nil {
		return &fault{err.Error(), advice}
	}
	*c = Cron(text)
	return nil
}

func (*Cron) describe() string { return "cron expression" }

// parseCron is [schedules.Parse], and refuses an @every that is not at least a second.
func parseCron(text string) (schedules.Schedule, error) {
	if _, every, ok := strings.Cut(text, "@every "); ok {
		if d, err := time.ParseDuration(strings.TrimSpace(every)); err == nil && d < time.Second {
			return schedules.Schedule{}, errors.New("@every needs a second or more")
		}
	}
	return schedules.Parse(text)
}

// Strings are the expressions as texts, for [schedules.Parse].
func (cs Crons) Strings() []string { return texts(cs) }

// gapStart is the fixed moment from which schedules are looked at, so that the same file always gives the same answer. Four
// years and more after it hold every month, weekday and leap day.
var gapStart = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// Gap is the longest time between two firings, zero without any expression or with a bad one. Five years are looked at: firing by
// firing up to 12,000 of them (each minute: a week; each hour: 500 days), day by day beyond.
func (cs Crons) Gap() time.Duration {
	if len(cs) == 0 {
		return 0
	}
	s, err := schedules.Parse(cs.Strings()...)
	if err != nil {
		return 0
	}
	end := gapStart.AddDate(5, 0, 0)
	last := s.Next(gapStart)
	var longest time.Duration
	for range 12_000 {
		t := s.Next(last)
		if t.IsZero() {
			return longest
		}
		longest = max(longest, t.Sub(last))
		if last = t; last.After(end) {
			return longest
		}
	}
	for d := last.Truncate(day).Add(day); d.Before(end); d = d.Add(day) {
		longest = max(longest, s.Next(d).Sub(d))
	}
	return longest
}

package catalog

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Policy says which backups are kept. The zero value, or one with nothing but Minimum and OldLines, keeps all of them.
type Policy struct {
	Last    int           // the newest ones
	Within  time.Duration // all that are younger
	Hourly  int           // the newest of each of so many hours that have one; likewise:
	Daily   int
	Weekly  int // ISO weeks, from Monday
	Monthly int
	Yearly  int

	Minimum  int           // never fewer than this many
	OldLines time.Duration // how long the newest of a line are held after it has ended
}

func (p Policy) empty() bool {
	return p.Last <= 0 && p.Within <= 0 && p.Hourly <= 0 && p.Daily <= 0 && p.Weekly <= 0 && p.Monthly <= 0 && p.Yearly <= 0
}

// Decision is what becomes of one backup, and why.
type Decision struct {
	Snapshot Snapshot
	Keep     bool
	Reasons  []string // for people; never empty
}

// bucket is a span of the calendar, UTC, of which the newest backup is kept.
type bucket struct {
	word  string
	keep  func(Policy) int
	name  func(time.Time) string
	since func(now time.Time, n int) time.Time // the start of the n-th bucket back, this one counted
}

var buckets = [...]bucket{
	{"hourly", func(p Policy) int { return p.Hourly },
		func(t time.Time) string { return t.Format("2006-01-02T15") },
		func(now time.Time, n int) time.Time {
			return now.Truncate(time.Hour).Add(-time.Duration(n-1) * time.Hour)
		}},
	{"daily", func(p Policy) int { return p.Daily },
		func(t time.Time) string { return t.Format(time.DateOnly) },
		func(now time.Time, n int) time.Time { return day(now).AddDate(0, 0, 1-n) }},
	{"weekly", func(p Policy) int { return p.Weekly },
		func(t time.Time) string { y, w := t.ISOWeek(); return fmt.Sprintf("%d-W%02d", y, w) },
		func(now time.Time, n int) time.Time {
			monday := day(now).AddDate(0, 0, -(int(now.Weekday())+6)%7)
			return monday.AddDate(0, 0, 7*(1-n))
		}},
	{"monthly", func(p Policy) int { return p.Monthly },
		func(t time.Time) string { return t.Format("2006-01") },
		func(now time.Time, n int) time.Time {
			return time.Date(now.Year(), now.Month()+time.Month(1-n), 1, 0, 0, 0, 0, time.UTC)
		}},
	{"yearly", func(p Policy) int { return p.Yearly },
		func(t time.Time) string { return t.Format("2006") },
		func(now time.Time, n int) time.Time {
			return time.Date(now.Year()+1-n, 1, 1, 0, 0, 0, 0, time.UTC)
		}},
}

func day(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
}

// Decide says of each committed backup whether the policy keeps it. It depends on nothing but its arguments; current is the
// line that backups continue, "" when there is none. Decisions come in order: the current line first, then the others,
// the one with the youngest backup first; in each the highest revision first.
//
// Each line is decided by itself, in the order of revisions. A backup whose newest verdict is failed neither counts
// nor protects. In the current line the rules count backups and buckets that have one: if backups stop, nothing is
// lost. Another line has ended, so there every rule reaches back from now and runs out; but its newest backups, as many as Last and
// Minimum say and at least one, are held until OldLines after its newest was taken or brought in.
//
// If the rules keep fewer than Minimum, and always at least one, the newest others are kept too: first the current
// line's, then those of other lines, at last failed ones. So neither a policy nor a mistake in one can empty a
// repository.
func (p Policy) Decide(now time.Time, current string, snaps []Snapshot) []Decision {
	now = now.UTC()
	var all []Decision
	for _, line := range byLine(current, snaps) {
		decisions := make([]Decision, len(line))
		for i, s := range line {
			decisions[i].Snapshot = s
		}
		switch {
		case p.empty():
			for i := range decisions {
				decisions[i].keep("no retention is configured")
			}
		case line[0].Line == current:
			p.decideCurrent(now, decisions)
		default:
			p.decideOld(now, decisions)
		}
		all = append(all, decisions...)
	}
	p.fill(current, all)
	for i := range all {
		if d := &all[i]; !d.Keep {
			d.Reasons = append(d.Reasons, "no rule keeps it")
			if d.Snapshot.Failed() {
				d.Reasons[0] = "failed its verification at " + d.Snapshot.FailedAt.UTC().Format(time.RFC3339)
			}
		}
	}
	return all
}

func (d *Decision) keep(reason string) {
	d.Keep = true
	d.Reasons = append(d.Reasons, reason)
}

// byLine groups the committed backups by line, in the order of decisions.
func byLine(current string, snaps []Snapshot) [][]Snapshot {
	at := map[string]int{}
	var lines [][]Snapshot
	for _, s := range snaps {
		if !s.Committed {
			continue
		}
		i, seen := at[s.Line]
		if !seen {
			i = len(lines)
			at[s.Line] = i
			lines = append(lines, nil)
		}
		lines[i] = append(lines[i], s)
	}
	for _, line := range lines {
		slices.SortFunc(line, newestFirst)
	}
	youngest := func(line []Snapshot) time.Time {
		return slices.MaxFunc(line, func(a, b Snapshot) int { return a.Time.Compare(b.Time) }).Time
	}
	slices.SortFunc(lines, func(a, b []Snapshot) int {
		if (a[0].Line == current) != (b[0].Line == current) {
			if a[0].Line == current {
				return -1
			}
			return 1
		}
		return cmp.Or(youngest(b).Compare(youngest(a)), cmp.Compare(a[0].Line, b[0].Line))
	})
	return lines
}

// newestFirst orders the backups of one line.
func newestFirst(a, b Snapshot) int {
	return cmp.Or(cmp.Compare(b.Revision, a.Revision), b.Time.Compare(a.Time), cmp.Compare(b.ID, a.ID))
}

// decideCurrent applies the rules to the line that goes on, newest first.
func (p Policy) decideCurrent(now time.Time, line []Decision) {
	p.newest(line, p.Last, func(n int) string { return fmt.Sprintf("last %d: number %d", p.Last, n) })
	p.newest(line, p.Minimum, func(n int) string { return fmt.Sprintf("minimum %d: number %d", p.Minimum, n) })
	p.within(now, line)
	p.buckets(line, func(bucket, int) time.Time { return time.Time{} })
}

// decideOld applies them to a line that has ended.
func (p Policy) decideOld(now time.Time, line []Decision) {
	i := slices.IndexFunc(line, func(d Decision) bool { return !d.Snapshot.Failed() })
	if i < 0 {
		return
	}
	// An import is as old as its contents: what counts is when it was brought in.
	end := later(line[i].Snapshot.Time, line[i].Snapshot.Modified).Add(p.OldLines)
	if now.Before(end) {
		p.newest(line, max(p.Last, p.Minimum, 1), func(n int) string {
			return fmt.Sprintf("old line: number %d, held until %s", n, end.UTC().Format(time.RFC3339))
		})
	}
	p.within(now, line)
	p.buckets(line, func(b bucket, n int) time.Time { return b.since(now, n) })
}

// newest keeps the first n that count.
func (p Policy) newest(line []Decision, n int, reason func(n int) string) {
	kept := 0
	for i := range line {
		if kept >= n {
			return
		}
		if !line[i].Snapshot.Failed() {
			kept++
			line[i].keep(reason(kept))
		}
	}
}

func (p Policy) within(now time.Time, line []Decision) {
	for i := range line {
		s := line[i].Snapshot
		if p.Within > 0 && !s.Failed() && now.Sub(s.Time) <= p.Within {
			line[i].keep("within " + Age(p.Within))
		}
	}
}

// buckets keeps the newest of each bucket that does not lie before since.
func (p Policy) buckets(line []Decision, since func(b bucket, n int) time.Time) {
	for _, b := range buckets {
		n := b.keep(p)
		if n <= 0 {
			continue
		}
		start, seen := since(b, n), map[string]bool{}
		for i := range line {
			s := line[i].Snapshot
			name := b.name(s.Time.UTC())
			if s.Failed() || seen[name] || s.Time.Before(start) {
				continue
			}
			if len(seen) == n {
				break
			}
			seen[name] = true
			line[i].keep(b.word + " " + name)
		}
	}
}

// fill keeps more until there are enough.
func (p Policy) fill(current string, all []Decision) {
	short := max(p.Minimum, 1)
	var rest []*Decision
	for i := range all {
		if all[i].Keep {
			short--
		} else {
			rest = append(rest, &all[i])
		}
	}
	slices.SortStableFunc(rest, func(a, b *Decision) int {
		rank := func(d *Decision) int {
			switch {
			case d.Snapshot.Failed():
				return 2
			case d.Snapshot.Line != current:
				return 1
			}
			return 0
		}
		return cmp.Or(cmp.Compare(rank(a), rank(b)), b.Snapshot.Time.Compare(a.Snapshot.Time), newestFirst(a.Snapshot, b.Snapshot))
	})
	for _, d := range rest[:max(0, min(short, len(rest)))] {
		reason := fmt.Sprintf("minimum %d: too few others are left", max(p.Minimum, 1))
		if d.Snapshot.Failed() {
			reason += "; it failed its verification"
		}
		d.keep(reason)
	}
}

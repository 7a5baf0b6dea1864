package catalog

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ErrNothingToRestore means that no backup is what was asked for.
var ErrNothingToRestore = errors.New("nothing to restore from")

// ErrReference says that what [Find] was asked for is written wrongly, is too short, or fits several.
var ErrReference = errors.New("no reference to one backup")

// badReference is an ErrReference that says more.
type badReference struct{ error }

func (badReference) Is(target error) bool { return target == ErrReference }

func (e badReference) Unwrap() error { return e.error }

func bad(format string, args ...any) error { return badReference{fmt.Errorf(format, args...)} }

// minPrefix is how much of an id is needed at least.
const minPrefix = 4

// Age writes a duration as people do: 2d3h, 5h4m, 10m, 7s. Two units at most, rounded down.
func Age(d time.Duration) string {
	if d < 0 {
		return "-" + Age(-d)
	}
	units := []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}}
	for i, u := range units {
		if d < u.size && i < len(units)-1 {
			continue
		}
		text := strconv.FormatInt(int64(d/u.size), 10) + u.name
		if i+1 < len(units) {
			if rest := d % u.size / units[i+1].size; rest > 0 {
				text += strconv.FormatInt(int64(rest), 10) + units[i+1].name
			}
		}
		return text
	}
	return "0s"
}

// ParseDuration reads Go's durations and, besides, days and weeks: 90m, 2h30m, 7d, 1w2d12h.
func ParseDuration(s string) (time.Duration, error) {
	bad := fmt.Errorf("duration %q: write for instance 90m, 36h, 7d or 2w", s)
	var total time.Duration
	rest := s
	for rest != "" {
		i := strings.IndexFunc(rest, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
		if i <= 0 {
			return 0, bad
		}
		j := i + strings.IndexFunc(rest[i:]+"0", func(r rune) bool { return r == '.' || r >= '0' && r <= '9' })
		number, unit := rest[:i], rest[i:j]
		rest = rest[j:]
		scale := time.Duration(1)
		switch unit {
		case "d":
			unit, scale = "h", 24
		case "w":
			unit, scale = "h", 7*24
		}
		d, err := time.ParseDuration(number + unit)
		if err != nil || d > (1<<63-1)/scale || total > 1<<63-1-d*scale {
			return 0, bad
		}
		total += d * scale
	}
	if s == "" {
		return 0, bad
	}
	return total, nil
}

// ParseMoment reads a moment: RFC 3339 with its zone, or a duration ago: "2h ago", "3d ago".
func ParseMoment(s string, now time.Time) (time.Time, error) {
	if ago, ok := strings.CutSuffix(strings.TrimSpace(s), "ago"); ok {
		d, err := ParseDuration(strings.TrimSpace(ago))
		if err != nil {
			return time.Time{}, err
		}
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("moment %q: write RFC 3339 with its zone, such as 2026-11-22T05:55:00Z, or for instance \"2h ago\"", s)
	}
	return t, nil
}

// Find picks the backup that ref asks for, of the committed ones. Ref is
//
//   - "latest": the newest of the current line,
//   - an id of a backup, or a prefix of at least four characters that no other has,
//   - an id of a line or such a prefix: the newest of that line,
//   - digits alone, a revision: the last at or below it in the current line,
//   - a moment (see [ParseMoment]): the last at or before it in the current line; if that line is younger than the moment, in
//     any other but imports.
//
// Newest is by revision. Unless it is named by its own id, a backup whose verdict is failed is passed over. Note says what a
// person should know about the choice: how far off it is, what was passed over; it may be empty. No match is [ErrNothingToRestore].
func Find(lines []Line, snaps []Snapshot, ref string, now time.Time) (found Snapshot, note string, err error) {
	f := finder{now: now, imports: map[string]bool{}}
	if current, ok := Current(lines); ok {
		f.current = current.Line
	}
	for _, l := range lines {
		f.imports[l.Line] = l.Source == LineImport
	}
	for _, s := range snaps {
		if s.Committed {
			f.snaps = append(f.snaps, s)
		}
	}
	slices.SortFunc(f.snaps, newestFirst)
	switch {
	case ref == "":
		return Snapshot{}, "", bad("no backup was named: write latest, an id, a revision or a moment")
	case ref == "latest":
		return f.latest()
	case strings.Trim(ref, "0123456789") == "":
		return f.revision(ref)
	case ref[0] == byte(KindBackup) && strings.Trim(ref[1:], alphabet) == "":
		return f.id(ref)
	case ref[0] == byte(KindLine) && strings.Trim(ref[1:], alphabet) == "":
		return f.line(ref)
	}
	return f.moment(ref)
}

// finder holds what there is to choose from, the highest revision first.
type finder struct {
	now     time.Time
	current string
	imports map[string]bool
	snaps   []Snapshot
}

// pick returns the first that fits, failed ones passed over, and a note about those.
func (f finder) pick(fits func(Snapshot) bool) (found Snapshot, note string, ok bool) {
	failed := 0
	for _, s := range f.snaps {
		switch {
		case !fits(s):
		case s.Failed():
			failed++
			note = fmt.Sprintf("%s was passed over: it failed its verification", s.ID)
			if failed > 1 {
				note = fmt.Sprintf("%d newer backups were passed over: they failed their verification", failed)
			}
		default:
			return s, note, true
		}
	}
	return Snapshot{}, note, false
}

func nothing(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrNothingToRestore, fmt.Sprintf(format, args...))
}

// because says why nothing was found.
func because(note string) string {
	if note == "" {
		return ""
	}
	return " (" + note + ")"
}

func (f finder) latest() (Snapshot, string, error) {
	s, note, ok := f.pick(func(s Snapshot) bool { return s.Line == f.current })
	if ok {
		return s, note, nil
	}
	// The line that is current has no good backup yet: the youngest of the others, by time since revisions of
	// different lines do not compare.
	f.byTime()
	s, other, ok := f.pick(func(s Snapshot) bool { return s.Line != f.current && !f.imports[s.Line] })
	if !ok {
		return Snapshot{}, "", nothing("there is no good backup of this cluster%s", because(joinNotes(note, other)))
	}
	which := fmt.Sprintf("the current line %s has no good backup: this one is of line %s", f.current, s.Line)
	if f.current == "" {
		which = fmt.Sprintf("no line is known to be current: this is the youngest, of line %s", s.Line)
	}
	return s, joinNotes(which, note, other), nil
}

func (f *finder) byTime() {
	f.snaps = slices.Clone(f.snaps)
	slices.SortStableFunc(f.snaps, func(a, b Snapshot) int { return b.Time.Compare(a.Time) })
}

func joinNotes(notes ...string) string {
	return strings.Join(slices.DeleteFunc(notes, func(s string) bool { return s == "" }), "; ")
}

func (f finder) revision(ref string) (Snapshot, string, error) {
	revision, err := strconv.ParseInt(ref, 10, 64)
	if err != nil {
		return Snapshot{}, "", bad("revision %s: too large", ref)
	}
	s, note, ok := f.pick(func(s Snapshot) bool { return s.Line == f.current && s.Revision <= revision })
	if !ok {
		return Snapshot{}, "", nothing("no good backup of line %s is at or below revision %d%s", f.current, revision, because(note))
	}
	if off := revision - s.Revision; off > 0 {
		note = joinNotes(fmt.Sprintf("it is %d revisions before the one asked for", off), note)
	}
	return s, note, nil
}

func (f finder) id(ref string) (Snapshot, string, error) {
	if len(ref) < minPrefix {
		return Snapshot{}, "", bad("id %s: at least %d characters are needed", ref, minPrefix)
	}
	var match []Snapshot
	for _, s := range f.snaps {
		if strings.HasPrefix(s.ID, ref) {
			match = append(match, s)
		}
	}
	switch len(match) {
	case 0:
		return Snapshot{}, "", nothing("no backup has an id that begins with %s", ref)
	case 1:
		note := ""
		if match[0].Failed() {
			note = "its verification failed at " + match[0].FailedAt.UTC().Format(time.RFC3339)
		}
		return match[0], note, nil
	}
	return Snapshot{}, "", bad("id %s is not unique: %s and %s begin with it; give more of it", ref, match[0].ID, match[1].ID)
}

func (f finder) line(ref string) (Snapshot, string, error) {
	if len(ref) < minPrefix {
		return Snapshot{}, "", bad("id %s: at least %d characters are needed", ref, minPrefix)
	}
	line := ""
	for _, s := range f.snaps {
		if !strings.HasPrefix(s.Line, ref) {
			continue
		}
		if line != "" && line != s.Line {
			return Snapshot{}, "", bad("id %s is not unique: lines %s and %s begin with it; give more of it", ref, line, s.Line)
		}
		line = s.Line
	}
	s, note, ok := f.pick(func(s Snapshot) bool { return s.Line == line })
	if !ok {
		return Snapshot{}, "", nothing("no good backup is of a line that begins with %s%s", ref, because(note))
	}
	return s, note, nil
}

func (f finder) moment(ref string) (Snapshot, string, error) {
	moment, err := ParseMoment(ref, f.now)
	if err != nil {
		return Snapshot{}, "", bad("backup %q: neither latest, an id, a revision nor a moment: %w", ref, err)
	}
	before := func(s Snapshot) bool { return !s.Time.After(moment) }
	f.byTime()
	s, note, ok := f.pick(func(s Snapshot) bool { return s.Line == f.current && before(s) })
	if !ok {
		var other string
		s, other, ok = f.pick(func(s Snapshot) bool { return !f.imports[s.Line] && before(s) })
		if !ok {
			return Snapshot{}, "", nothing("no good backup is at or before %s%s", moment.UTC().Format(time.RFC3339), because(note))
		}
		note = joinNotes(fmt.Sprintf("it is of line %s, before the current line %s", s.Line, f.current), other)
	}
	return s, joinNotes(fmt.Sprintf("taken %s before the moment asked for", Age(moment.Sub(s.Time))), note), nil
}

package catalog

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestParseDuration(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"90m": 90 * time.Minute, "2h30m": 150 * time.Minute, "7d": 168 * time.Hour, "1w2d12h": (9*24 + 12) * time.Hour, "1.5d": 36 * time.Hour, "10s": 10 * time.Second, "0s": 0,
	} {
		if got, err := ParseDuration(s); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "d", "7", "-7d", "7x", "d7", "1e3d", "999999999d", "200000w200000w", "7 d", "1..5h", "é"} {
		if got, err := ParseDuration(s); err == nil {
			t.Errorf("%q: %v, want an error", s, got)
		}
	}
}

func FuzzParseDuration(f *testing.F) {
	f.Add("1w2d12h")
	f.Add("100000000000000000h")
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := ParseDuration(s); err == nil && d < 0 {
			t.Errorf("%q is %v: it overflowed", s, d)
		}
	})
}

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 900 * time.Millisecond: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m1s", time.Hour: "1h", 2*time.Hour + 59*time.Minute + 59*time.Second: "2h59m",
		48 * time.Hour: "2d", 51*time.Hour + time.Minute: "2d3h", -time.Minute: "-1m",
	} {
		if got := Age(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

func TestParseMoment(t *testing.T) {
	now := date("2026-11-22T06:10:00Z")
	for s, want := range map[string]string{
		"2h ago": "2026-11-22T04:10:00Z", "3d ago": "2026-11-19T06:10:00Z", " 90m  ago ": "2026-11-22T04:40:00Z",
		"2026-11-22T07:00:00+02:00": "2026-11-22T05:00:00Z", "2026-11-22T05:00:00.25Z": "2026-11-22T05:00:00.25Z",
	} {
		if got, err := ParseMoment(s, now); err != nil || !got.Equal(date(want)) {
			t.Errorf("%q: %v, %v; want %s", s, got, err, want)
		}
	}
	for _, s := range []string{"", "ago", "yesterday", "2026-11-22", "2026-11-22T05:00:00", "05:00", "-2h ago"} {
		if got, err := ParseMoment(s, now); err == nil {
			t.Errorf("%q: %v, want an error: a moment without its zone would be guessed", s, got)
		}
	}
}

func TestFind(t *testing.T) {
	now := date("2026-11-22T06:10:00Z")
	line := func(n string, at int, source string) Line {
		return Line{Line: "l" + n + "000000000a", Time: now.Add(time.Duration(at) * time.Hour), Source: source}
	}
	backup := func(l Line, id string, at time.Duration, revision int64) Snapshot {
		return Snapshot{ID: id, Line: l.Line, Time: now.Add(at).Truncate(time.Second), Committed: true}.At(revision)
	}
	old, current, imported := line("1", -100, LineLive), line("2", -10, LineRestore), line("3", -1, LineImport)
	empty := line("4", -1, LineRestore)
	lines := []Line{imported, old, current}
	failed := backup(current, "bf0000000000", -time.Hour, 1300)
	failed.FailedAt = now
	uncommitted := backup(current, "bz0000000000", -time.Minute, 9999)
	uncommitted.Committed = false
	snaps := []Snapshot{
		backup(old, "ba0000000000", -50*time.Hour, 500), backup(old, "bb0000000000", -20*time.Hour, 800), backup(old, "bh0000000000", -2*time.Hour, 900),
		backup(current, "bc0000000000", -9*time.Hour, 1100), backup(current, "bd00000000d0", -5*time.Hour, 1200), failed, uncommitted,
		backup(current, "bd00000000d1", -7*time.Hour, 1150), backup(imported, "bk0000000000", -30*time.Minute, 7),
	}
	for _, test := range []struct {
		lines []Line
		ref   string
		id    string // expected
		note  string // words of the note, or of the error when id is ""
	}{
		{lines, "latest", "bd00000000d0", "bf0000000000 was passed over"},
		{append([]Line{empty}, lines...), "latest", "bh0000000000", "the current line l4000000000a has no good backup"},
		{lines, "ba00", "ba0000000000", ""},
		{lines, "bk0000000000", "bk0000000000", ""},
		{lines, "bf00", "bf0000000000", "its verification failed"},
		{lines, "bz00", "", "no backup has an id"},
		{lines, "ba0", "", "at least 4"},
		{lines, "bd00", "", "not unique: bd00000000d0 and bd00000000d1"},
		{lines, "bd00000000d1", "bd00000000d1", ""},
		{lines, "b0000", "", "no backup has an id"},
		{lines, "l100", "bh0000000000", ""},
		{lines, "l300", "bk0000000000", ""},
		{lines, "l999", "", "begins with l999"},
		{lines, "1200", "bd00000000d0", ""},
		{lines, "1199", "bd00000000d1", "49 revisions before"},
		{lines, "1300", "bd00000000d0", "100 revisions before the one asked for; bf0000000000 was passed over"},
		{lines, "1000", "", "at or below revision 1000"}, // of the old line is another history
		{lines, "99999999999999999999", "", "too large"},
		{lines, "6h ago", "bd00000000d1", "taken 1h before"},
		{lines, now.Add(-5 * time.Hour).Format(time.RFC3339), "bd00000000d0", "taken 0s before"},
		{lines, "15h ago", "bb0000000000", "it is of line l1000000000a"},
		{lines, "60h ago", "", "at or before"},
		{lines, "0s ago", "bd00000000d0", "taken 5h before the moment asked for; bf0000000000 was passed over"},
		{lines, "", "", "no backup was named"},
		{lines, "yesterday", "", "neither latest, an id"},
		{nil, "latest", "bk0000000000", "no line is known"},
	} {
		got, note, err := Find(test.lines, snaps, test.ref, now)
		if err != nil {
			note = err.Error()
		}
		if got.ID != test.id || (err == nil) != (test.id != "") || !strings.Contains(note, test.note) || test.note == "" && note != "" {
			t.Errorf("%q: %s, %q; want %s with %q", test.ref, got.ID, note, test.id, test.note)
		}
	}
	for _, ref := range []string{"latest", "ba00", "5", "2h ago", "l100"} {
		if _, _, err := Find(lines, nil, ref, now); !errors.Is(err, ErrNothingToRestore) {
			t.Errorf("%q of nothing: %v, want ErrNothingToRestore", ref, err)
		}
	}
}

package schedules

import (
	"strings"
	"testing"
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
		// Clocks in Berlin go from 02:00 to 03:00 at 01:00 UTC on 2026-03-29, and from 03:00 to 02:00 at 01:00 UTC on 2026-10-25.
		{"a time that is left out is due when clocks change", "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z", []string{"CRON_TZ=Europe/Berlin 30 2 * * *"}},
		{"and only once", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z", []string{"CRON_TZ=Europe/Berlin 30 2 * * *"}},
		{"seen from long before", "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z", []string{"CRON_TZ=Europe/Berlin 15,45 2 29 3 *"}},
		{"a day without the time's being left out", "2026-03-28T12:00:00Z", "2026-03-29T01:30:00Z", []string{"CRON_TZ=Europe/Berlin 30 3 * * *"}},
		{"each hour goes on by the hour over the change", "2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z", []string{"CRON_TZ=Europe/Berlin 30 * * * *"}},
		{"a time that comes twice: first", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z", []string{"CRON_TZ=Europe/Berlin 30 2 * * *"}},
		{"a time that comes twice: second", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", []string{"CRON_TZ=Europe/Berlin 30 2 * * *"}},
		{"each hour in the hour that comes twice", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", []string{"CRON_TZ=Europe/Berlin 30 * * * *"}},
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

// A wrong previous time makes up for a run that was not missed, or misses one.
func TestPrevious(t *testing.T) {
	for _, c := range []struct {
		at, want string
		specs    []string
	}{
		{"2026-11-22T08:16:00Z", "2026-11-22T08:00:00Z", []string{"0 * * * *"}},
		{"2026-11-22T08:00:00Z", "2026-11-22T08:00:00Z", []string{"0 * * * *"}},
		{"2026-11-22T08:16:30Z", "2026-11-22T08:16:00Z", []string{"* * * * *"}},
		{"2026-11-22T08:16:00Z", "2026-10-01T09:00:00Z", []string{"0 9 1 */3 *"}},
		{"2026-11-22T08:16:00Z", "2024-02-29T00:00:00Z", []string{"0 0 29 2 *"}},
		{"2026-11-22T08:16:00Z", "2026-11-22T08:14:30Z", []string{"@every 90s"}},
		{"2026-11-22T08:16:00Z", "2026-11-22T08:14:30Z", []string{"0 8 * * *", "@every 90s"}},
		{"2026-03-29T06:00:00Z", "2026-03-29T01:00:00Z", []string{"CRON_TZ=Europe/Berlin 30 2 * * *"}},
	} {
		s, err := Parse(c.specs...)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Previous(at(t, c.at)); !got.Equal(at(t, c.want)) {
			t.Errorf("%s at %s: previous %s, want %s", s, c.at, got, c.want)
		}
	}
	if got := (Schedule{}).Previous(at(t, "2026-11-22T08:16:00Z")); !got.IsZero() {
		t.Errorf("the schedule that is never due was due at %s", got)
	}
}

// Due decides what is made up after downtime.
func TestDue(t *testing.T) {
	hourly := mustParse(t, "0 * * * *")
	now := at(t, "2026-11-22T08:16:00Z")
	const offset = 20 * time.Second
	for _, c := range []struct {
		name string
		last time.Time
		want string
	}{
		{"it ran in time", at(t, "2026-11-22T08:00:20Z"), "2026-11-22T09:00:20Z"},
		{"five were missed: one is made up", at(t, "2026-11-22T03:00:20Z"), "2026-11-22T08:00:20Z"},
		{"it never ran", time.Time{}, "2026-11-22T08:00:20Z"},
		{"the record is from a clock that was ahead", at(t, "2026-11-22T17:00:00Z"), "2026-11-22T09:00:20Z"},
	} {
		if got := hourly.Due(c.last, now, offset); !got.Equal(at(t, c.want)) {
			t.Errorf("%s: due %s, want %s", c.name, got, c.want)
		}
	}
	if got := (Schedule{}).Due(time.Time{}, now, offset); !got.IsZero() {
		t.Errorf("the schedule that is never due is due at %s", got)
	}
}

// A hundred clusters with one schedule must not start together, and each always at its own moment.
func TestOffsetSpreads(t *testing.T) {
	s := mustParse(t, "*/5 * * * *")
	now := at(t, "2026-11-22T08:16:00Z")
	seconds := map[int]int{}
	for i := range 100 {
		key := string(rune('a'+i%26)) + string(rune('a'+i/26))
		o := s.Offset(key, time.Minute, now)
		if o < 0 || o >= 30*time.Second {
			t.Fatalf("offset %s of a five-minute schedule, want less than a tenth of it", o)
		}
		if again := s.Offset(key, time.Minute, now.Add(77*time.Hour)); again != o {
			t.Fatalf("the offset of %s changed from %s to %s", key, o, again)
		}
		seconds[int(o.Seconds())]++
	}
	if len(seconds) < 20 {
		t.Errorf("100 clusters start in only %d different seconds of 30: %v", len(seconds), seconds)
	}
	if o := s.Offset("a", 0, now); o != 0 {
		t.Errorf("offset %s without jitter", o)
	}
}

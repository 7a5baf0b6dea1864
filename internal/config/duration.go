package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a length of time that is written with units from ns to w: 90m, 1h30m, 7d, 2w. A day is 24 hours.
type Duration time.Duration

const (
	day  = 24 * time.Hour
	week = 7 * day
)

var units = map[string]time.Duration{
	"ns": time.Nanosecond, "us": time.Microsecond, "µs": time.Microsecond, "ms": time.Millisecond,
	"s": time.Second, "m": time.Minute, "h": time.Hour, "d": day, "w": week,
}

// ParseDuration reads a duration. It refuses negative ones and those without a unit, except 0.
func ParseDuration(text string) (Duration, error) {
	rest := strings.TrimSpace(text)
	if rest == "0" {
		return 0, nil
	}
	if rest == "" {
		return 0, fmt.Errorf("an empty text is no duration")
	}
	if strings.HasPrefix(rest, "-") {
		return 0, fmt.Errorf("%s is negative", quote(text))
	}
	var sum float64
	for rest != "" {
		number := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789."))]
		rest = rest[len(number):]
		unit := rest[:len(rest)-len(strings.TrimLeft(rest, "nuµmshdw"))]
		rest = rest[len(unit):]
		n, err := strconv.ParseFloat(number, 64)
		size, ok := units[unit]
		switch {
		case err != nil:
			return 0, fmt.Errorf("%s is no duration", quote(text))
		case unit == "" && rest == "":
			return 0, fmt.Errorf("%s has no unit", quote(text))
		case !ok:
			return 0, fmt.Errorf("%s has an unknown unit", quote(text))
		}
		sum += n * float64(size)
	}
	if sum >= math.MaxInt64 {
		return 0, fmt.Errorf("%s is longer than 292 years", quote(text))
	}
	return Duration(math.Round(sum)), nil
}

// String writes the duration in its largest even units: 7d, 1h30m, 0s.
func (d Duration) String() string {
	t := time.Duration(d)
	if t == 0 {
		return "0s"
	}
	var b strings.Builder
	for _, u := range []struct {
		name string
		size time.Duration
	}{{"d", day}, {"h", time.Hour}, {"m", time.Minute}} {
		if n := t / u.size; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, u.name)
			t -= n * u.size
		}
	}
	if t > 0 {
		b.WriteString(t.String())
	}
	return b.String()
}

func (d *Duration) parse(text string, _ *decoder) *fault {
	v, err := ParseDuration(text)
	if err != nil {
		return &fault{err.Error(), "write a number with a unit, such as 90s, 30m, 12h, 7d or 2w"}
	}
	*d = v
	return nil
}

func (*Duration) describe() string { return "duration" }

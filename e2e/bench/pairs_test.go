package bench

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// say prints a line of the report. What a benchmark logs is cut off after ten lines.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stdout, format+"\n", args...)
}

// A series is what was measured in the runs of one side.
type series []float64

func (s series) median() float64 {
	sorted := slices.Sorted(slices.Values(s))
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// text is the median with the smallest and the largest.
func (s series) text(unit string) string {
	return fmt.Sprintf("%s (%s-%s) %s", number(s.median()), number(slices.Min(s)), number(slices.Max(s)), unit)
}

func number(x float64) string {
	switch {
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	default:
		return fmt.Sprintf("%.2f", x)
	}
}

// A comparison is two sides measured in alternating pairs.
type comparison struct {
	what            string
	ours, base      series
	oursIs, baseIs  string // what each side is
	unit            string
	target, stretch float64 // the most that ours may be, in times of base; stretch 0: none
	before, after   string  // load of the machine
	remarks         []string
}

// compare measures both sides n times, one after the other, each first in every other pair.
func (c *comparison) compare(n int, ours, base func() float64) {
	c.before = load()
	for i := range n {
		if i%2 == 0 {
			c.base = append(c.base, base())
			c.ours = append(c.ours, ours())
		} else {
			c.ours = append(c.ours, ours())
			c.base = append(c.base, base())
		}
	}
	c.after = load()
}

// ratio is that of the medians.
func (c *comparison) ratio() float64 { return c.ours.median() / c.base.median() }

func (c *comparison) remark(format string, args ...any) {
	c.remarks = append(c.remarks, fmt.Sprintf(format, args...))
}

// report prints the comparison.
func (c *comparison) report(b *testing.B) {
	b.Helper()
	var pairs series
	for i := range c.ours {
		pairs = append(pairs, c.ours[i]/c.base[i])
	}
	verdict := fmt.Sprintf("target %s: %s", number(c.target), met(c.ratio() <= c.target))
	if c.stretch != 0 {
		verdict += fmt.Sprintf(", stretch %s: %s", number(c.stretch), met(c.ratio() <= c.stretch))
	}
	say("\n%s", c.what)
	say("  %-26s %s", c.oursIs, c.ours.text(c.unit))
	say("  %-26s %s", c.baseIs, c.base.text(c.unit))
	say("  %-26s %.3f; pair by pair %s; %s", "ratio of medians", c.ratio(), strings.TrimSpace(pairs.text("")), verdict)
	for _, r := range c.remarks {
		say("  %s", r)
	}
	say("  %d pairs, load average %s before, %s after", len(c.ours), c.before, c.after)
	b.ReportMetric(c.ratio(), "x-baseline")
	b.ReportMetric(c.ours.median(), c.unit+"-requorum")
	b.ReportMetric(c.base.median(), c.unit+"-baseline")
	b.ReportMetric(0, "ns/op") // of no meaning here
}

func met(ok bool) string {
	if ok {
		return "met"
	}
	return "MISSED"
}

package drills

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"math"
	"strings"
	"time"

	"github.com/requorum/requorum/storage/catalog"
)

//go:embed page.html
var pageText string

// Page is the report for people: one HTML file without scripts, which loads nothing.
func (r *Report) Page() ([]byte, error) {
	t, err := template.New("page").Funcs(template.FuncMap{
		"seconds": seconds, "bytes": size, "number": number, "when": when, "clock": func(t time.Time) string { return t.UTC().Format("15:04:05") },
		"day": func(t time.Time) string { return t.UTC().Format("2006-01-02") }, "short": func(s string) string { return s[:min(len(s), 16)] },
		"objective": func(name string) string {
			if name == "drill_age" {
				return "Age of the drill before"
			}
			return strings.ToUpper(name)
		},
	}).Parse(pageText)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, view{Report: r}); err != nil {
		return nil, fmt.Errorf("page of drill %s: %w", r.ID, err)
	}
	return b.Bytes(), nil
}

// view is a report with what a page says about it.
type view struct{ *Report }

// Headline is the verdict in a few words.
func (v view) Headline() string {
	switch v.Outcome {
	case Proven:
		return "Restore proven"
	case Missed:
		return "Restore proven, an objective was missed"
	}
	return "Drill failed"
}

// Class colours the verdict.
func (v view) Class() string {
	switch v.Outcome {
	case Proven:
		return "good"
	case Missed:
		return "fair"
	}
	return "bad"
}

// Summary is the drill in two sentences.
func (v view) Summary() string {
	if v.Source.ID == "" {
		return "There was nothing to restore."
	}
	where := "in a sandbox, the running cluster untouched"
	if v.Kind == Live {
		where = "on the real members"
	}
	s := fmt.Sprintf("Backup %s of %s (revision %s, %s keys, %s)", v.Source.ID, when(v.Source.Time), number(v.Source.Revision), number(v.Source.Keys), size(v.Source.Bytes))
	if v.RTOSeconds == 0 {
		return s + " was to be rebuilt " + where + "; it did not come to a proof."
	}
	return s + fmt.Sprintf(" was rebuilt as %d members ", len(v.Report.Members)) + where + fmt.Sprintf(", and proven after %s. Had the cluster been lost when the drill began, the writes of the last %s would have been lost.",
		seconds(v.RTOSeconds), seconds(v.RPOSeconds))
}

// Tile is one measured number.
type tile struct {
	Name, Value, Detail, Class string
	Share                      int // of what is asked for, in percent, at most 100; -1: nothing is asked for
}

// Tiles are the numbers at the top.
func (v view) Tiles() []tile {
	var tiles []tile
	for _, name := range []string{"rto", "rpo"} {
		t := tile{Name: strings.ToUpper(name), Value: "not proven", Detail: "no objective is configured", Share: -1}
		what := v.RTOSeconds
		if name == "rpo" {
			what = v.RPOSeconds
		}
		if what > 0 || name == "rpo" {
			t.Value = seconds(what)
		}
		for _, o := range v.Objectives {
			if o.Name != name || o.Asked == 0 {
				continue
			}
			t.Detail = "asked for: " + seconds(o.Asked)
			if o.Judged && what > 0 {
				t.Share = int(math.Min(100, math.Ceil(100*o.Measured/o.Asked)))
				t.Class = map[bool]string{true: "good", false: "bad"}[o.Met]
			}
		}
		tiles = append(tiles, t)
	}
	if c := v.Content; c != nil {
		t := tile{Name: "Keys compared", Value: number(c.Compared), Detail: fmt.Sprintf("%s different, %s removed as planned", number(c.Different), number(c.Removed)), Share: -1, Class: "good"}
		if c.Different > 0 {
			t.Class = "bad"
		}
		tiles = append(tiles, t)
	} else {
		tiles = append(tiles, tile{Name: "Keys", Value: number(v.Source.Keys), Detail: "in the backup", Share: -1})
	}
	healthy := 0
	for _, m := range v.Members {
		if m.Healthy {
			healthy++
		}
	}
	t := tile{Name: "Members", Value: fmt.Sprintf("%d of %d", healthy, len(v.Members)), Detail: "healthy, etcd " + v.Versions.Etcd, Share: -1}
	if len(v.Members) == 0 {
		t.Value, t.Detail = "none", "it did not come to that"
	}
	if healthy > 0 && healthy == len(v.Members) {
		t.Class = "good"
	}
	return append(tiles, t)
}

// bar is a step on the timeline, in thousandths of its width.
type bar struct {
	Step
	X, Width float64
	Class    string
}

// Timeline lays the steps out.
func (v view) Timeline() []bar {
	total := v.Ended.Sub(v.Started).Seconds()
	if total <= 0 {
		total = 1
	}
	var bars []bar
	for _, s := range v.Steps {
		b := bar{Step: s, X: 1000 * math.Max(0, s.Started.Sub(v.Started).Seconds()) / total, Width: math.Max(4, 1000*s.Seconds/total), Class: "step"}
		b.X = math.Min(b.X, 1000-b.Width)
		if s.Restore {
			b.Class = "restore"
		}
		if !s.OK {
			b.Class = "bad"
		}
		bars = append(bars, b)
	}
	return bars
}

// Axis are the marks below the timeline.
func (v view) Axis() []string {
	total := v.Ended.Sub(v.Started).Seconds()
	return []string{"0", seconds(total / 4), seconds(total / 2), seconds(total * 3 / 4), seconds(total)}
}

// chart is one number over the drills, this one the last.
type chart struct {
	Name, Top   string
	Columns     []column
	Objective   float64 // from the top, in thousandths; -1: none
	Asked       string
	First, Last string
}

type column struct {
	X, Y, Width, Height float64
	Class, Title        string
}

// Charts are the trends of RTO and RPO.
func (v view) Charts() []chart {
	all := append(append([]Past{}, v.Trend...), v.Report.past())
	if len(all) < 2 {
		return nil
	}
	var charts []chart
	for _, name := range []string{"rto", "rpo"} {
		c := chart{Name: strings.ToUpper(name), Objective: -1, First: all[0].Started.UTC().Format("2006-01-02 15:04"), Last: all[len(all)-1].Started.UTC().Format("2006-01-02 15:04")}
		value := func(p Past) float64 {
			if name == "rto" {
				return p.RTOSeconds
			}
			return p.RPOSeconds
		}
		top := 0.0
		for _, p := range all {
			top = math.Max(top, value(p))
		}
		for _, o := range v.Objectives {
			if o.Name == name && o.Asked > 0 && o.Asked < 4*top { // one far beyond would press all columns to the ground
				top = math.Max(top, o.Asked)
				c.Objective, c.Asked = o.Asked, seconds(o.Asked)
			}
		}
		if top == 0 {
			continue
		}
		top *= 1.08
		if c.Objective > 0 {
			c.Objective = 1000 * (1 - c.Objective/top)
		}
		c.Top = seconds(top)
		slot := 1000 / math.Max(float64(len(all)), 8)
		for i, p := range all {
			h := 1000 * value(p) / top
			class := map[Outcome]string{Proven: "good", Missed: "fair"}[p.Outcome]
			title := fmt.Sprintf("%s: %s %s", when(p.Started), c.Name, seconds(value(p)))
			if class == "" {
				class, h, title = "bad", 1000, fmt.Sprintf("%s: failed at %s", when(p.Started), p.Failed)
			}
			if i == len(all)-1 {
				class += " now"
			}
			c.Columns = append(c.Columns, column{X: float64(i)*slot + slot*0.15, Y: 1000 - h, Width: slot * 0.7, Height: h, Class: class, Title: title})
		}
		charts = append(charts, c)
	}
	return charts
}

// size writes bytes as a person reads them.
func size(n int64) string { return strings.ReplaceAll(catalog.Size(n), " ", "\u202f") }

// number groups digits by three, with narrow spaces.
func number(n int64) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "\u202f" + text[i:]
	}
	return text
}

func when(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

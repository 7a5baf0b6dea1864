package notify

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Message is what a receiver is told at once; its JSON is what a webhook gets, and its fields are what a template works with.
type Message struct {
	Status    string    `json:"status"`  // problem; recovered when everything in it is over; news when nothing was wrong
	Summary   string    `json:"summary"` // one line
	Text      string    `json:"text"`    // all of it, in lines
	Host      string    `json:"host"`    // the replica that tells
	Time      time.Time `json:"time"`
	Standing  int       `json:"standing"`  // problems that this receiver cares for and that stand now, told here or before
	Problems  []Told    `json:"problems"`  // new ones, worse ones, and those told again; the worst first
	Recovered []Told    `json:"recovered"` // what was told and is over
	News      []News    `json:"news"`      // what went well, told once
}

// Told is one problem in a message.
type Told struct {
	Problem
	Times    int     `json:"times"`              // how often it happened while it stood: runs that failed again
	Reminder bool    `json:"reminder,omitempty"` // it was told before and still stands
	Seconds  float64 `json:"seconds,omitempty"`  // of what is over: how long it stood
}

func (m Message) empty() bool { return len(m.Problems)+len(m.Recovered)+len(m.News) == 0 }

// describe fills in status, summary and text.
func (m *Message) describe() {
	switch {
	case len(m.Problems) > 0:
		m.Status = "problem"
	case len(m.Recovered) > 0:
		m.Status = "recovered"
	default:
		m.Status = "news"
	}
	switch {
	case m.Status == "news" && len(m.News) == 1:
		m.Summary = "OK: " + subject(m.News[0].Cluster) + ": " + firstLine(m.News[0].What)
	case len(m.Problems) == 1 && len(m.Recovered) == 0:
		p := m.Problems[0]
		m.Summary = strings.ToUpper(p.Severity) + ": " + subject(p.Cluster) + ": " + firstLine(p.What)
	case len(m.Problems) == 0 && len(m.Recovered) == 1:
		p := m.Recovered[0]
		m.Summary = "RECOVERED: " + subject(p.Cluster) + ": " + firstLine(p.What)
	default:
		var parts, clusters []string
		if n := len(m.Problems); n > 0 {
			parts = append(parts, strings.ToUpper(m.Problems[0].Severity)+": "+count(n, "problem"))
		}
		if n := len(m.Recovered); n > 0 {
			parts = append(parts, fmt.Sprintf("%d recovered", n))
		}
		if m.Status == "news" {
			parts = append(parts, fmt.Sprintf("OK: %d reports", len(m.News)))
			for _, n := range m.News {
				clusters = append(clusters, subject(n.Cluster))
			}
		}
		for _, p := range slices.Concat(m.Problems, m.Recovered) {
			clusters = append(clusters, subject(p.Cluster))
		}
		slices.Sort(clusters)
		clusters = slices.Compact(clusters)
		m.Summary = strings.Join(parts, ", ") + ": " + strings.Join(clusters, ", ")
	}
	var b strings.Builder
	for _, p := range m.Problems {
		fmt.Fprintf(&b, "%s: %s: %s", strings.ToUpper(p.Severity), subject(p.Cluster), p.What)
		if p.Times > 1 {
			fmt.Fprintf(&b, " (%d times)", p.Times)
		}
		if p.Reminder {
			fmt.Fprintf(&b, " (since %s)", p.Since.UTC().Format("2006-01-02 15:04 MST"))
		}
		b.WriteString("\n")
		if p.Advice != "" {
			fmt.Fprintf(&b, "  try: %s\n", p.Advice)
		}
	}
	for _, p := range m.Recovered {
		fmt.Fprintf(&b, "RECOVERED after %s: %s: %s\n", time.Duration(p.Seconds*float64(time.Second)).Round(time.Second), subject(p.Cluster), p.What)
	}
	for _, n := range m.News {
		fmt.Fprintf(&b, "OK: %s: %s\n", subject(n.Cluster), n.What)
	}
	if others := m.Standing - len(m.Problems); others > 0 {
		fmt.Fprintf(&b, "%s told before still %s\n", count(others, "problem"), map[bool]string{true: "stands", false: "stand"}[others == 1])
	}
	m.Text = b.String()
}

// firstLine is what a text begins with, without what would announce more lines.
func firstLine(s string) string {
	first, _, _ := strings.Cut(s, "\n")
	return strings.TrimRight(first, ": ")
}

func subject(cluster string) string {
	if cluster == "" {
		return "requorum"
	}
	return cluster
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

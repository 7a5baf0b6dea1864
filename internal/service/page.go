package service

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/requorum/requorum/storage/catalog"
)

//go:embed page.html
var pageText string

// pageRefresh is how often a browser asks anew.
const pageRefresh = 30 * time.Second

// page answers with [Status.Page].
func (a API) page(w http.ResponseWriter, _ *http.Request) {
	page, err := a.status().Page()
	if err != nil {
		a.Service.o.Log.Error("the page cannot be made", "error", err)
		fail(w, http.StatusInternalServerError, "the page cannot be made", "see the log of the service; /api/v1/clusters says the same")
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	_, _ = w.Write(page) // the caller is gone
}

// Page is the status for people: one page of HTML without scripts, which loads nothing but itself, from time to time.
func (s Status) Page() ([]byte, error) {
	t, err := template.New("page").Funcs(template.FuncMap{
		"ago":   func(t time.Time) string { return since(s.Now.Sub(t)) },
		"when":  func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
		"count": func(n int, what string) string { return catalog.Count(n, what) },
		"took":  func(seconds float64) string { return brief(time.Duration(seconds * float64(time.Second))) },
	}).Parse(pageText)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, statusView{s}); err != nil {
		return nil, fmt.Errorf("the status page: %w", err)
	}
	return b.Bytes(), nil
}

// since says how long ago something was, or in how long it will be.
func since(d time.Duration) string {
	switch {
	case d <= -time.Second:
		return "in " + brief(-d)
	case d < time.Second:
		return "now"
	}
	return brief(d) + " ago"
}

// brief is a duration as a person reads it.
func brief(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	}
	return catalog.Age(d)
}

// statusView is a status with what the page says about it.
type statusView struct{ Status }

// Refresh is in seconds.
func (statusView) Refresh() int { return int(pageRefresh.Seconds()) }

// Headline is the state of everything in a few words.
func (v statusView) Headline() string {
	counts := map[Severity]int{}
	for _, a := range v.Alerts {
		counts[a.Severity]++
	}
	var parts []string
	for _, s := range []Severity{Critical, Warning, Unknown} {
		if n := counts[s]; n > 0 && s == Unknown {
			parts = append(parts, fmt.Sprintf("%d unknown", n))
		} else if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, s))
		}
	}
	switch {
	case len(parts) > 0:
		return strings.Join(parts, ", ")
	case v.Down != "":
		return "Schedules are not followed"
	}
	return "No fault is known"
}

// Class colours the headline.
func (v statusView) Class() string {
	switch {
	case len(v.Alerts) > 0:
		return classOf(v.Alerts)
	case v.Down != "":
		return "fair"
	}
	class := "good"
	for _, c := range v.Cards() {
		switch own := c.Class(); {
		case own == "fair":
			return own
		case own == "quiet": // what is not known is not good
			class = own
		}
	}
	return class
}

func classOf(alerts []Alert) string {
	if slices.ContainsFunc(alerts, func(a Alert) bool { return a.Severity == Critical }) {
		return "bad"
	}
	if len(alerts) > 0 {
		return "fair"
	}
	return "good"
}

// Own are the faults of the service itself.
func (v statusView) Own() []Alert { return v.of("") }

// OwnClass colours them.
func (v statusView) OwnClass() string { return classOf(v.Own()) }

// Cards are the clusters, those with the worst faults first.
func (v statusView) Cards() []card {
	var cards []card
	for _, c := range v.Clusters {
		cards = append(cards, card{ClusterState: c, Faults: v.of(c.Cluster)})
	}
	rank := func(c card) int {
		if len(c.Faults) == 0 {
			return worst("")
		}
		return worst(c.Faults[0].Severity)
	}
	slices.SortStableFunc(cards, func(a, b card) int { return rank(a) - rank(b) })
	return cards
}

// card is one cluster.
type card struct {
	ClusterState
	Faults []Alert
}

// Mine says whether this replica works for the cluster, and so knows it.
func (c card) Mine() bool { return c.Role == Leader || c.Role == Orphan }

// Class colours the cluster.
func (c card) Class() string {
	switch {
	case len(c.Faults) > 0:
		return classOf(c.Faults)
	case !c.Mine() || c.Backups == nil:
		return "quiet"
	case c.Held || *c.Backups == 0:
		return "fair"
	}
	return "good"
}

// Word is the state of the cluster.
func (c card) Word() string {
	switch {
	case len(c.Faults) > 0:
		return catalog.Count(len(c.Faults), "fault")
	case !c.Mine():
		return "another replica's"
	case c.Held:
		return "a restore is under way"
	case c.Backups == nil:
		return "not looked at yet"
	case *c.Backups == 0:
		return "no backup yet"
	}
	return "no fault"
}

// Due are the next runs, the first one first.
func (c card) Due() []due {
	var all []due
	for kind, at := range c.Next {
		all = append(all, due{kind, at})
	}
	slices.SortFunc(all, func(a, b due) int { return a.Time.Compare(b.Time) })
	return all
}

type due struct {
	Kind Kind
	Time time.Time
}

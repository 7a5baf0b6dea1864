package service

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/storage/catalog"
)

// What stores, members and agents said is shown as text, never as a part of the page; and the page may load and run nothing.
func TestPageEscapes(t *testing.T) {
	const evil = `"><script>alert(1)</script><img src=x onerror=alert(1)>`
	now := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	none := 0
	page, err := Status{Now: now, Host: evil, Version: evil, Down: evil, Metrics: true,
		Clusters: []ClusterState{{Cluster: evil, Role: Leader, Backups: &none, Listed: &now, Newest: evil, Time: &now, Drilled: &Rehearsed{ID: evil, Time: now}, Stores: []StoreState{{Name: evil}}, Next: map[Kind]time.Time{Kind(evil): now}}},
		Alerts:   []Alert{{Problem: Problem{Name: evil, Severity: Severity(evil), What: evil, Advice: evil}, Cluster: evil, Since: now}, {Problem: Problem{Name: evil, What: evil}}}}.Page()
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"<script", "<img", "http://", "https://"} {
		if strings.Contains(string(page), word) {
			t.Errorf("%s stands in the page:\n%s", word, page)
		}
	}
	if n := strings.Count(string(page), "&lt;script&gt;alert(1)"); n < 12 {
		t.Errorf("%d of the texts are shown:\n%s", n, page)
	}
	w := httptest.NewRecorder()
	API{Service: New(Options{})}.Handler().ServeHTTP(w, func() *http.Request {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.Host = "localhost"
		return r
	}())
	policy := w.Result().Header.Get("Content-Security-Policy")
	if w.Code != http.StatusOK || !strings.Contains(policy, "default-src 'none'") || !strings.Contains(policy, "frame-ancestors 'none'") || w.Result().Header.Get("Cache-Control") != "no-store" {
		t.Errorf("answer %d with policy %q: %v", w.Code, policy, w.Result().Header)
	}
	if !strings.Contains(w.Body.String(), "the service has not begun") {
		t.Errorf("a service that has not begun says\n%s", w.Body)
	}
}

// The page and the API say the same of a cluster: its newest good backup with verdict and drill, stores that do not answer, the last drill.
func TestStates(t *testing.T) {
	now := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	ago := func(h int) time.Time { return now.Add(-time.Duration(h) * time.Hour) }
	good := catalog.Snapshot{ID: "bgood0000000", Time: ago(5), Revision: 40, VerifiedAt: ago(2), Drilled: catalog.Rehearsal{Drill: catalog.Drill{ID: "d0000000000a", Time: ago(1)}, Failed: true}}
	bad := catalog.Snapshot{ID: "bbad00000000", Time: ago(1), Revision: 50, FailedAt: ago(1)}
	old := catalog.Snapshot{ID: "bxld00000000", Time: ago(9), Revision: 30}
	c := ClusterState{Cluster: "dcs", Role: Leader, Next: map[Kind]time.Time{Verify: now.Add(3 * time.Hour), Snapshot: now.Add(time.Hour)}}
	c.stored(Stored{At: now, Backups: []catalog.Snapshot{old, good, bad}, StoreErr: map[string]error{"main": nil, "away": errStore}, Drill: &LastDrill{ago(48), 23 * time.Minute, 14 * time.Second}})
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{`"backups":3`, `"newest":"bgood0000000"`, `"newest_revision":40`, `"newest_verified_at":"2026-11-22T07:00:00Z"`, `"newest_drill":{"id":"d0000000000a","time":"2026-11-22T08:00:00Z","ok":false}`,
		`"failed":1`, `"last_drill":{"time":"2026-11-20T09:00:00Z","rpo_seconds":1380,"rto_seconds":14}`, `"stores":[{"name":"away","ok":false},{"name":"main","ok":true}]`, `"listed_at":"2026-11-22T09:00:00Z"`} {
		if !strings.Contains(string(text), word) {
			t.Errorf("%s is missing: %s", word, text)
		}
	}
	other := ClusterState{Cluster: "other", Role: Follower}
	s := Status{Now: now, Host: "here", Clusters: []ClusterState{other, {Cluster: "calm", Role: Leader}, c}, Alerts: []Alert{{Problem: Problem{Name: "stores", Severity: Warning, What: "store away is away"}, Cluster: "dcs", Since: ago(1)},
		{Problem: Problem{Name: "no_quorum", Severity: Critical, What: "no quorum"}, Cluster: "dcs", Since: ago(1)}}}
	page, err := s.Page()
	if err != nil {
		t.Fatal(err)
	}
	at := 0
	for _, word := range []string{"1 critical, 1 warning", `data-cluster="dcs"`, "2 faults", "5h ago", "bgood0000000", "verified 2h ago", "FAILED in drill d0000000000a", "1 with a failed verification", "2d ago: RTO 14 s, RPO 23m",
		"away <span class=\"bad\">does not answer", "main <span class=\"good\">answers", "snapshot in 1h", "verify in 3h", "critical: no_quorum", "warning: stores", "1h ago",
		`data-cluster="other"`, "another replica", `data-cluster="calm"`, "not looked at yet"} { // in this order: the cluster with faults comes first
		i := strings.Index(string(page[at:]), word)
		if i < 0 {
			t.Fatalf("%q is not on the page, or not after what comes before it:\n%s", word, page[at:])
		}
		at += i
	}
	n := 1
	known := ClusterState{Cluster: "known", Role: Leader, Backups: &n, Listed: &now}
	for class, clusters := range map[string][]ClusterState{"good": {known}, "quiet": {known, other}, "fair": {known, other, {Cluster: "held", Role: Leader, Backups: &n, Listed: &now, Held: true}}} {
		if calm, err := (Status{Now: now, Clusters: clusters}).Page(); err != nil || !strings.Contains(string(calm), `<h1 id="headline" class="`+class+`">No fault is known`) {
			t.Errorf("without a fault, %s: %v\n%s", class, err, calm)
		}
	}
}

package metrics

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/internal/health"
	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/memory"
	"github.com/requorum/requorum/storage/storagetest"
)

var update = flag.Bool("update", false, "write the tables of docs/metrics.md")

var at = time.Date(2026, 11, 22, 5, 55, 0, 0, time.UTC)

// scrape is what Prometheus would read of requorum's own, sorted lines without comments.
func scrape(t *testing.T, m *Metrics) []string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	var lines []string
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, "requorum_") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	slices.Sort(lines)
	return lines
}

// filled has every series there can be.
func filled(t *testing.T) *Metrics {
	t.Helper()
	m := New("v1", "abc")
	m.Reloaded(true, at)
	m.Notified("slack", false)
	m.Configured("dcs", Objectives{RPO: time.Hour, RTO: 5 * time.Minute, DrillAge: 100 * 24 * time.Hour}, 8<<30)
	m.State("dcs", "leader", false, map[string]time.Time{"snapshot": at.Add(time.Hour)})
	m.RunStarted("dcs", "snapshot")
	m.RunStarted("dcs", "snapshot")
	m.RunEnded("dcs", "snapshot", Run{Outcome: "ok", Started: at, Ended: at.Add(3 * time.Second)})
	m.RunEnded("dcs", "verify", Run{Outcome: "failed", Reason: "verification", Started: at, Ended: at.Add(time.Second)})
	m.BackedUp("dcs", Backup{Bytes: 100, Keys: 7, Seconds: map[string]float64{"stream": 1.5}})
	m.Listed("dcs", Stored{Last: at, LastBytes: 50, LastVerified: at, Failed: 1, Backups: map[string]int{"main": 3}, Reachable: map[string]bool{"main": true, "offsite": false}})
	m.Expired("dcs", map[string]Retention{"main": {Kept: 3, Deleted: 2}})
	m.Drilled("dcs", Drill{Time: at, RPO: time.Minute, RTO: 2 * time.Minute})
	skew := -2.5
	seen := health.Observation{Time: at, Voters: 3, Healthy: 3, LeaderID: "a", Revision: 9, RaftTerm: 2, ClientCertificate: at, Alarms: []health.Alarm{{Type: "NOSPACE"}},
		Members: []health.Member{{Endpoint: "http://1", Healthy: true, Answered: true, DBBytes: 10, InUseBytes: 5, SkewSeconds: &skew, Certificate: at}, {Endpoint: "http://2"}}}
	m.Observed("dcs", seen)
	seen.LeaderID = "b"
	m.Observed("dcs", seen)
	m.Problem("dcs", health.NoSpace, health.Critical, false)
	m.Problem("dcs", health.Lag, health.Warning, false)
	m.Problem("dcs", health.Lag, health.Warning, true)
	if _, err := m.Store("main", memory.New(nil)).Put(t.Context(), "a", strings.NewReader("abc")); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestEverySeries(t *testing.T) {
	lines := scrape(t, filled(t))
	for _, d := range All() {
		name := d.Name
		if d.Type == "histogram" {
			name += "_count"
		}
		i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, name+"{") || strings.HasPrefix(l, name+" ") })
		if i < 0 {
			t.Errorf("%s is described and never exposed", d.Name)
			continue
		}
		for _, label := range d.Labels {
			if !strings.Contains(lines[i], label+`="`) {
				t.Errorf("%s has no label %s", lines[i], label)
			}
		}
		if (d.Type == "counter") != strings.HasSuffix(d.Name, "_total") {
			t.Errorf("%s is a %s: only counters end with _total", d.Name, d.Type)
		}
	}
	for _, want := range []string{
		`requorum_runs_in_progress{cluster="dcs",kind="snapshot"} 1`,
		`requorum_run_failing{cluster="dcs",kind="verify"} 1`,
		`requorum_run_last_duration_seconds{cluster="dcs",kind="snapshot"} 3`,
		`requorum_run_failures_total{cluster="dcs",kind="verify",reason="verification"} 1`,
		`requorum_cluster_leader_changes_total{cluster="dcs"} 1`,
		`requorum_cluster_quorum_margin{cluster="dcs"} 1`,
		`requorum_cluster_alarm{cluster="dcs",type="NOSPACE"} 1`,
		`requorum_cluster_alarm{cluster="dcs",type="CORRUPT"} 0`,
		`requorum_member_database_quota_bytes{cluster="dcs",endpoint="http://1"} 8.589934592e+09`,
		`requorum_member_clock_skew_seconds{cluster="dcs",endpoint="http://1"} -2.5`,
		`requorum_member_healthy{cluster="dcs",endpoint="http://2"} 0`,
		`requorum_backup_last_timestamp_seconds{cluster="dcs"} 1.7953269e+09`,
		`requorum_store_reachable{cluster="dcs",store="offsite"} 0`,
		`requorum_election_role{cluster="dcs",role="follower"} 0`,
		`requorum_problem{cluster="dcs",name="no_space",severity="critical"} 1`,
		`requorum_store_bytes_total{direction="written",store="main"} 3`,
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("%s is not among\n%s", want, strings.Join(lines, "\n"))
			break
		}
	}
	for _, unknown := range []string{`requorum_member_database_bytes{cluster="dcs",endpoint="http://2"}`, `requorum_problem{cluster="dcs",name="lag"`} {
		if slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, unknown) }) {
			t.Errorf("%s has a value though it is not known", unknown)
		}
	}
}

func TestForget(t *testing.T) {
	m := filled(t)
	m.Forget("dcs")
	for _, l := range scrape(t, m) {
		if strings.Contains(l, `cluster="dcs"`) {
			t.Errorf("a cluster that is gone still has %s", l)
		}
	}
}

// What is not known has no series: an alert on the age of a backup must not see 1970.
func TestUnknownIsAbsent(t *testing.T) {
	m := New("v1", "abc")
	m.Configured("dcs", Objectives{}, 0)
	m.Listed("dcs", Stored{Reachable: map[string]bool{"main": true}})
	m.Observed("dcs", health.Observation{Time: at, Voters: 3, Healthy: 1, Unasked: 2, Members: []health.Member{{Endpoint: "http://1"}}})
	m.RunEnded("dcs", "snapshot", Run{Outcome: "skipped", Reason: "held"})
	for _, l := range scrape(t, m) {
		for _, absent := range []string{"requorum_backup_last", "_verification_last", "_drill", "_objective", "_quorum_margin", "_revision", "_alarm", "_certificate", "_run_failing", "_config_"} {
			if strings.HasPrefix(l, "requorum"+absent) || strings.HasPrefix(l, absent) || strings.Contains(l, absent) {
				t.Errorf("%s says what nobody knows", l)
			}
		}
	}
}

func TestRunsThatWereNotBegunDecideNothing(t *testing.T) {
	m := New("", "")
	m.RunEnded("dcs", "snapshot", Run{Outcome: "failed", Reason: "store", Ended: at})
	m.RunEnded("dcs", "snapshot", Run{Outcome: "skipped", Reason: "held", Ended: at})
	m.RunEnded("dcs", "snapshot", Run{Outcome: "stopped", Reason: "interrupted", Ended: at})
	if want := `requorum_run_failing{cluster="dcs",kind="snapshot"} 1`; !slices.Contains(scrape(t, m), want) {
		t.Error("a skipped run ended the failure before it")
	}
	m.RunEnded("dcs", "snapshot", Run{Outcome: "partly", Reason: "store", Ended: at})
	if want := `requorum_run_failing{cluster="dcs",kind="snapshot"} 0`; !slices.Contains(scrape(t, m), want) {
		t.Error("a backup that is there did not end the failure before it")
	}
}

// A backup on demand by a replica that does not lead must not stand beside the leader's later ones.
func TestFollowersShowNoBackups(t *testing.T) {
	m := New("", "")
	m.State("dcs", "follower", false, nil)
	m.BackedUp("dcs", Backup{Bytes: 1, Keys: 2, Seconds: map[string]float64{"stream": 1}})
	for _, l := range scrape(t, m) {
		if strings.HasPrefix(l, "requorum_backup_") {
			t.Errorf("a follower shows %s", l)
		}
	}
	m.State("dcs", "leader", false, nil)
	m.BackedUp("dcs", Backup{Bytes: 1, Keys: 2})
	if want := `requorum_backup_last_keys{cluster="dcs"} 2`; !slices.Contains(scrape(t, m), want) {
		t.Errorf("a leader does not show %s", want)
	}
}

func TestMeasuredStoreIsAStore(t *testing.T) {
	m := New("", "")
	storagetest.Run(t, func(*testing.T) storage.Store { return m.Store("main", memory.New(nil)) })
}

func TestStoreOperations(t *testing.T) {
	m := New("", "")
	s := m.Store("main", memory.New(nil))
	ctx := t.Context()
	for range 2 {
		_, _ = s.Put(ctx, "a/1", strings.NewReader("12345"))
	}
	r, err := s.Get(ctx, "a/1", 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); err != nil {
		t.Fatal(err)
	}
	for range 2 { // closing twice counts once
		r.Close()
	}
	_, _ = s.Get(ctx, "gone", 0)
	for _, err := range s.List(ctx, "", "") {
		if err != nil {
			t.Error(err)
		}
		break // stopping early is no failure
	}
	_ = s.Delete(ctx, "a/1")
	lines := scrape(t, m)
	for operation, outcome := range map[string]string{"put": "ok", "put ": "exists", "get": "ok", "get ": "missing", "list": "ok", "delete": "ok"} {
		want := fmt.Sprintf(`requorum_store_operations_total{operation="%s",outcome="%s",store="main"} 1`, strings.TrimSpace(operation), outcome)
		if !slices.Contains(lines, want) {
			t.Errorf("%s is not among\n%s", want, strings.Join(lines, "\n"))
		}
	}
	for _, want := range []string{`requorum_store_bytes_total{direction="read",store="main"} 4`, `requorum_store_bytes_total{direction="written",store="main"} 5`} {
		if !slices.Contains(lines, want) {
			t.Errorf("%s is not among\n%s", want, strings.Join(lines, "\n"))
		}
	}
}

func TestOutcomes(t *testing.T) {
	for want, err := range map[string]error{
		"denied": &storage.Error{Kind: storage.ErrSecretKey}, "full": fmt.Errorf("x: %w", storage.ErrFull), "unreachable": storage.ErrUnreachable,
		"cancelled": context.Canceled, "locked": storage.ErrLocked, "other": errors.New("a text with an id 4711"),
	} {
		if got := outcomeOf(err); got != want {
			t.Errorf("%v is %s, want %s", err, got, want)
		}
	}
}

const reference = "../../docs/metrics.md"

func TestReference(t *testing.T) {
	var b strings.Builder
	group := ""
	for _, d := range All() {
		if d.Group != group {
			group = d.Group
			fmt.Fprintf(&b, "\n### %s\n\n| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n", group)
		}
		labels := "none"
		if len(d.Labels) > 0 {
			labels = "`" + strings.Join(d.Labels, "`, `") + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", d.Name, d.Type, labels, d.Help)
	}
	doc, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- begin of what internal/metrics defines -->\n", "\n<!-- end -->"
	head, rest, ok := strings.Cut(string(doc), begin)
	tables, tail, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatal("docs/metrics.md lacks the marks around its tables")
	}
	if *update {
		if err := os.WriteFile(reference, []byte(head+begin+b.String()+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if tables != b.String() {
		t.Error("docs/metrics.md does not say what the code defines: go test ./internal/metrics -run TestReference -update")
	}
	for _, name := range health.Names {
		if !strings.Contains(tail, "`"+name+"`") {
			t.Errorf("docs/metrics.md does not list the problem %s", name)
		}
	}
}

// exposition is the whole text that Prometheus would read, of requorum's own.
func exposition(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	var b strings.Builder
	for line := range strings.Lines(w.Body.String()) {
		if strings.Contains(line, "requorum_") {
			b.WriteString(line)
		}
	}
	return b.String()
}

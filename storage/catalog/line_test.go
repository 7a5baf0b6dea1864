package catalog

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	clusterA = "aaaaaaaaaaaaaaaa"
	clusterB = "bbbbbbbbbbbbbbbb"
)

func hour(n int) time.Time { return testTime.Add(time.Duration(n) * time.Hour) }

// history drives Continue as backups and restores do.
type history struct {
	t      *testing.T
	lines  []Line
	newest map[string]Seen
}

func (h *history) open(l Line) string {
	l.Format, l.Cluster = Format, "dcs"
	l.Line = fmt.Sprintf("l%011d", len(h.lines)+1)
	if err := l.Check(LineKey(l)); err != nil {
		h.t.Fatal(err)
	}
	h.lines = append(h.lines, l)
	return l.Line
}

// backup takes one and returns the line, what was opened, and the alerts.
func (h *history) backup(at int, cluster string, revision int64, term uint64) (string, *Line, []string) {
	h.t.Helper()
	seen := Seen{ClusterID: cluster, Revision: revision, RaftTerm: term, Time: hour(at)}
	shuffled := slices.Clone(h.lines)
	slices.Reverse(shuffled) // the order in which they are given must not matter
	line, open, alerts := Continue(shuffled, h.newest, seen)
	if (line == "") != (open != nil) {
		h.t.Fatalf("line %q and %+v: exactly one must be given", line, open)
	}
	if open != nil {
		line = h.open(*open)
	}
	seen.Line = line
	h.newest[line] = h.newest[line].Higher(seen)
	return line, open, alerts
}

func TestContinue(t *testing.T) {
	type step struct {
		at       int
		cluster  string
		revision int64
		term     uint64
		line     int    // expected: the first opened is 1
		opened   string // words of the reason; "" if none may be opened
		alert    string // words of the alert; "" for none
	}
	for _, test := range []struct {
		name  string
		steps []step
	}{
		{"the first, then on and on", []step{
			{1, clusterA, 100, 2, 1, "first backup", ""},
			{2, clusterA, 100, 2, 1, "", ""},
			{3, clusterA, 500, 9, 1, "", ""},
		}},
		{"rebuilt under the same URLs and token: a lower revision", []step{
			{1, clusterA, 100, 2, 1, "first backup", ""},
			{2, clusterA, 99, 2, 2, "revision 99 is below 100", "no requorum run opened"},
			{3, clusterA, 120, 2, 2, "", ""},
		}},
		{"rebuilt under the same URLs and token: a lower term", []step{
			{1, clusterA, 100, 7, 1, "first backup", ""},
			{2, clusterA, 5000, 2, 2, "raft term 2 is below 7", "no requorum run opened"},
			{3, clusterA, 5001, 2, 2, "", ""},
		}},
		{"rebuilt by hand: an unknown cluster id", []step{
			{1, clusterA, 100, 2, 1, "first backup", ""},
			{2, clusterB, 5000, 20, 2, "cluster id bbbbbbbbbbbbbbbb is unknown", "no requorum run opened"},
			{3, clusterB, 5001, 20, 2, "", ""},
		}},
		{"two clusters under one name take turns", []step{
			{1, clusterA, 100, 2, 1, "first backup", ""},
			{2, clusterB, 7, 3, 2, "is unknown", "no requorum run opened"},
			{3, clusterA, 110, 2, 1, "", "two clusters share one name"},
			{4, clusterB, 9, 3, 2, "", "two clusters share one name"},
			{5, clusterA, 120, 2, 1, "", "two clusters share one name"},
			{6, clusterB, 11, 3, 2, "", "two clusters share one name"},
			{7, clusterB, 12, 3, 2, "", ""}, // the other has stopped
		}},
		{"the newest line of a cluster id counts, not the best fitting", []step{
			{1, clusterA, 1000, 2, 1, "first backup", ""},
			{2, clusterA, 500, 2, 2, "is below", "no requorum run opened"},
			{3, clusterA, 2000, 2, 2, "", ""},
			{4, clusterA, 1500, 2, 3, "revision 1500 is below 2000", "no requorum run opened"},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := &history{t: t, newest: map[string]Seen{}}
			for i, s := range test.steps {
				line, open, alerts := h.backup(s.at, s.cluster, s.revision, s.term)
				if want := fmt.Sprintf("l%011d", s.line); line != want {
					t.Errorf("step %d: line %s, want %s", i, line, want)
				}
				if (open != nil) != (s.opened != "") || open != nil && !strings.Contains(open.Reason, s.opened) {
					t.Errorf("step %d: opened %+v, want one because %q", i, open, s.opened)
				}
				if all := strings.Join(alerts, "\n"); (all != "") != (s.alert != "") || !strings.Contains(all, s.alert) {
					t.Errorf("step %d: alerts %q, want %q", i, alerts, s.alert)
				}
			}
		})
	}
}

func TestContinueRestored(t *testing.T) {
	h := &history{t: t, newest: map[string]Seen{}}
	first, _, _ := h.backup(1, clusterA, 100, 5)
	restored := h.open(Line{ClusterID: clusterB, Time: hour(2), FirstRevision: 1_000_000_100, RaftTerm: 1, Parent: first, ParentKnown: true, Run: testRun, Source: LineRestore, Reason: "restore"})
	line, open, alerts := h.backup(3, clusterB, 1_000_000_105, 2)
	if line != restored || open != nil || len(alerts) > 0 {
		t.Errorf("after a restore: line %s, opened %+v, alerts %q; want %s and nothing else", line, open, alerts, restored)
	}
	if current, _ := Current(h.lines); current.Line != restored {
		t.Errorf("current is %s, want the restored line", current.Line)
	}
	// Somebody put an even older state under the restored cluster's own id.
	if _, open, _ := h.backup(4, clusterB, 50, 2); open == nil || open.Parent != restored || open.ParentKnown {
		t.Errorf("opened %+v, want one whose parent is likely %s", open, restored)
	}
	// The cluster from before the restore comes back to life.
	line, open, alerts = h.backup(5, clusterA, 101, 5)
	if line != first || open != nil || !strings.Contains(strings.Join(alerts, ""), "an old one came back") {
		t.Errorf("the old cluster: line %s, opened %+v, alerts %q", line, open, alerts)
	}
}

// TestContinueBelowFirstRevision: a restored line without any backup yet already says how far it is.
func TestContinueBelowFirstRevision(t *testing.T) {
	h := &history{t: t, newest: map[string]Seen{}}
	h.open(Line{ClusterID: clusterA, Time: hour(1), FirstRevision: 1000, RaftTerm: 3, ParentKnown: true, Source: LineRestore})
	if _, open, _ := h.backup(2, clusterA, 999, 3); open == nil {
		t.Error("a revision below the first of the line went on in it")
	}
}

// TestContinueRecords: what serve saw after the last backup counts like a backup.
func TestContinueRecords(t *testing.T) {
	h := &history{t: t, newest: map[string]Seen{}}
	line, _, _ := h.backup(1, clusterA, 100, 2)
	h.newest[line] = h.newest[line].Higher(Seen{ClusterID: clusterA, Line: line, Revision: 900, RaftTerm: 3, Time: hour(2)})
	if _, open, _ := h.backup(3, clusterA, 500, 3); open == nil || !strings.Contains(open.Reason, "500 is below 900") {
		t.Errorf("opened %+v: 900 had been seen, so 500 is another history", open)
	}
}

func TestContinueIgnoresImports(t *testing.T) {
	h := &history{t: t, newest: map[string]Seen{}}
	imported := h.open(Line{Time: hour(1), Source: LineImport, ClusterID: clusterA})
	line, open, alerts := h.backup(2, clusterA, 100, 2)
	if line == imported || open == nil || open.Reason != "first backup" || len(alerts) > 0 {
		t.Errorf("line %s, opened %+v, alerts %q: an import must not be continued nor counted", line, open, alerts)
	}
	h.open(Line{Time: hour(3), Source: LineImport})
	if got, open, alerts := h.backup(4, clusterA, 110, 2); got != line || open != nil || len(alerts) > 0 {
		t.Errorf("after a later import: line %s, opened %+v, alerts %q; want %s", got, open, alerts, line)
	}
	if current, ok := Current(h.lines); !ok || current.Line != line {
		t.Errorf("current is %s, want %s", current.Line, line)
	}
	if _, ok := Current(h.lines[:1]); ok {
		t.Error("an import became current")
	}
}

func TestParseLine(t *testing.T) {
	good := Line{Format: Format, Line: testLine, Cluster: "dcs", ClusterID: clusterA, Time: testTime, FirstRevision: 5, RaftTerm: 2, Source: LineLive}
	key := LineKey(good)
	for name, change := range map[string]func(*Line){
		"newer format": func(l *Line) { l.Format = 2 },
		"another id":   func(l *Line) { l.Line = otherLine },
		"another time": func(l *Line) { l.Time = hour(1) },
		"no source":    func(l *Line) { l.Source = "" },
		"cluster id":   func(l *Line) { l.ClusterID = "AAAA" },
	} {
		bad := good
		change(&bad)
		if bad.Check(key) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	l, err := ParseLine(key, []byte(`{"format":1,"line":"`+testLine+`","cluster":"dcs","cluster_id":"`+clusterA+`","time":"2026-11-22T06:55:00+01:00","first_revision":5,"raft_term":2,"source":"live","later":true}`))
	if err != nil || l != good {
		t.Errorf("%+v, %v; want %+v", l, err, good)
	}
	if _, err := ParseLine(key, []byte(`{"format":2}`)); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Errorf("a newer format: %v", err)
	}
}

// Two lines of one second, or of machines whose clocks differ, must keep their order: the last one opened is current.
func TestOpenTimeKeepsTheOrder(t *testing.T) {
	now := time.Date(2026, 11, 22, 5, 55, 0, 700_000_000, time.UTC)
	for name, c := range map[string]struct{ newest, want time.Time }{
		"long after":           {now.Add(-time.Hour), now.Truncate(time.Second)},
		"in the same second":   {now.Truncate(time.Second), now.Truncate(time.Second).Add(time.Second)},
		"by a clock that lags": {now.Truncate(time.Second).Add(time.Minute), now.Truncate(time.Second).Add(time.Minute + time.Second)},
	} {
		lines := []Line{{Line: "lnewest", Time: c.newest}, {Line: "lolder", Time: now.Add(-48 * time.Hour)}}
		if got := OpenTime(lines, now); !got.Equal(c.want) {
			t.Errorf("%s: opened at %s, want %s", name, got, c.want)
		}
	}
}

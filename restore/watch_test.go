package restore

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/agents"
)

// Who waits for agents reads each check once when it turns true, with its time, and once when it does not hold any more; what
// is missing comes now and then, not at every look.
func TestWatcher(t *testing.T) {
	clock := time.Date(2026, 11, 22, 5, 55, 0, 0, time.UTC)
	var lines []string
	w := watcher{since: clock, now: func() time.Time { return clock }, say: func(format string, args ...any) {
		lines = append(lines, strings.TrimSpace(fmt.Sprintf(format, args...)))
	}}
	look := func(after time.Duration, checks ...agents.Check) {
		clock = w.since.Add(after)
		w.tell(agents.Verdict{Name: "patroni main", Checks: checks})
	}
	leader := agents.Check{Name: "one leader", OK: true, Detail: "b", Seconds: 1.2}
	none := agents.Check{Name: "one leader", Detail: "no agent leads"}
	stream := agents.Check{Name: "replicas stream", Detail: "nobody streams to a"}
	look(1*time.Second, none, stream)
	look(2*time.Second, leader, stream)
	look(3*time.Second, leader, stream)
	look(12*time.Second, leader, stream)
	look(13*time.Second, none, stream)
	look(14*time.Second, leader, agents.Check{Name: "replicas stream", OK: true, Detail: "a, c", Seconds: 14})
	want := []string{
		"patroni main: one leader after 1.2 s: b",
		"patroni main: not yet after 12 s:\n      replicas stream: nobody streams to a",
		"patroni main: no longer: one leader: no agent leads",
		"patroni main: one leader after 1.2 s: b",
		"patroni main: replicas stream after 14.0 s: a, c",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
}

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/requorum/requorum/drills"
	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// serve drills by schedule, makes up a drill that was missed, and tells what came out: a metric, a record, a report, and an alert that says
// which step failed and is over when a drill succeeds again. What a killed drill left is gone when serve has begun.
func TestServeDrills(t *testing.T) {
	t.Parallel()
	s := newDrillSite(t, siteOptions{etcd: etcdtest.Options{Members: 1}})
	port := etcdtest.FreePort(t)
	var mu sync.Mutex
	var told []string
	people := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		told = append(told, string(body))
	}))
	defer people.Close()
	hears := func(words ...string) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return slices.ContainsFunc(told, func(body string) bool {
				return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(body, w) })
			})
		}
	}
	serve := fmt.Sprintf("serve: {listen: '127.0.0.1:%d', watch: 1s}\nnotify: {wait: 0s, to: [{webhook: {url: '%s'}}]}\n", port, people.URL)
	configure := func(drill string) {
		s.cluster = drillAgents + fmt.Sprintf("    objectives: {rto: 10m, drill_age: 100d}\n    schedules: {snapshot: '@every 1h', drill: %s, jitter: 0s}\n", drill)
		s.configure()
		path := filepath.Join(s.dir, "requorum.yaml")
		write(t, path, append(read(t, path), []byte("\n"+serve)...))
	}
	configure("'0 9 1 */3 *'")
	killed, point := s.unending(s.backup())
	killed.Reaches(t, "stage")
	killed.Kill(t)
	point.Release()
	if dirs, _ := s.sandboxes(); len(dirs) == 0 {
		t.Fatal("the drill was killed too late: nothing is left to sweep")
	}

	program1 := etcdtest.NewProgram(t, filepath.Join(s.dir, "serve.log"))
	program1.Start(t, program, "-c", filepath.Join(s.dir, "requorum.yaml"), "serve")
	defer func() {
		if t.Failed() {
			t.Logf("serve: %s", read(t, filepath.Join(s.dir, "serve.log")))
		}
	}()
	shows := func(path, want string) {
		t.Helper()
		until(t, fmt.Sprintf("%s to show %q", path, want), func() bool { return strings.Contains(page(port, path), want) })
	}
	// None has run since the last quarter began: it is made up at once.
	until(t, "the drill that was missed", func() bool { return len(s.reports("json")) == 1 })
	shows("/metrics", `requorum_drill_last_timestamp_seconds{cluster="dcs"}`)
	shows("/metrics", `requorum_runs_total{cluster="dcs",kind="drill",outcome="ok"} 1`)
	shows("/metrics", `requorum_drill_last_rto_seconds{cluster="dcs"}`)
	r, err := drills.ParseReport(read(t, s.reports("json")[0]))
	if err != nil || r.By.How != "schedule" || !r.OK {
		t.Errorf("the report: %+v, %v", r.By, err)
	}
	until(t, "people to be told of it", hears(`"news":[{"cluster":"dcs","name":"drill","what":"drill `+r.ID+" proved", r.Report)) // alone, or with the word that drill_age is over
	if strings.Contains(page(port, "/api/v1/alerts"), "drill") {
		t.Errorf("alerts: %s", page(port, "/api/v1/alerts"))
	}
	s.run("schedules").Exits(t, command.ExitOK, r.Started.Format("2006-01-02T15:04:05Z")+" ok")
	s.run("runs", "dcs").Exits(t, command.ExitOK, r.ID)
	until(t, "an end of the sweep", func() bool { dirs, _ := s.sandboxes(); return len(dirs) == 0 })

	// A key that does not fit: the alert says where it failed, and that it is over afterwards.
	identity := filepath.Join(s.dir, "age.key")
	whole := read(t, identity)
	s.run("keygen", "-f", "wrong.key").Exits(t, command.ExitOK)
	write(t, identity, read(t, filepath.Join(s.dir, "wrong.key")))
	configure("'@every 3s'")
	if err := syscall.Kill(program1.PID(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	shows("/api/v1/alerts", `"drill_failed"`)
	shows("/api/v1/alerts", `failed at step \"fetch\"`)
	until(t, "people to be told of the failure", hears("drill_failed", `failed at step \"fetch\"`))
	write(t, identity, whole)
	until(t, "the alert to be over", func() bool {
		alerts := page(port, "/api/v1/alerts")
		return alerts != "" && !strings.Contains(alerts, "drill_failed")
	})
	program1.End(t, syscall.SIGTERM)
	s.tornDown()
	if _, err := os.Stat(s.spool); err != nil {
		t.Error(err)
	}
}

package e2e

import (
	"encoding/json"
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

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// serve tells people when a cluster goes down and when it is back, shows the same as metrics, and calls the heartbeat while backups succeed. Whom it tells
// may change with a reload.
func TestServeTellsPeople(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.StartCluster(t, etcdtest.Options{Members: 1})
	type problem struct{ Name, Severity, What string }
	type message struct {
		Status              string
		Problems, Recovered []problem
	}
	var mu sync.Mutex
	var beats, oldBeats int
	var messages []message
	people := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		switch r.URL.Path {
		case "/before-hook-s3cret":
			if beats >= 2 {
				t.Errorf("who was replaced with a reload is told: %s", body)
			}
		case "/before-beat-s3cret":
			oldBeats++
		case "/beat-s3cret":
			beats++
		case "/hook-s3cret":
			var m message
			if err := json.Unmarshal(body, &m); err != nil {
				t.Errorf("a message is no JSON: %s", body)
			}
			messages = append(messages, m)
		default:
			t.Errorf("somebody asks for %s", r.URL)
		}
	}))
	defer people.Close()
	told := func(name string, in func(message) []problem) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return slices.ContainsFunc(messages, func(m message) bool {
				return slices.ContainsFunc(in(m), func(p problem) bool { return p.Name == name })
			})
		}
	}

	dir, port := t.TempDir(), etcdtest.FreePort(t)
	configure := func(to string) {
		t.Helper()
		for name, text := range map[string]string{
			"beat" + to: people.URL + "/" + to + "beat-s3cret\n", "hook" + to: people.URL + "/" + to + "hook-s3cret\n",
			"requorum.yaml": fmt.Sprintf(`clusters:
  dcs:
    endpoints: [%s]
    stores: [main]
    schedules: {snapshot: '@every 1s', deadline: 20s}
    thresholds: {observations: 1}
    heartbeat: {url_file: beat%s}
stores: {main: {file: {path: store}}}
spool_dir: spool
allow_tmpfs_spool: true
serve: {listen: '127.0.0.1:%d', watch: 1s}
notify: {wait: 1s, to: [{webhook: {url_file: hook%[2]s}}]}
`, etcd.Endpoints()[0], to, port),
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	configure("before-")
	start(t, dir, nil, "config", "check").Wait(t).Exits(t, command.ExitOK)
	c := start(t, dir, nil, "serve")
	shows := func(line string) func() bool {
		return func() bool { return strings.Contains(page(port, "/metrics"), line) }
	}
	until(t, "a heartbeat", func() bool { mu.Lock(); defer mu.Unlock(); return oldBeats > 0 })
	configure("")
	c.Signal(t, syscall.SIGHUP)
	until(t, "two heartbeats where the reload wants them", func() bool { mu.Lock(); defer mu.Unlock(); return beats >= 2 })
	until(t, "backups as metrics", shows(`requorum_backup_last_timestamp_seconds{cluster="dcs"}`))

	etcd.Kill(t)
	until(t, "word that the cluster is down", told("quorum", func(m message) []problem { return m.Problems }))
	until(t, "word that backups fail", told("snapshot_failed", func(m message) []problem { return m.Problems }))
	until(t, "the same as a metric", shows(`requorum_problem{cluster="dcs",name="quorum",severity="critical"} 1`))
	until(t, "the margin as a metric", shows(`requorum_cluster_quorum_margin{cluster="dcs"} -1`))

	mu.Lock()
	before := beats
	mu.Unlock()
	etcd.Start(t)
	until(t, "word that the cluster is back", told("quorum", func(m message) []problem { return m.Recovered }))
	until(t, "word that backups succeed", told("snapshot_failed", func(m message) []problem { return m.Recovered }))
	until(t, "heartbeats again", func() bool { mu.Lock(); defer mu.Unlock(); return beats > before })
	until(t, "the margin as a metric", shows(`requorum_cluster_quorum_margin{cluster="dcs"} 0`))
	c.Signal(t, syscall.SIGTERM)
	if r := c.Wait(t).Exits(t, command.ExitOK); strings.Contains(r.Stderr, "s3cret") {
		t.Errorf("the log tells a secret URL:\n%s", r.Stderr)
	}
}

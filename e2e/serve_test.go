package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// A fleet is replicas of requorum serve on one store.
type fleet struct {
	t     *testing.T
	dir   string
	names []string // of the clusters, which are one etcd under several names
	etcd  *etcdtest.Cluster
	plans string // more schedules
}

const every, lease = 2 * time.Second, 2 * time.Second

func newFleet(t *testing.T, clusters int) *fleet {
	f := &fleet{t: t, dir: t.TempDir(), etcd: etcdtest.StartCluster(t, etcdtest.Options{Members: 1})}
	etcdtest.MustFill(t, f.etcd.Client(t), etcdtest.FillOptions{Prefix: "/data/", Keys: 500, ValueSize: 500, Random: true})
	for i := range clusters {
		f.names = append(f.names, fmt.Sprintf("c%d", i))
	}
	return f
}

// config writes the configuration of one replica and returns its file.
func (f *fleet) config(replica, more string) string {
	f.t.Helper()
	var b strings.Builder
	b.WriteString("clusters:\n")
	for _, name := range f.names {
		fmt.Fprintf(&b, "  %s:\n    endpoints: [%s]\n    stores: [main]\n    schedules: {snapshot: '@every %s', verify: '@every 7s', deadline: 30s%s}\n    retention: {last: 500}\n",
			name, strings.Join(f.etcd.Endpoints(), ", "), every, f.plans)
	}
	fmt.Fprintf(&b, "stores: {main: {file: {path: %s}}}\nspool_dir: %s\nallow_tmpfs_spool: true\n%s\n", filepath.Join(f.dir, "store"), filepath.Join(f.dir, "spool-"+replica), more)
	path := filepath.Join(f.dir, replica+".yaml")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		f.t.Fatal(err)
	}
	return path
}

// backups are the moments of the backups of a cluster that exist, in order.
func (f *fleet) backups(name string) []time.Time {
	f.t.Helper()
	found, err := filepath.Glob(filepath.Join(f.dir, "store", name, "snapshots", "*", "*", "manifest.json"))
	if err != nil {
		f.t.Fatal(err)
	}
	var times []time.Time
	for _, path := range found {
		stamp, _, _ := strings.Cut(filepath.Base(filepath.Dir(path)), "-")
		at, err := time.Parse("20060102T150405Z", stamp)
		if err != nil {
			f.t.Fatal(err)
		}
		times = append(times, at)
	}
	slices.SortFunc(times, time.Time.Compare)
	return times
}

// more waits until every cluster has so many backups more than now.
func (f *fleet) more(n int) {
	f.t.Helper()
	before := map[string]int{}
	for _, name := range f.names {
		before[name] = len(f.backups(name))
	}
	until(f.t, fmt.Sprintf("%d more backups of each cluster", n), func() bool {
		for _, name := range f.names {
			if len(f.backups(name)) < before[name]+n {
				return false
			}
		}
		return true
	})
}

// longest is the longest time between two backups of any of the clusters: of the last one before a moment and all after it, and to now.
func (f *fleet) longest(names []string, since time.Time) (longest time.Duration) {
	f.t.Helper()
	for _, name := range names {
		var last time.Time
		for _, at := range append(f.backups(name), time.Now()) {
			if at.After(since) && !last.IsZero() {
				longest = max(longest, at.Sub(last))
			}
			last = at
		}
	}
	return longest
}

// Replicas are killed, stopped and cut off, and the coordination etcd goes away altogether: no schedule is missed by more than
// the lease time, and no backup is damaged.
func TestServeReplicas(t *testing.T) {
	if testing.Short() {
		t.Skip("starts servers")
	}
	f := newFleet(t, 6)
	coordination := etcdtest.StartCluster(t, etcdtest.Options{Members: 1})
	names := []string{"a", "b", "c"}
	proxies, replicas, configs := map[string]*etcdtest.Proxy{}, map[string]*etcdtest.Program{}, map[string]string{}
	for _, r := range names {
		proxies[r] = etcdtest.NewProxy(t, strings.TrimPrefix(coordination.Endpoints()[0], "http://"))
		configs[r] = f.config(r, fmt.Sprintf("election: {endpoints: ['http://%s'], lease: %s}\nserve: {listen: '127.0.0.1:0', grace: 20s}", proxies[r].Addr(), lease))
		replicas[r] = etcdtest.NewProgram(t, filepath.Join(f.dir, r+".log"))
		replicas[r].Start(t, program, "serve", "-c", configs[r], "--log-format", "json")
	}
	defer func() {
		if t.Failed() {
			for _, r := range names {
				text, _ := os.ReadFile(filepath.Join(f.dir, r+".log"))
				t.Logf("replica %s:\n%s", r, text[max(0, len(text)-6000):])
			}
		}
	}()
	signal := func(r string, s syscall.Signal) {
		t.Helper()
		if err := syscall.Kill(replicas[r].PID(), s); err != nil {
			t.Fatal(err)
		}
	}
	f.more(2)

	client := coordination.Client(t)
	// busiest is the replica that leads most clusters, and these, once all have a leader.
	busiest := func() (victim string, leads []string) {
		t.Helper()
		until(t, "a leader of each cluster", func() bool {
			found, err := client.Get(t.Context(), "/requorum/clusters/", clientv3.WithPrefix())
			if err != nil || len(found.Kvs) != len(f.names) {
				return false
			}
			victim, leads = "", nil
			for _, r := range names {
				var own []string
				for _, kv := range found.Kvs {
					if strings.HasSuffix(string(kv.Value), fmt.Sprintf("/%d", replicas[r].PID())) {
						own = append(own, strings.Split(string(kv.Key), "/")[3])
					}
				}
				if len(own) > len(leads) {
					victim, leads = r, own
				}
			}
			return leads != nil
		})
		return victim, leads
	}
	// during breaks something, waits until backups go on, and says how long the clusters of the victim were without one, and how long the others were,
	// which tells what the machine can do just now.
	during := func(what string, fault, heal func(victim string)) (gap, others time.Duration) {
		t.Helper()
		victim, leads := busiest()
		begun := time.Now()
		fault(victim)
		f.more(4)
		heal(victim)
		f.more(1)
		gap = f.longest(leads, begun)
		others = f.longest(slices.DeleteFunc(slices.Clone(f.names), func(n string) bool { return slices.Contains(leads, n) }), begun)
		t.Logf("%s, which led %d clusters: the longest time between two backups of one of these was %s, of another %s", what, len(leads), gap.Round(100*time.Millisecond), others.Round(100*time.Millisecond))
		return gap, others
	}
	// The new leader looks at the stores first, and the moments of backups are whole seconds; three replicas on two busy cores take their time for that.
	const slack = 30 * time.Second
	for _, c := range []struct {
		what        string
		fault, heal func(victim string)
	}{
		{"one killed", func(r string) { replicas[r].End(t, syscall.SIGKILL) }, func(r string) { replicas[r].Start(t, program, "serve", "-c", configs[r], "--log-format", "json") }},
		{"one stopped", func(r string) { signal(r, syscall.SIGSTOP) }, func(r string) { signal(r, syscall.SIGCONT) }},
		{"one cut off", func(r string) { proxies[r].Set(etcdtest.Fault{Stall: true}) }, func(r string) { proxies[r].Set(etcdtest.Fault{}) }},
	} {
		gap, others := during(c.what, c.fault, c.heal)
		late := max(others, every) - every // what the machine makes runs late by: once for the run, and once for the takeover
		if bound := every + lease + slack + 2*late; gap > bound {
			t.Errorf("%s: %s between two backups, want at most %s, since others took %s", c.what, gap, bound, others)
		}
	}
	during("no coordination", func(string) {
		coordination.Kill(t)
		gone := time.Now()
		until(t, "alerts of all replicas, and verification without coordination", func() bool {
			alerted, verified := map[string]bool{}, false
			for _, r := range names {
				for _, l := range logLines(t, filepath.Join(f.dir, r+".log")) {
					if l["problem"] == "coordination" { // one that has stood since the fault before this one is not told again
						alerted[r] = l["msg"] == "problem"
					}
					if at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(l["time"])); err != nil || at.Before(gone) {
						continue
					}
					if l["msg"] == "run is done" && l["kind"] == "verify" {
						verified = true
					}
				}
			}
			return verified && !slices.ContainsFunc(names, func(r string) bool { return !alerted[r] })
		})
	}, func(string) { coordination.Start(t) })

	for _, r := range names {
		replicas[r].End(t, syscall.SIGTERM)
	}
	leaders := map[string]int{}
	for _, r := range names {
		for _, line := range logLines(t, filepath.Join(f.dir, r+".log")) {
			if line["msg"] == "run is done" && line["kind"] == "snapshot" {
				leaders[r]++
			}
		}
	}
	if len(leaders) != 3 {
		t.Errorf("backups by replica: %v, want all three to have worked", leaders)
	}
	for _, name := range f.names {
		var all []struct {
			ID string
			OK bool
		}
		start(t, f.dir, nil, "-c", configs["a"], "-q", "-o", "json", "verify", name, "--all").Wait(t).Exits(t, command.ExitOK).Decode(t, &all)
		if len(all) != len(f.backups(name)) || slices.ContainsFunc(all, func(v struct {
			ID string
			OK bool
		}) bool {
			return !v.OK
		}) {
			t.Errorf("%s: of %d backups %+v were verified", name, len(f.backups(name)), all)
		}
	}
}

// logLines reads a log of JSON lines.
func logLines(t *testing.T, path string) (all []map[string]any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if !strings.HasSuffix(line, "\n") {
			break // it is being written
		}
		var v map[string]any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Errorf("%s: a line that is no JSON: %s", filepath.Base(path), line)
			continue
		}
		all = append(all, v)
	}
	return all
}

// A manager is systemd's end of sd_notify.
type manager struct {
	conn net.PacketConn
	got  chan string
}

func newManager(t *testing.T, path string) *manager {
	t.Helper()
	conn, err := net.ListenPacket("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	m := &manager{conn, make(chan string, 100_000)} // more than a watchdog is told in hours
	go func() {
		b := make([]byte, 4096)
		for {
			n, _, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			m.got <- string(b[:n])
		}
	}()
	return m
}

// hears waits for a message, others aside.
func (m *manager) hears(t *testing.T, prefix string) string {
	t.Helper()
	deadline := time.After(2 * time.Minute)
	for {
		select {
		case s := <-m.got:
			if strings.HasPrefix(s, prefix) {
				return s
			}
		case <-deadline:
			t.Fatalf("serve did not tell systemd %s", prefix)
		}
	}
}

// Reload, refusal, demand, hold and shutdown of one replica, as systemd and people see it.
func TestServe(t *testing.T) {
	if testing.Short() {
		t.Skip("starts servers")
	}
	f := newFleet(t, 1)
	f.plans = ", expire: '@every 2s'"
	const token = "t0ken-of-the-api"
	if err := os.WriteFile(filepath.Join(f.dir, "token"), []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	port := etcdtest.FreePort(t)
	certs := etcdtest.NewCerts(t, filepath.Join(f.dir, "certs"))
	serve := fmt.Sprintf("serve: {listen: '127.0.0.1:%d', token_file: token, watch: 1s, tls: {cert: %s, key: %s}}", port, certs.Server.Cert, certs.Server.Key)
	client := http.Client{Timeout: 3 * time.Minute, Transport: &http.Transport{TLSClientConfig: certs.ClientTLS(certs.Client)}}
	defer client.CloseIdleConnections()
	start(t, f.dir, nil, "-c", f.config("open", ""), "serve", "--listen", "0.0.0.0:0").Wait(t).Exits(t, command.ExitUsage, "serve.tls", "serve.token_file", "127.0.0.1")
	path := f.config("one", serve)
	start(t, f.dir, nil, "-c", path, "serve", "--log-format", "xml").Wait(t).Exits(t, command.ExitUsage, "text or json")

	systemd := newManager(t, filepath.Join(f.dir, "notify"))
	c := start(t, f.dir, []string{"NOTIFY_SOCKET=" + filepath.Join(f.dir, "notify"), "WATCHDOG_USEC=900000"}, "-c", path, "serve", "--log-format", "json")
	defer func() {
		if t.Failed() {
			t.Log(c.Stderr.String())
		}
	}()
	systemd.hears(t, "READY=1")
	ask := func(method, path, token string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, fmt.Sprintf("https://127.0.0.1:%d%s", port, path), nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	says := func(path, want string) {
		t.Helper()
		var last string
		deadline := time.Now().Add(2 * time.Minute)
		for !strings.Contains(last, want) {
			if time.Now().After(deadline) {
				t.Fatalf("%s does not say %q: %s", path, want, last)
			}
			_, last = ask("GET", path, token)
			time.Sleep(20 * time.Millisecond)
		}
	}
	if plain, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/healthz", port)); err == nil {
		plain.Body.Close()
		if plain.StatusCode == http.StatusOK {
			t.Error("the API answers without TLS")
		}
	}
	if code, _ := ask("GET", "/readyz", ""); code != http.StatusOK {
		t.Errorf("/readyz: %d", code)
	}
	systemd.hears(t, "WATCHDOG=1")
	if code, _ := ask("GET", "/api/v1/list", ""); code != http.StatusUnauthorized {
		t.Errorf("the API without the token: %d", code)
	}
	f.more(2)
	says("/api/v1/clusters/c0/observation", `"healthy":true`)
	says("/api/v1/clusters", `"role":"leader"`)
	says("/metrics", `requorum_`)
	says("/api/v1/clusters/c0/schedules?next=5", `"kind":"snapshot"`)
	says("/api/v1/clusters/c0/check", `"last_backup":{"id":"b`)
	says("/api/v1/list", `"cluster":"c0"`)
	says("/", `data-cluster="c0"`)

	// A broken configuration is refused, and the old one goes on.
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(text, "nonsense: 1\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Signal(t, syscall.SIGHUP)
	if s := systemd.hears(t, "RELOADING=1"); !strings.Contains(s, "MONOTONIC_USEC=") {
		t.Errorf("reloading without the moment: %q", s)
	}
	systemd.hears(t, "READY=1")
	says("/api/v1/alerts", "reload_refused")
	f.more(1)

	// A better one with one more cluster is taken up.
	f.names = append(f.names, "c1")
	f.config("one", serve)
	c.Signal(t, syscall.SIGHUP)
	systemd.hears(t, "RELOADING=1")
	f.more(1)
	if _, alerts := ask("GET", "/api/v1/alerts", token); strings.Contains(alerts, "reload") {
		t.Errorf("the refused reload is still told of: %s", alerts)
	}
	// What only a new start can bring in is said, until it is taken back.
	f.config("one", strings.Replace(serve, fmt.Sprint(port), fmt.Sprint(etcdtest.FreePort(t)), 1))
	c.Signal(t, syscall.SIGHUP)
	says("/api/v1/alerts", "restart_needed")
	f.config("one", strings.Replace(serve, "watch: 1s", "watch: 2s, grace: 50s, runs_at_once: 3", 1))
	c.Signal(t, syscall.SIGHUP)
	until(t, "the end of that alert", func() bool {
		code, alerts := ask("GET", "/api/v1/alerts", token)
		return code == http.StatusOK && !strings.Contains(alerts, "restart_needed")
	})
	if code, body := ask("POST", "/api/v1/clusters/c9/backup", token); code != http.StatusNotFound {
		t.Errorf("a backup of an unknown cluster: %d %s", code, body)
	}
	until(t, "a backup on demand", func() bool {
		code, _ := ask("POST", "/api/v1/clusters/c1/backup", token)
		return code == http.StatusAccepted
	})

	// While a restore's hold stands, nothing is backed up or expired, and check says so.
	hold := filepath.Join(f.dir, "store", "c0", "holds", "r23456789abc.json")
	if err := os.MkdirAll(filepath.Dir(hold), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(hold, []byte(`{"run":"r23456789abc","cluster":"c0","owner":"test","started":"2026-11-22T05:55:00Z"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	says("/api/v1/alerts", `"held"`)
	held := len(f.backups("c0"))
	f.names = []string{"c1"}
	f.more(3)
	if n := len(f.backups("c0")); n > held+1 { // one may have been under way
		t.Errorf("%d backups were taken in spite of a restore's hold", n-held)
	}
	runs := func(msg, kind string) (n int) {
		for line := range strings.Lines(c.Stderr.String()) {
			var v struct{ Msg, Cluster, Kind string }
			if err := json.Unmarshal([]byte(line), &v); err == nil && v.Msg == msg && v.Cluster == "c0" && v.Kind == kind {
				n++
			}
		}
		return n
	}
	until(t, "an expiry that is left out", func() bool { return runs("run is left out", "expire") > 0 })
	expired, left := runs("run is done", "expire"), runs("run is left out", "expire")
	until(t, "two more", func() bool { return runs("run is left out", "expire") >= left+2 })
	until(t, "a verification", func() bool { return runs("run is done", "verify") > 0 })
	if n := runs("run is done", "expire"); n > expired {
		t.Errorf("%d expiries were done in spite of a restore's hold", n-expired)
	}
	start(t, f.dir, nil, "-c", path, "check", "c0", "--wait", "0").Wait(t).Exits(t, 1, "restore r23456789abc")
	if err := os.Remove(hold); err != nil {
		t.Fatal(err)
	}
	f.names = []string{"c0", "c1"}
	f.more(1)

	c.Signal(t, syscall.SIGTERM)
	systemd.hears(t, "STOPPING=1")
	r := c.Wait(t).Exits(t, command.ExitOK)
	if strings.Contains(r.Stderr, token) {
		t.Error("the log shows the token")
	}
	var plans []struct {
		Kind, Outcome string
		Last          *time.Time
		Next          []time.Time
	}
	start(t, f.dir, nil, "-c", path, "-o", "json", "schedules", "c0", "--next", "5").Wait(t).Exits(t, command.ExitOK).Decode(t, &plans)
	for _, p := range plans {
		if p.Last == nil || p.Outcome == "" || len(p.Next) != 5 || !slices.IsSortedFunc(p.Next, time.Time.Compare) || !p.Next[4].After(p.Next[0]) {
			t.Errorf("the schedule of kind %s last ran at %v (%s), next at %v", p.Kind, p.Last, p.Outcome, p.Next)
		}
	}
	if len(plans) != 3 {
		t.Errorf("%d schedules are shown, want those of snapshot, verify and expire", len(plans))
	}
	type backup struct {
		VerifiedAt *time.Time `json:"verified_at"`
	}
	var backups []backup
	start(t, f.dir, nil, "-c", path, "-o", "json", "list", "c0").Wait(t).Exits(t, command.ExitOK).Decode(t, &backups)
	if !slices.ContainsFunc(backups, func(b backup) bool { return b.VerifiedAt != nil }) {
		t.Errorf("of %d backups none has a verdict of the scheduled verification", len(backups))
	}
	start(t, f.dir, nil, "-c", path, "schedules").Wait(t).Exits(t, command.ExitOK, "c0", "c1", "snapshot", "@every 2s", "ok")
	if !strings.Contains(r.Stderr, `"msg":"stopping","grace":50000000000`) {
		t.Error("it does not stop with the grace time of the last reload")
	}
	stages := map[string]bool{}
	for line := range strings.Lines(r.Stderr) {
		var v struct{ Msg, Cluster, Run, Stage string }
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("a line that is no JSON: %s", line)
		}
		if v.Stage != "" {
			stages[v.Stage] = true
			if v.Cluster == "" || v.Run == "" {
				t.Errorf("a stage without cluster or run: %s", line)
			}
		}
	}
	if !stages["stream"] || !stages["upload"] || !stages["commit"] {
		t.Errorf("stages in the log: %v", slices.Sorted(maps.Keys(stages)))
	}
}

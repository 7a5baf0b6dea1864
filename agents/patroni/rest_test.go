package patroni

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/agents/agentstest"
	"github.com/requorum/requorum/internal/etcdtest"
)

// lab is a Patroni cluster that answers as the real one does: agents with a
// REST API, and their keys in etcd.
type lab struct {
	t     *testing.T
	mu    sync.Mutex
	nodes []*node
	etcd  *agentstest.Cluster
	start time.Time
}

// node is one agent. Tests change its fields before or, under lab.do, while it
// runs.
type node struct {
	name   string
	server *httptest.Server

	version  string // of Patroni
	role     string
	state    string
	timeline int64
	lsn      uint64
	writes   bool // the LSN moves from answer to answer
	sees     bool // dcs_last_seen moves
	seen     int64
	lock     bool     // /primary answers 200
	streams  []string // whom it replicates to
	systemID string
	extra    string // more fields of /patroni
	scope    string
	config   string // /config, "" to answer nothing
	user     string // basic auth it wants
	says     string // answers this instead of a report
}

const opened = 1_000_000_500

// The tests of this package wait much more than they work.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	m.Run()
}

// newLab starts n agents of a version, db1 leading, all registered anew.
func newLab(t *testing.T, n int, version string) *lab {
	l := &lab{t: t, etcd: agentstest.NewCluster(opened), start: time.Now()}
	for i := range n {
		l.nodes = append(l.nodes, l.add(fmt.Sprintf("db%d", i+1), version))
	}
	leader := l.nodes[0]
	leader.role, leader.lock = "primary", true
	if strings.HasPrefix(version, "3.") {
		leader.role = "master"
	}
	for _, other := range l.nodes[1:] {
		leader.streams = append(leader.streams, other.name)
	}
	l.etcd.Restore(dir+"config", `{"ttl":30,"loop_wait":0.2}`, 10, 0)
	l.etcd.Restore(dir+"initialize", sysID, 11, 0)
	l.etcd.Restore(dir+"history", history, 12, 0)
	for _, one := range l.nodes {
		l.register(one)
	}
	l.lead(leader)
	return l
}

func (l *lab) add(name, version string) *node {
	n := &node{
		name: name, version: version, role: "replica", state: "running", timeline: 3, lsn: 0x3000000,
		writes: true, sees: true, seen: l.start.Unix(), systemID: sysID, scope: "main",
	}
	listener := etcdtest.Listen(l.t)
	n.server = &httptest.Server{Listener: listener, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.mu.Lock()
		defer l.mu.Unlock()
		n.answer(w, r)
	})}}
	n.server.Start()
	l.t.Cleanup(n.server.Close)
	return n
}

func (n *node) answer(w http.ResponseWriter, r *http.Request) {
	if user, password, _ := r.BasicAuth(); n.user != "" && (user != n.user || password != "secret") {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if r.Method != http.MethodGet {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	if n.says != "" {
		fmt.Fprint(w, n.says)
		return
	}
	switch r.URL.Path {
	case "/primary":
		if !n.lock || n.role == "standby_leader" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	case "/standby-leader":
		if !n.lock || n.role != "standby_leader" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	case "/config":
		if n.config == "" {
			w.WriteHeader(http.StatusBadGateway)
		}
		fmt.Fprint(w, n.config)
	case "/patroni":
		if n.writes {
			n.lsn += 0x100
		}
		if n.sees {
			n.seen++
		}
		fmt.Fprint(w, n.report())
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (n *node) report() string {
	xlog := fmt.Sprintf(`{"received_location":%d,"replayed_location":%d,"replayed_timestamp":"2026-11-22 08:00:00+00:00","paused":false}`, n.lsn, n.lsn-8)
	if n.role != "replica" {
		xlog = fmt.Sprintf(`{"location":%d}`, n.lsn)
	}
	if n.state == "stopped" {
		xlog = "{}"
	}
	var streams []string
	for _, name := range n.streams {
		streams = append(streams, fmt.Sprintf(`{"usename":"replicator","application_name":%q,"client_addr":"127.0.0.1","state":"streaming","sync_state":"async","sync_priority":0}`, name))
	}
	own := ""
	if strings.HasPrefix(n.version, "4.") {
		own = fmt.Sprintf(`,"name":%q`, n.name)
	}
	replication := ""
	if own != "" && n.role == "replica" && !strings.Contains(n.extra, "replication_state") {
		replication = `,"replication_state":"streaming"`
	}
	return fmt.Sprintf(`{"state":%q,"postmaster_start_time":"2026-11-22 07:59:00+00:00","role":%q,"server_version":150018,"xlog":%s,"timeline":%d,`+
		`"replication":[%s],"dcs_last_seen":%d,"database_system_identifier":%q,"patroni":{"version":%q,"scope":%q%s}%s%s}`,
		n.state, n.role, xlog, n.timeline, strings.Join(streams, ","), n.seen, n.systemID, n.version, n.scope, own, replication, n.extra)
}

// register writes the agent's member key under a new lease.
func (l *lab) register(n *node) int64 {
	lease := l.etcd.Grant(0, time.Hour)
	l.etcd.Put(dir+"members/"+n.name, fmt.Sprintf(
		`{"conn_url":"postgres://127.0.0.1:5432/postgres","api_url":%q,"state":%q,"role":%q,"version":%q,"xlog_location":%d,"timeline":%d}`,
		n.server.URL+"/patroni", n.state, n.role, n.version, n.lsn, n.timeline), lease)
	return lease
}

// lead writes the leader key under the lease of the agent's member key.
func (l *lab) lead(n *node) {
	l.etcd.Delete(dir + "leader")
	l.etcd.Put(dir+"leader", n.name, l.register(n))
}

func (l *lab) do(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

func (l *lab) urls() []string {
	var urls []string
	for _, n := range l.nodes {
		urls = append(urls, n.server.URL)
	}
	return urls
}

func (l *lab) agent(opt Options) *Scope {
	l.t.Helper()
	if opt.REST == nil {
		opt.REST = l.urls()
	}
	opt.Poll = 50 * time.Millisecond
	return newScopeAgent(l.t, opt)
}

func (l *lab) restored() agents.Restored {
	return agents.Restored{
		Revision: opened, Leases: map[int64]bool{1: true, 2: true}, HealthyAt: l.start, Live: l.etcd,
		Backup: running(agentstest.NewBackup(), dir, 1),
	}
}

func TestGate(t *testing.T) {
	for _, version := range []string{"3.0.2", "4.1.4"} {
		t.Run(version, func(t *testing.T) {
			l := newLab(t, 3, version)
			l.nodes[1].lsn = 0x9000000
			l.nodes[1].writes = false
			base, err := l.agent(Options{}).Gate(t.Context(), agents.Known{})
			if err != nil {
				t.Fatal(err)
			}
			known, err := parseBaseline(base)
			if err != nil {
				t.Fatal(err)
			}
			if len(base.Missing) != 0 || !known.Complete || known.Furthest != (position{Timeline: 3, LSN: 0x9000000}) {
				t.Errorf("missing %v, baseline %+v", base.Missing, known)
			}
			if !strings.Contains(base.Detail, "timeline 3, LSN 0/9000000") || known.Agents[0].SystemID != sysID {
				t.Errorf("detail %q, agents %+v", base.Detail, known.Agents)
			}
		})
	}
}

// What agents go by is asked once, while they may still know, and remembered to the end.
func TestSettingsSince(t *testing.T) {
	l := newLab(t, 2, "4.1.4")
	l.nodes[1].config = `{"ttl":30,"loop_wait":0.2,"synchronous_mode":true,"postgresql":{"parameters":{"archive_command":"with a secret"}}}`
	a := l.agent(Options{})
	first, err := a.Gate(t.Context(), agents.Known{})
	if err != nil {
		t.Fatal(err)
	}
	l.do(func() { l.nodes[1].config = `{"ttl":1}` })
	second, err := a.Gate(t.Context(), agents.Known{Before: &first})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(second.Data), "secret") {
		t.Errorf("the journal would hold a secret: %s", second.Data)
	}
	proof := l.verify(second, l.restored())
	r := <-proof.result
	want := "those of the backup; the agents had others: synchronous_mode true (now not set), postgresql.parameters.archive_command"
	if r.err != nil || r.Verdict.Verdict != agents.NoLoss || !strings.Contains(list(r.Verdict), want) {
		t.Errorf("%v; %q is not said in\n%s", r.err, want, list(r.Verdict))
	}

	silent := newLab(t, 2, "3.0.2") // as agents are when etcd has been away for long
	none, err := silent.agent(Options{}).Gate(t.Context(), agents.Known{})
	if err != nil || strings.Contains(string(none.Data), "settings") {
		t.Errorf("%s, %v", none.Data, err)
	}
	if r := <-silent.verify(none, silent.restored()).result; r.err != nil || strings.Contains(list(r.Verdict), "settings") {
		t.Errorf("%v\n%s", r.err, list(r.Verdict))
	}
}

func TestGateTimelineBeatsLSN(t *testing.T) {
	l := newLab(t, 2, "4.1.4")
	l.nodes[0].timeline, l.nodes[0].lsn, l.nodes[0].writes = 2, 0x9000000, false
	l.nodes[1].timeline, l.nodes[1].lsn, l.nodes[1].writes = 3, 0x1000000, false
	base, err := l.agent(Options{}).Gate(t.Context(), agents.Known{})
	if err != nil {
		t.Fatal(err)
	}
	if known, _ := parseBaseline(base); known.Furthest != (position{Timeline: 3, LSN: 0x1000000}) {
		t.Errorf("the furthest is %s", known.Furthest)
	}
}

func TestGateMissing(t *testing.T) {
	tests := []struct {
		name    string
		spoil   func(n *node)
		missing bool
		detail  string
	}{
		{"down", func(n *node) { n.server.Close() }, true, "refused"},
		{"a stranger", func(n *node) { n.says = "<html>hello</html>" }, true, "is this Patroni's REST API?"},
		{"a stranger with JSON", func(n *node) { n.says = `{"status":"ok"}` }, true, "no state in the answer"},
		{"another scope", func(n *node) { n.scope = "other" }, true, "answers for scope other"},
		{"wants a password", func(n *node) { n.user = "admin" }, true, "password_file"},
		{"PostgreSQL is stopped", func(n *node) { n.state = "stopped" }, false, "does not say how far"},
		{"timeline unknown", func(n *node) { n.timeline = 0 }, false, "does not say how far"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := newLab(t, 2, "3.0.2")
			url := l.nodes[1].server.URL
			test.spoil(l.nodes[1])
			base, err := l.agent(Options{}).Gate(t.Context(), agents.Known{})
			if err != nil {
				t.Fatal(err)
			}
			known, _ := parseBaseline(base)
			if known.Complete {
				t.Error("the baseline counts as complete: a loss could be called none")
			}
			if got := strings.Join(base.Missing, " "); test.missing && got != url || !test.missing && got != "" {
				t.Errorf("missing: %q", got)
			}
			if !strings.Contains(base.Detail, test.detail) {
				t.Errorf("detail %q does not say %q", base.Detail, test.detail)
			}
			if known.Furthest.LSN == 0 {
				t.Error("the other agent's position is not in the baseline")
			}
		})
	}
}

func TestGateNobodyToAsk(t *testing.T) {
	base, err := newScopeAgent(t, Options{}).Gate(t.Context(), agents.Known{})
	if err != nil || !strings.Contains(base.Detail, "nobody to ask") || len(base.Missing) != 0 {
		t.Errorf("got %+v, %v", base, err)
	}
}

func TestGateCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := newLab(t, 1, "4.1.4").agent(Options{}).Gate(ctx, agents.Known{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v: an interrupted gate must not look like missing agents", err)
	}
}

func TestBasicAuth(t *testing.T) {
	l := newLab(t, 1, "4.1.4")
	l.nodes[0].user = "admin"
	base, err := l.agent(Options{Username: "admin", Password: "secret"}).Gate(t.Context(), agents.Known{})
	if err != nil || len(base.Missing) != 0 {
		t.Errorf("got %+v, %v", base, err)
	}
}

func TestTLS(t *testing.T) {
	l := newLab(t, 1, "4.1.4")
	n := l.nodes[0]
	server := httptest.NewUnstartedServer(n.server.Config.Handler)
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.StartTLS()
	t.Cleanup(server.Close)
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	own := server.TLS.Certificates[0]

	base, err := l.agent(Options{REST: []string{server.URL}, TLS: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{own}}}).Gate(t.Context(), agents.Known{})
	if err != nil || len(base.Missing) != 0 {
		t.Errorf("with CA and certificate: %+v, %v", base, err)
	}
	for name, config := range map[string]*tls.Config{
		"without the CA":            {Certificates: []tls.Certificate{own}},
		"without a certificate":     {RootCAs: pool},
		"without any configuration": nil,
	} {
		base, err := l.agent(Options{REST: []string{server.URL}, TLS: config}).Gate(t.Context(), agents.Known{})
		if err != nil || len(base.Missing) != 1 {
			t.Errorf("%s: %+v, %v", name, base, err)
		}
	}
}

// A redirect could lead an answer, or a password, anywhere.
func TestRedirectIsNoAnswer(t *testing.T) {
	l := newLab(t, 1, "4.1.4")
	away := httptest.NewServer(http.RedirectHandler(l.nodes[0].server.URL+"/patroni", http.StatusFound))
	t.Cleanup(away.Close)
	base, err := l.agent(Options{REST: []string{away.URL}}).Gate(t.Context(), agents.Known{})
	if err != nil || len(base.Missing) != 1 {
		t.Errorf("got %+v, %v", base, err)
	}
}

func TestBaselineSurvivesTheJournal(t *testing.T) {
	base, err := newLab(t, 2, "4.1.4").agent(Options{}).Gate(t.Context(), agents.Known{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(base)
	if err != nil {
		t.Fatal(err)
	}
	var again agents.Baseline
	if err := json.Unmarshal(b, &again); err != nil {
		t.Fatal(err)
	}
	if known, err := parseBaseline(again); err != nil || !known.Complete || !known.Furthest.known() {
		t.Errorf("after JSON: %+v, %v", known, err)
	}
}

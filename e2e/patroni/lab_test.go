package patroni

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// program is the built requorum, patroni what every node runs; template holds the data directories that every test begins with.
var (
	program  string
	patroni  = "patroni"
	template string

	initialise sync.Mutex
)

func TestMain(m *testing.M) {
	os.Exit(command.Main(m, func(built, dir string) { program, template = built, filepath.Join(dir, "template") }))
}

// A lab is etcd, Patroni, a writer, and requorum's configuration.
type lab struct {
	t         *testing.T
	dir       string
	namespace string
	config    string // Patroni's dynamic configuration, as JSON
	etcd      *etcdtest.Cluster
	nodes     []*node
	restCerts *etcdtest.Certs // nil: REST without TLS
	http      *http.Client
	writer    *writer

	etcdClient *clientv3.Client
	discover   bool // requorum finds the REST URLs by itself
}

type labOptions struct {
	etcd     etcdtest.Options
	config   string // more of Patroni's dynamic configuration, such as `"synchronous_mode": true`
	restTLS  bool
	auth     bool // with TLS
	discover bool
	fresh    bool // initialise PostgreSQL instead of copying the template
}

const dynamic = `"ttl": %d, "loop_wait": %d, "retry_timeout": %d, "maximum_lag_on_failover": 1048576, ` +
	`"postgresql": {"use_pg_rewind": true, "use_slots": true, "parameters": {"wal_log_hints": "on", "wal_keep_size": "2GB", "max_wal_senders": 10}}`

// newLab starts everything: a leads, b and c stream from it.
func newLab(t *testing.T, o labOptions) *lab {
	t.Helper()
	needs(t)
	dir, err := os.MkdirTemp("", "requorum-lab-") // t.TempDir is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !t.Failed() {
			_ = os.RemoveAll(dir) // what is left lies in the system's temporary directory
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, dir: dir, namespace: "/service", discover: o.discover, http: &http.Client{Timeout: 3 * time.Second}}
	l.config = "{" + fmt.Sprintf(dynamic, ttl, loopWait, retryTimeout)
	if o.config != "" {
		l.config += ", " + o.config
	}
	l.config += "}"
	if o.restTLS {
		l.restCerts = etcdtest.NewCerts(t, filepath.Join(dir, "rest-certs"))
		l.readable(filepath.Join(dir, "rest-certs"))
		l.http.Transport = &http.Transport{TLSClientConfig: l.restCerts.ClientTLS(l.restCerts.Client)}
	}
	if !o.fresh {
		initialised(t)
	}
	o.etcd.Dir = filepath.Join(dir, "etcd")
	if o.etcd.Version != etcdtest.V34 { // which does not know it yet
		o.etcd.ExtraFlags = append(o.etcd.ExtraFlags, "--unsafe-no-fsync") // a busy disk must not depose leaders; no power fails below etcd here
	}
	l.etcd = etcdtest.StartCluster(t, o.etcd)
	if l.etcd.Certs != nil {
		run(t, "chmod", "a+rx", filepath.Join(dir, "etcd"))
		l.readable(filepath.Join(dir, "etcd", "certs"))
	}
	if o.auth {
		// Two ranges, since a second permission on the same one replaces the first.
		l.etcd.EnableAuth(t, "root-secret", etcdtest.User{Name: "patroni", Password: "patroni-secret", Read: []string{l.namespace + "/"}, Write: []string{l.namespace + "/main/"}})
	}
	for _, name := range []string{"a", "b", "c"} {
		n := &node{lab: l, name: name, dir: filepath.Join(dir, name), rest: etcdtest.FreePort(t), pg: etcdtest.FreePort(t)}
		if err := os.MkdirAll(n.dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if !o.fresh {
			run(t, "cp", "-a", "--reflink=auto", filepath.Join(template, name), n.dataDir())
		}
		l.owned(n.dir)
		n.program = etcdtest.NewProgram(t, n.log())
		n.configure()
		l.nodes = append(l.nodes, n)
	}
	t.Cleanup(l.epilogue)
	if !o.fresh {
		l.put("config", l.config) // else Patroni would take the template's, which lies in its data directory
	}
	a := l.node("a")
	a.start()
	l.until("a to lead", a.leads)
	if o.fresh {
		for _, name := range []string{"b", "c"} {
			a.mustSQL("CREATE ROLE rep_" + name + " LOGIN REPLICATION")
		}
		a.mustSQL("CREATE TABLE acked (id bigint PRIMARY KEY)")
	}
	l.node("b").start()
	l.node("c").start()
	l.streaming("a")
	if !o.fresh {
		l.writer = newWriter(l)
	}
	return l
}

// initialised makes the template once: initdb and two base backups take longer than all else.
func initialised(t *testing.T) {
	t.Helper()
	initialise.Lock()
	defer initialise.Unlock()
	if _, err := os.Stat(template); err == nil {
		return
	}
	ok := t.Run("initialise", func(t *testing.T) {
		l := newLab(t, labOptions{fresh: true})
		for _, name := range []string{"b", "c", "a"} { // a last, so that nobody else takes the lead
			l.node(name).stop()
		}
		if err := os.MkdirAll(template+".tmp", 0o755); err != nil {
			t.Fatal(err)
		}
		for _, n := range l.nodes {
			run(t, "cp", "-a", n.dataDir(), filepath.Join(template+".tmp", n.name))
		}
		if err := os.Rename(template+".tmp", template); err != nil {
			t.Fatal(err)
		}
	})
	if !ok {
		t.FailNow()
	}
}

func run(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// owned gives a directory to the user postgres.
func (l *lab) owned(dir string) {
	l.t.Helper()
	u, err := user.Lookup("postgres")
	if err != nil {
		l.t.Fatal(err)
	}
	uid, _ := strconv.Atoi(u.Uid) // numbers on every Unix
	gid, _ := strconv.Atoi(u.Gid)
	if err := os.Chown(dir, uid, gid); err != nil {
		l.t.Fatal(err)
	}
}

// readable lets the user postgres read certificates and keys.
func (l *lab) readable(dir string) {
	l.t.Helper()
	run(l.t, "chmod", "-R", "a+rX", dir)
}

func (l *lab) restScheme() string {
	if l.restCerts != nil {
		return "https"
	}
	return "http"
}

func (l *lab) node(name string) *node {
	l.t.Helper()
	for _, n := range l.nodes {
		if n.name == name {
			return n
		}
	}
	l.t.Fatalf("there is no node %s", name)
	return nil
}

// epilogue shows what a failed test leaves.
func (l *lab) epilogue() {
	if !l.t.Failed() {
		return
	}
	for _, n := range l.nodes {
		l.t.Logf("log of %s ends (%s):\n%s", n.name, l.dir, n.tail(25))
	}
}

// patience is how long anything may take, on a machine that does much else.
const patience = 4 * time.Minute

// until polls until f says so.
func (l *lab) until(what string, f func() bool) {
	l.t.Helper()
	for deadline := time.Now().Add(patience); !f(); {
		if time.Now().After(deadline) {
			l.t.Fatalf("waited %s for %s", patience, what)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func listening(port int) bool {
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// primary is the node that holds the lock and runs a primary, nil if there is none.
func (l *lab) primary() *node {
	i := slices.IndexFunc(l.nodes, (*node).leads)
	if i < 0 {
		return nil
	}
	return l.nodes[i]
}

// leader waits for a primary.
func (l *lab) leader() (p *node) {
	l.t.Helper()
	l.until("a leader", func() bool { p = l.primary(); return p != nil })
	return p
}

// streaming waits until the leader streams to every other node, and each has what the leader had. Of a node that is still at the end of an
// older timeline PostgreSQL says too that it streams, and Patroni would promote it without the rows that it lacks.
func (l *lab) streaming(leader string) {
	l.t.Helper()
	l.until("everyone to stream from "+leader, func() bool {
		r, _ := l.node(leader).ask("/patroni")
		for _, n := range l.nodes {
			if n.name == leader {
				continue
			}
			// The list alone also names nodes that take a base backup.
			own, _ := n.ask("/patroni")
			if own.Role != "replica" || own.State != "running" && own.State != "streaming" || !r.streamsTo(n.name) ||
				own.Timeline != r.Timeline || own.Xlog.Received < r.Xlog.Location {
				return false
			}
		}
		return r.primary()
	})
}

// switchoverAlone is switchover where somebody is shut out.
func (l *lab) switchoverAlone(to string) {
	l.t.Helper()
	last := "nobody was asked"
	defer func() {
		if l.t.Failed() {
			l.t.Logf("switchover to %s: %s", to, last)
		}
	}()
	l.until("the switchover to "+to, func() bool {
		from := l.primary()
		if from == nil || from.name == to {
			return from != nil
		}
		body, err := json.Marshal(map[string]string{"leader": from.name, "candidate": to})
		if err != nil {
			l.t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(l.t.Context(), http.MethodPost, from.restURL()+"/switchover", bytes.NewReader(body))
		if err != nil {
			l.t.Fatal(err)
		}
		req.SetBasicAuth("operator", "rest-secret")
		client := *l.http
		client.Timeout = 40 * time.Second
		resp, err := client.Do(req)
		if err != nil {
			last = err.Error()
			return false
		}
		defer resp.Body.Close()
		last = resp.Status
		return l.node(to).leads()
	})
}

// switchover makes a node the leader, as an operator does, and waits until everyone streams from it.
func (l *lab) switchover(to string) {
	l.t.Helper()
	l.switchoverAlone(to)
	l.streaming(to)
}

// shutOut keeps a node from replicating from anybody, until letIn: it lags behind by what is written meanwhile.
func (l *lab) shutOut(name string) {
	l.t.Helper()
	l.rejecting(name, true)
	l.until(name+" to be shut out", func() bool {
		p := l.primary()
		if p == nil {
			return false
		}
		const where = "FROM pg_stat_replication WHERE usename = "
		role := "'" + l.node(name).role() + "'"
		if _, err := p.sql("SELECT pg_terminate_backend(pid) " + where + role); err != nil {
			return false
		}
		left, err := p.sql("SELECT count(*) " + where + role)
		return err == nil && left == "0"
	})
}

// letIn ends shutOut.
func (l *lab) letIn(name string) {
	l.t.Helper()
	l.rejecting(name, false)
}

// rejecting changes what the other nodes let the node do.
func (l *lab) rejecting(name string, reject bool) {
	l.t.Helper()
	rule := fmt.Sprintf("host replication %s 127.0.0.1/32 reject\n", l.node(name).role())
	for _, n := range l.nodes {
		if n.name == name {
			continue
		}
		file := filepath.Join(n.dataDir(), "pg_hba.conf")
		text, err := os.ReadFile(file)
		if err != nil {
			l.t.Fatal(err)
		}
		rules := strings.ReplaceAll(string(text), rule, "")
		if reject {
			rules = rule + rules
		}
		if err := os.WriteFile(file, []byte(rules), 0o600); err != nil { // it is there, so its owner stays
			l.t.Fatal(err)
		}
		if _, err := n.sql("SELECT pg_reload_conf()"); err != nil && listening(n.pg) {
			l.t.Logf("reload of %s: %v", n.name, err) // it reads the file when it starts
		}
	}
}

// busy makes the primary write so much that it recovers for a while after a crash.
func (l *lab) busy(rows int) {
	l.t.Helper()
	p := l.leader()
	p.mustSQL("CHECKPOINT")
	p.mustSQL(fmt.Sprintf("CREATE TABLE bulk AS SELECT g AS id, repeat('x', 100) AS filler FROM generate_series(1, %d) AS g", rows))
}

// demoted waits until a node has given up because etcd is away: from then on anyone may be promoted.
func (l *lab) demoted(name string) {
	l.t.Helper()
	l.until(name+" to be demoted", func() bool {
		r, _ := l.node(name).ask("/patroni")
		return r.Role == "replica" && r.State == "running"
	})
}

// reelected waits until etcd serves again and somebody holds the leader key that a restore had removed.
func (l *lab) reelected() {
	l.t.Helper()
	l.serving()
	l.until("a leader", func() bool {
		p := l.primary()
		return p != nil && l.get("leader") == p.name
	})
}

// serving waits until etcd takes connections.
func (l *lab) serving() {
	l.t.Helper()
	l.until("etcd to serve", func() bool {
		for _, m := range l.etcd.Members {
			if !listening(port(m.ClientURL)) {
				return false
			}
		}
		return true
	})
}

// alone waits until the named agents have seen the new etcd for a few rounds, and fails the test if one of them leads.
func (l *lab) alone(names ...string) {
	l.t.Helper()
	l.serving()
	for _, name := range names {
		l.until(name+" to register", func() bool { return l.get("members/"+name) != "" })
	}
	for end := time.Now().Add(3 * loopWait * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if p := l.primary(); p != nil {
			l.t.Fatalf("%s leads although not everyone is back", p.name)
		}
	}
	l.standing("not everyone is back")
}

// lose is the disaster: every etcd member is killed and its data removed.
func (l *lab) lose() {
	l.t.Helper()
	l.etcd.Kill(l.t)
	l.etcd.Wipe(l.t)
	l.etcdClient = nil // its login is one of the cluster that is gone
}

func (l *lab) key(name string) string { return l.namespace + "/main/" + name }

// get reads a key of the scope, "" when it is absent.
func (l *lab) get(name string) string {
	l.t.Helper()
	client := l.client()
	var value string
	l.until("an answer on "+l.key(name), func() bool {
		ctx, cancel := context.WithTimeout(l.t.Context(), 10*time.Second)
		defer cancel()
		resp, err := client.Get(ctx, l.key(name))
		if err == nil && len(resp.Kvs) > 0 {
			value = string(resp.Kvs[0].Value)
		}
		return err == nil
	})
	return value
}

func (l *lab) put(name, value string) {
	l.t.Helper()
	etcdtest.Put(l.t, l.client(), l.key(name), value)
}

// client is one of etcd that all questions share.
func (l *lab) client() *clientv3.Client {
	l.t.Helper()
	if l.etcdClient == nil {
		l.etcdClient = l.etcd.Client(l.t)
	}
	return l.etcdClient
}

// standing logs where every node stands.
func (l *lab) standing(when string) {
	l.t.Helper()
	var said []string
	for _, n := range l.nodes {
		r, code := n.ask("/patroni")
		if code == 0 {
			said = append(said, n.name+": no answer")
			continue
		}
		said = append(said, n.name+": "+r.String())
	}
	l.t.Logf("%s: %s", when, strings.Join(said, "; "))
}

// accounted fails the test if an acknowledged row is missing on the primary, and returns the primary.
func (l *lab) accounted() *node {
	l.t.Helper()
	acked := l.writer.stop()
	p := l.leader()
	missing := p.lacks(acked)
	l.t.Logf("%d of %d acknowledged rows are missing on %s", missing, len(acked), p.name)
	if missing > 0 {
		l.t.Errorf("%d of %d acknowledged rows are lost", missing, len(acked))
	}
	if len(acked) < 50 {
		l.t.Errorf("only %d rows were written: the test shows nothing", len(acked))
	}
	return p
}

// configure writes requorum.yaml.
func (l *lab) configure() {
	l.t.Helper()
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("clusters:\n  dcs:\n    endpoints: [%s]\n    stores: [main]", strings.Join(l.etcd.Endpoints(), ", "))
	if c := l.etcd.Certs; c != nil {
		line("    tls: {ca: %s, cert: %s, key: %s}", c.CA, c.Client.Cert, c.Client.Key)
	}
	if l.etcd.RootPassword != "" {
		line("    username: root\n    password: %s", l.etcd.RootPassword)
	}
	line("    agents:\n      - patroni:\n          scope: main\n          namespace: %s\n          deadline: 6m", l.namespace)
	if !l.discover {
		var urls []string
		for _, n := range l.nodes {
			urls = append(urls, n.restURL())
		}
		line("          rest: [%s]", strings.Join(urls, ", "))
	}
	if c := l.restCerts; c != nil {
		line("          tls: {ca: %s, cert: %s, key: %s}\n          username: operator\n          password: rest-secret", c.CA, c.Client.Cert, c.Client.Key)
	}
	line("    members:")
	for _, m := range l.etcd.Members {
		c := m.Commands(l.t)
		line("      - {name: %s, peer_url: %q, client_url: %q, data_dir: %s, service: {start: %s, stop: %s, status: %s, inhibit: %s, allow: %s}}",
			m.Name, m.PeerURL, m.ClientURL, m.DataDir, c.Start, c.Stop, c.Status, c.Inhibit, c.Allow)
	}
	line("stores:\n  main: {file: {path: %s}}\nspool_dir: %s\nallow_tmpfs_spool: true", filepath.Join(l.dir, "store"), filepath.Join(l.dir, "spool"))
	if err := os.WriteFile(filepath.Join(l.dir, "requorum.yaml"), []byte(b.String()), 0o600); err != nil {
		l.t.Fatal(err)
	}
}

// requorum runs the program to its end.
func (l *lab) requorum(args ...string) command.Result {
	l.t.Helper()
	return l.begin(args...).Wait(l.t)
}

// begin starts the program.
func (l *lab) begin(args ...string) *command.Command {
	l.t.Helper()
	l.configure()
	return command.Start(l.t, command.Options{Dir: l.dir}, append([]string{program}, args...)...)
}

// backup takes one, which must succeed.
func (l *lab) backup() {
	l.t.Helper()
	l.requorum("backup", "dcs").Exits(l.t, command.ExitOK)
}

// A restored cluster, as restore -o json says it.
type restored struct {
	OK            bool
	ClusterID     string `json:"cluster_id"`
	GhostsRemoved []struct {
		Prefix string
		Count  int
	} `json:"ghosts_removed"`
	Healthy float64 `json:"healthy_seconds"`
	RTO     float64 `json:"rto_seconds"`
	Agents  []agents.Verdict
	Notes   []string
}

func reported(t *testing.T, r command.Result) (rep restored) {
	t.Helper()
	r.Decode(t, &rep)
	return rep
}

// verdict is what the restore says of the scope, with the times logged.
func (r restored) verdict(t *testing.T) agents.Verdict {
	t.Helper()
	for _, v := range r.Agents {
		if v.Name == "patroni /service/main" {
			t.Logf("etcd proven after %.1f s, agents after %.1f s: %s", r.Healthy, r.RTO, v.Verdict)
			for _, c := range v.Checks {
				t.Logf("  %5v %6.1f s  %s: %s", c.OK, c.Seconds, c.Name, c.Detail)
			}
			t.Logf("seconds from etcd healthy: leader %.1f, all members %.1f, all streaming %.1f, proven %.1f", seconds(v, "leader registered anew"),
				seconds(v, "members registered anew"), seconds(v, "replicas stream"), seconds(v, "nothing below the baseline"))
			return v
		}
	}
	t.Fatalf("no verdict on the scope: %+v", r.Agents)
	return agents.Verdict{}
}

// seconds is when a check turned true, since etcd was healthy.
func seconds(v agents.Verdict, check string) float64 {
	for _, c := range v.Checks {
		if c.Name == check {
			return c.Seconds
		}
	}
	return 0
}

// restore restores without a question, which must succeed with the verdict.
func (l *lab) restore(verdict string, flags ...string) restored {
	l.t.Helper()
	return l.restoring(flags...)(verdict)
}

// restoring is restore that goes on while the test does something.
func (l *lab) restoring(flags ...string) func(verdict string) restored {
	l.t.Helper()
	begun := l.begin(slices.Concat([]string{"-o", "json", "restore", "dcs", "--yes"}, flags)...)
	return func(verdict string) restored {
		l.t.Helper()
		result := begun.Wait(l.t)
		if result.Code != command.ExitOK {
			l.t.Fatalf("restore:\n%s", result)
		}
		if !strings.Contains(result.Stderr, "patroni /service/main: leader registered anew after") {
			l.t.Errorf("the proof was not told while it went on:\n%s", result.Stderr)
		}
		r := reported(l.t, result)
		if v := r.verdict(l.t); v.Verdict != verdict || !v.OK {
			l.t.Errorf("verdict %s, want %s", v.Verdict, verdict)
		}
		return r
	}
}

// port is that of a URL.
func port(raw string) int {
	_, text, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(raw, "http://"), "https://"), ":")
	n, _ := strconv.Atoi(text) // 0 is a port that nobody listens on
	return n
}

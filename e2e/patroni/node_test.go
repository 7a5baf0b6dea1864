package patroni

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/requorum/requorum/internal/etcdtest"
)

const (
	binDir = "/usr/lib/postgresql/15/bin"

	// Patroni's own defaults are 30, 10 and 10; these are the shortest with which a busy machine does well.
	ttl          = 20
	loopWait     = 3
	retryTimeout = 5
)

// A node is a machine with Patroni and PostgreSQL on it.
type node struct {
	lab      *lab
	name     string
	dir      string
	rest, pg int // ports
	program  *etcdtest.Program
}

func (n *node) restURL() string { return fmt.Sprintf("%s://127.0.0.1:%d", n.lab.restScheme(), n.rest) }
func (n *node) dataDir() string { return filepath.Join(n.dir, "pg") }
func (n *node) log() string     { return filepath.Join(n.dir, "patroni.log") }

// role is the name that the node replicates as: each has its own, so that one can be shut out.
func (n *node) role() string { return "rep_" + n.name }

// configure writes patroni.yml.
func (n *node) configure() {
	t := n.lab.t
	t.Helper()
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("scope: main\nnamespace: %s\nname: %s", n.lab.namespace, n.name)
	line("restapi:\n  listen: 127.0.0.1:%d\n  connect_address: 127.0.0.1:%d", n.rest, n.rest)
	if c := n.lab.restCerts; c != nil {
		line("  certfile: %s\n  keyfile: %s\n  cafile: %s\n  verify_client: required", c.Server.Cert, c.Server.Key, c.CA)
		line("  authentication: {username: operator, password: rest-secret}")
		line("ctl: {certfile: %s, keyfile: %s, cacert: %s}", c.Client.Cert, c.Client.Key, c.CA)
	}
	var hosts []string
	for _, m := range n.lab.etcd.Members {
		hosts = append(hosts, m.Addr())
	}
	line("etcd3:\n  hosts: [%s]", strings.Join(hosts, ", "))
	if c := n.lab.etcd.Certs; c != nil {
		line("  protocol: https\n  cacert: %s", c.CA)
	}
	if n.lab.etcd.RootPassword != "" {
		line("  username: patroni\n  password: patroni-secret")
	}
	line("bootstrap:\n  dcs: %s\n  initdb: [encoding: UTF8, {auth: trust}, {locale: C}, no-sync]", n.lab.config)
	line("  pg_hba: [host all all 127.0.0.1/32 trust, host replication all 127.0.0.1/32 trust]")
	line("postgresql:\n  listen: 127.0.0.1:%d\n  connect_address: 127.0.0.1:%d\n  data_dir: %s\n  bin_dir: %s\n  pgpass: %s", n.pg, n.pg, n.dataDir(), binDir, filepath.Join(n.dir, "pgpass"))
	line("  authentication: {replication: {username: %s}, superuser: {username: postgres}}", n.role())
	line("  parameters: {unix_socket_directories: %s, fsync: 'off', shared_buffers: 16MB, max_wal_size: 2GB}", n.dir)
	if err := os.WriteFile(n.configFile(), []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (n *node) configFile() string { return filepath.Join(n.dir, "patroni.yml") }

// start switches the machine on. The first process of its namespace is a shell; Patroni runs as postgres below it.
func (n *node) start() {
	n.lab.t.Helper()
	// A machine that lost its power has a pid file, and no process of that number.
	if err := os.Remove(filepath.Join(n.dataDir(), "postmaster.pid")); err != nil && !os.IsNotExist(err) {
		n.lab.t.Fatal(err)
	}
	n.program.Start(n.lab.t, "unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL", "sh", "-c",
		"setpriv --reuid=postgres --regid=postgres --clear-groups "+patroni+" "+n.configFile()+" & trap 'kill -TERM $!; wait' TERM; wait")
}

// kill cuts its power: every process on it is gone at once.
func (n *node) kill() {
	n.lab.t.Helper()
	n.program.End(n.lab.t, syscall.SIGKILL)
	n.lab.until("PostgreSQL of "+n.name+" to be gone", func() bool { return !listening(n.pg) && !listening(n.rest) })
}

// stop ends Patroni as a service manager does, which stops PostgreSQL first.
func (n *node) stop() {
	n.lab.t.Helper()
	pid := n.firstPID()
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		n.lab.t.Fatalf("stop %s: %v", n.name, err)
	}
	n.lab.until(n.name+" to stop", func() bool { return !n.program.Running() })
}

// firstPID is the shell that is process 1 of the node, as this machine numbers it.
func (n *node) firstPID() int {
	n.lab.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", n.program.PID()))
	if err != nil {
		n.lab.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		n.lab.t.Fatalf("%s does not run: its first process is %q", n.name, b)
	}
	return pid
}

// report is what the agent says about itself.
type report struct {
	State    string
	Role     string
	Timeline int64
	Pause    bool
	Unlocked bool `json:"cluster_unlocked"`
	Xlog     struct {
		Location int64
		Received int64 `json:"received_location"`
		Replayed int64 `json:"replayed_location"`
	}
	Replication []struct {
		Name  string `json:"application_name"`
		State string
	}
}

func (r report) primary() bool {
	return (r.Role == "master" || r.Role == "primary") && r.State == "running"
}

func (r report) streamsTo(name string) bool {
	for _, s := range r.Replication {
		if s.Name == name && s.State == "streaming" {
			return true
		}
	}
	return false
}

func (r report) String() string {
	return fmt.Sprintf("%s, %s, timeline %d, LSN %X", r.Role, r.State, r.Timeline, max(r.Xlog.Location, r.Xlog.Received, r.Xlog.Replayed))
}

// ask asks the agent at path; code is 0 when it does not answer.
func (n *node) ask(path string) (r report, code int) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.restURL()+path, nil)
	if err != nil {
		n.lab.t.Fatal(err)
	}
	resp, err := n.lab.http.Do(req)
	if err != nil {
		return r, 0
	}
	defer resp.Body.Close()
	if json.NewDecoder(resp.Body).Decode(&r) != nil {
		return report{}, 0
	}
	return r, resp.StatusCode
}

// leads says whether the node holds the leader lock and runs a primary.
func (n *node) leads() bool {
	r, code := n.ask("/primary")
	return code == http.StatusOK && r.primary()
}

// sql runs a statement on the node's PostgreSQL and returns what it prints.
func (n *node) sql(statement string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(binDir, "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-c", statement, n.conn())
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %s: %w: %s", n.name, statement, err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

func (n *node) mustSQL(statement string) string {
	n.lab.t.Helper()
	out, err := n.sql(statement)
	if err != nil {
		n.lab.t.Fatal(err)
	}
	return out
}

func (n *node) conn() string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=postgres dbname=postgres connect_timeout=15", n.pg)
}

// rows are the ids that the node's PostgreSQL has.
func (n *node) rows() []int64 {
	n.lab.t.Helper()
	var ids []int64
	for line := range strings.Lines(n.mustSQL("SELECT id FROM acked ORDER BY id")) {
		id, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
		if err != nil {
			n.lab.t.Fatal(err)
		}
		ids = append(ids, id)
	}
	return ids
}

// has says how many of the sorted ids the node's PostgreSQL lacks.
func (n *node) lacks(ids []int64) (missing int) {
	n.lab.t.Helper()
	have := n.rows()
	for _, id := range ids {
		if _, ok := slices.BinarySearch(have, id); !ok {
			missing++
		}
	}
	return missing
}

// tail is the end of Patroni's log.
func (n *node) tail(lines int) string {
	b, err := os.ReadFile(n.log())
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// needs skips the test unless the lab can be built here.
func needs(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts etcd, Patroni and PostgreSQL")
	}
	if os.Getuid() != 0 {
		t.Skip("the Patroni lab needs root: each node is a process namespace, with PostgreSQL as user postgres")
	}
	for _, program := range []string{patroni, "unshare", "setpriv", filepath.Join(binDir, "postgres")} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("the Patroni lab needs %s: apt-get install patroni python3-etcd python3-idna postgresql-15", program)
		}
	}
}

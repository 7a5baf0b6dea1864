package hosts

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// requorum is the built program.
var requorum string

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 { // every test here makes hosts
		os.Exit(m.Run())
	}
	os.Exit(command.Main(m, func(built, _ string) { requorum = built }))
}

// A desk is where somebody runs requorum: a home directory and a spool in the desk's network, with a host name of its own. All desks of
// a site share the store.
type desk struct {
	site *site
	name string
	dir  string
	env  []string // comes after this process's own

	// What a test may change before it writes the configuration again.
	members []member
	more    string // lines of the cluster's configuration, indented by four
	top     string // lines at the top level
}

// A member is one as the configuration names it.
type member struct {
	host *host
	url  string // of the host; empty: SSH as root
	wal  string // its wal_dir, if apart
}

// newDesk sets a desk up for a cluster on the hosts, all of which it knows and may log in to as root.
func (s *site) newDesk(t testing.TB, name string, hosts ...*host) *desk {
	t.Helper()
	d := &desk{site: s, name: name, dir: filepath.Join(s.dir, name)}
	if err := os.MkdirAll(filepath.Join(d.dir, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	d.env = []string{"SSH_AUTH_SOCK=", "HOME=" + d.dir}
	for _, name := range []string{"id_ed25519", "id_ed25519.pub"} {
		b, err := os.ReadFile(filepath.Join(s.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		d.file(t, ".ssh/"+name, string(b))
	}
	for _, h := range hosts {
		d.members = append(d.members, member{host: h})
	}
	d.knows(t, s.hosts...)
	d.configure(t)
	return d
}

// file writes a file at the desk.
func (d *desk) file(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(d.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// knows writes known_hosts.
func (d *desk) knows(t testing.TB, hosts ...*host) {
	t.Helper()
	var text string
	for _, h := range hosts {
		text += h.knownHost()
	}
	d.file(t, ".ssh/known_hosts", text)
}

// configure writes the configuration.
func (d *desk) configure(t testing.TB) {
	t.Helper()
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("clusters:\n  dcs:\n    stores: [main]")
	if d.more != "" {
		line("%s", strings.TrimRight(d.more, "\n"))
	}
	if !strings.Contains(d.more, "snapshot:") {
		line("    snapshot: {dial_timeout: 10s}") // of a machine that does much else
	}
	line("    members:")
	for _, m := range d.members {
		url := m.url
		if url == "" {
			url = m.host.ssh("root")
		}
		line("      - {name: %s, host: %q, peer_url: %q, client_url: %q, data_dir: %s, wal_dir: %q, service: %s}",
			m.host.name, url, m.host.peerURL(), m.host.clientURL(), dataDir, m.wal, m.host.service())
	}
	line("stores:\n  main: {file: {path: %s}}", filepath.Join(d.site.dir, "store"))
	line("spool_dir: %s\nallow_tmpfs_spool: true", filepath.Join(d.dir, "spool"))
	line("%s", d.top)
	d.file(t, "requorum.yaml", b.String())
}

// start starts requorum at the desk.
func (d *desk) start(t testing.TB, args ...string) *command.Command {
	t.Helper()
	return command.Start(t, command.Options{Dir: d.dir, Env: d.env,
		Through: []string{"ip", "netns", "exec", d.site.desk, "unshare", "--uts", "sh", "-c", `hostname "$0"; exec "$@"`, d.name}}, append([]string{requorum}, args...)...)
}

// run runs requorum to its end.
func (d *desk) run(t testing.TB, args ...string) command.Result {
	t.Helper()
	r := d.start(t, args...).Wait(t)
	for line := range strings.Lines(r.Stdout) {
		if strings.HasPrefix(line, "  stage ") {
			t.Log(strings.TrimSpace(line))
		}
	}
	return r
}

// A restored cluster, as requorum restore -o json says it.
type restored struct {
	Run     string
	OK      bool
	Without []string
	Members []struct {
		Name    string
		Healthy bool
	}
	Stages []struct {
		Name    string
		Seconds float64
	}
	Notes []string
}

// rows reads every key that is not under a lease.
func (s *site) rows(t testing.TB, hosts ...*host) []etcdtest.Row {
	t.Helper()
	client := s.client(t, hosts...)
	s.serves(t, client)
	return slices.DeleteFunc(etcdtest.Rows(t, client), func(r etcdtest.Row) bool { return r.Lease != 0 })
}

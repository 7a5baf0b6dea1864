package hosts

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/requorum/requorum/internal/etcdtest"
)

// requorum is the built program.
var requorum string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		if testing.Short() || os.Geteuid() != 0 { // every test here makes hosts
			return m.Run()
		}
		dir, err := os.MkdirTemp("", "requorum-hosts-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		requorum = filepath.Join(dir, "requorum")
		build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", requorum, "../../cmd/requorum")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build requorum: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// The exit codes that users and their scripts rely on.
const (
	exitOK      = 0
	exitError   = 1
	exitUsage   = 2
	exitPartly  = 3
	exitLocked  = 11
	exitRefused = 14
)

// A desk is where somebody runs requorum: a home directory and a spool in the desk's network, with a host name of its own. All desks of
// a site share the store.
type desk struct {
	site *site
	name string
	dir  string
	env  []string

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
	d.env = append(slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "SSH_AUTH_SOCK=") }), "HOME="+d.dir)
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

// A command is requorum with arguments, perhaps still running.
type command struct {
	*exec.Cmd
	stdout, stderr output
	begun          time.Time
	cancel         context.CancelFunc
}

// A result is what a command that has ended has left.
type result struct {
	args           []string
	code           int // -1: killed
	stdout, stderr string
}

// An output may be looked at while it grows.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// start starts requorum at the desk.
func (d *desk) start(t testing.TB, args ...string) *command {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	all := append([]string{"netns", "exec", d.site.desk, "unshare", "--uts", "sh", "-c", `hostname "$0"; exec "$@"`, d.name, requorum}, args...)
	c := &command{Cmd: exec.CommandContext(ctx, "ip", all...), begun: time.Now(), cancel: cancel}
	c.Dir, c.Env, c.Stdout, c.Stderr = d.dir, d.env, &c.stdout, &c.stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.WaitDelay = 10 * time.Second
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cancel)
	return c
}

// run runs requorum to its end.
func (d *desk) run(t testing.TB, args ...string) result {
	t.Helper()
	return d.start(t, args...).wait(t)
}

// wait waits for the end.
func (c *command) wait(t testing.TB) result {
	t.Helper()
	defer c.cancel()
	err := c.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v\n%s", strings.Join(c.Args, " "), err, c.stderr.String())
	}
	args := c.Args[slices.Index(c.Args, requorum)+1:]
	t.Logf("%5.1f s, exit code %d: requorum %s", time.Since(c.begun).Seconds(), c.ProcessState.ExitCode(), strings.Join(args, " "))
	for line := range strings.Lines(c.stdout.String()) {
		if strings.HasPrefix(line, "  stage ") {
			t.Log(strings.TrimSpace(line))
		}
	}
	return result{args: args, code: c.ProcessState.ExitCode(), stdout: c.stdout.String(), stderr: c.stderr.String()}
}

// reaches waits until the command has said a text on stderr.
func (c *command) reaches(t testing.TB, text string) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s has said:\n%s", strings.Join(c.Args, " "), c.stderr.String())
		}
	})
	until(t, fmt.Sprintf("%q of %s", text, strings.Join(c.Args, " ")), func() bool { return strings.Contains(c.stderr.String(), text) })
}

// kill ends the command as a power cut at the desk does.
func (c *command) kill(t testing.TB) result {
	t.Helper()
	if err := c.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	return c.wait(t)
}

func (r result) String() string {
	return fmt.Sprintf("requorum %s\nexit code %d\n--- stdout\n%s--- stderr\n%s", strings.Join(r.args, " "), r.code, r.stdout, r.stderr)
}

// exits fails the test unless the command ended with the code and said each of the words, on either stream.
func (r result) exits(t testing.TB, code int, words ...string) result {
	t.Helper()
	if r.code != code {
		t.Fatalf("exit code %d, want %d:\n%s", r.code, code, r)
	}
	for _, w := range words {
		if !strings.Contains(r.stdout, w) && !strings.Contains(r.stderr, w) {
			t.Errorf("it does not say %q:\n%s", w, r)
		}
	}
	if strings.Contains(r.stderr, "panic:") || strings.Contains(r.stderr, "goroutine 1 [") {
		t.Errorf("it panicked:\n%s", r)
	}
	return r
}

// decode reads the JSON on stdout into v.
func (r result) decode(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.stdout), v); err != nil {
		t.Fatalf("stdout is not the JSON that was asked for: %v\n%s", err, r)
	}
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

package etcdtest

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Commands are executable scripts, as paths without arguments, that control one member from any
// process, as a service manager would. The test runs the server on their behalf, so that it ends
// with the test whoever started it.
type Commands struct {
	Start   string // returns once the process exists; running already is fine; exit 1 while inhibited
	Stop    string // SIGTERM; returns once the process is gone; not running is fine
	Status  string // exit 0 and "active" when the process exists, else 3 and "inactive"
	Inhibit string // Start and Member.Boot refuse from now on
	Allow   string // lifts Inhibit
}

// Commands returns scripts that control the member until t ends.
func (m *Member) Commands(t testing.TB) Commands {
	t.Helper()
	c := m.cluster
	if c.control == nil {
		control, err := newControl()
		if err != nil {
			t.Fatalf("serve the members' commands: %v", err)
		}
		c.control = control
	}
	c.control.register(m)
	script := func(verb string) string {
		path := filepath.Join(m.Dir, verb)
		text := fmt.Sprintf(`#!/bin/bash
exec 3<>/dev/tcp/127.0.0.1/%d || { echo "the test that owns this server is gone" >&2; exit 1; }
echo '%s %s' >&3
read -r code message <&3 || { echo "the test that owns this server did not answer" >&2; exit 1; }
if [ "$code" = 0 ] || [ "$code" = 3 ]; then echo "$message"; else echo "$message" >&2; fi
exit "$code"
`, c.control.port, verb, m.Name)
		WriteScript(t, path, text)
		return path
	}
	return Commands{Start: script("start"), Stop: script("stop"), Status: script("status"),
		Inhibit: script("inhibit"), Allow: script("allow")}
}

// WriteScript writes an executable that can be run at once: no process that is being started elsewhere in the test can have inherited the
// file while it was open for writing, for which the kernel would refuse to run it ("text file busy").
func WriteScript(t testing.TB, path, text string) {
	t.Helper()
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// control answers the scripts of a cluster's members.
type control struct {
	port     int
	listener net.Listener
	wg       sync.WaitGroup

	mu        sync.Mutex
	members   map[string]*Member
	inhibited map[string]bool
}

func newControl() (*control, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	ctl := &control{port: l.Addr().(*net.TCPAddr).Port, listener: l,
		members: map[string]*Member{}, inhibited: map[string]bool{}}
	ctl.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			ctl.wg.Go(func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(2 * stopTimeout))
				line, err := bufio.NewReader(conn).ReadString('\n')
				if err != nil {
					return
				}
				verb, name, _ := strings.Cut(strings.TrimSpace(line), " ")
				code, message := ctl.do(verb, name)
				fmt.Fprintln(conn, code, strings.ReplaceAll(message, "\n", " "))
			})
		}
	})
	return ctl, nil
}

func (ctl *control) register(m *Member) {
	ctl.mu.Lock()
	defer ctl.mu.Unlock()
	ctl.members[m.Name] = m
}

func (ctl *control) close() {
	ctl.listener.Close()
	ctl.wg.Wait()
}

// do carries a command out and returns the script's exit code and what it prints.
func (ctl *control) do(verb, name string) (code int, message string) {
	ctl.mu.Lock()
	m, ok := ctl.members[name]
	ctl.mu.Unlock()
	if !ok {
		return 1, "no such member: " + name
	}
	var err error
	switch verb {
	case "start":
		if ctl.isInhibited(m.Name) {
			return 1, m.Name + " is inhibited"
		}
		err = m.process.start(m.Args)
	case "stop":
		err = m.process.end(syscall.SIGTERM)
	case "status":
		if m.Running() {
			return 0, "active"
		}
		return 3, "inactive"
	case "inhibit", "allow":
		ctl.mu.Lock()
		ctl.inhibited[m.Name] = verb == "inhibit"
		ctl.mu.Unlock()
	default:
		err = fmt.Errorf("no such command: %q", verb)
	}
	if err != nil {
		return 1, fmt.Sprintf("%s %s: %v", verb, m.Name, err)
	}
	return 0, ""
}

func (ctl *control) isInhibited(name string) bool {
	ctl.mu.Lock()
	defer ctl.mu.Unlock()
	return ctl.inhibited[name]
}

// Boot does what a reboot of the member's host does: it starts the member unless that is inhibited,
// and says whether it did.
func (m *Member) Boot(t testing.TB) bool {
	t.Helper()
	if ctl := m.cluster.control; ctl != nil && ctl.isInhibited(m.Name) {
		return false
	}
	m.Start(t)
	return true
}

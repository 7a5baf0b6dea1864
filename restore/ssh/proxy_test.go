package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// relay is a program for ProxyCommand: it connects its standard input and output with an address, and says in a file what it was called with.
func relay(args []string) error {
	log, how, host, port := args[0], args[1], args[2], args[3]
	if how == "stubborn" { // it does not end when it is told to
		signal.Ignore(syscall.SIGHUP)
		fmt.Fprintln(os.Stderr, "still connecting")
	}
	if err := os.WriteFile(log, fmt.Appendf(nil, "%d %s\n", os.Getpid(), strings.Join(args[1:], " ")), 0o600); err != nil {
		return err
	}
	switch how {
	case "fail":
		fmt.Fprint(os.Stderr, "Warning: a banner\r\nthe cause\r\n\r\nthe end\r\n")
		os.Exit(9)
	case "stubborn":
		time.Sleep(10 * time.Minute)
	}
	conn, err := net.Dial("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return err
	}
	go func() { _, _ = io.Copy(conn, os.Stdin) }()
	_, _ = io.Copy(os.Stdout, conn)
	return nil
}

// relayed is a ProxyCommand that runs relay, and the file that it writes.
func (c *client) relayed(how string) (command, log string) {
	c.t.Helper()
	self, err := os.Executable()
	if err != nil {
		c.t.Fatal(err)
	}
	log = filepath.Join(c.home, "relay-"+how)
	return fmt.Sprintf(`'%s' relay '%s' %s %%h %%p %%n "user is %%r" 100%%%%`, self, log, how), log
}

// pid is the process that wrote the file, and what it was called with.
func pid(t *testing.T, log string) (n int, args string) {
	t.Helper()
	until(t, "the program of ProxyCommand", func() bool {
		b, err := os.ReadFile(log)
		if err != nil {
			return false
		}
		first, rest, ok := strings.Cut(string(b), " ")
		n, err = strconv.Atoi(first)
		args = strings.TrimSpace(rest)
		return ok && err == nil && strings.HasSuffix(rest, "\n")
	})
	return n, args
}

// over says whether a process is gone, its entry among the processes, too.
func over(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

func TestProxyCommand(t *testing.T) {
	c := newClient(t)
	t.Setenv("SHELL", "/bin/sh")
	s := startServer(t, c.key.PublicKey())
	s.name = "inside.invalid"
	c.knows(s)
	port := s.addr[strings.LastIndex(s.addr, ":")+1:]
	command, log := c.relayed("plain")
	config := "Host machine\n  User tester\n  HostName 127.0.0.1\n  Port " + port + "\n  ProxyCommand " + command + "\nHost behind\n  User tester\n  HostName 127.0.0.1\n  Port " + port + "\n  ProxyJump machine\n"
	c.file("config", config)

	hosts, h := c.open("machine", nil)
	db, stage := database(t, 3<<20)
	if err := h.Stage(t.Context(), stage, db); err != nil {
		t.Fatal(err)
	}
	same(t, db, stage.Member.DataDir)
	program, args := pid(t, log)
	if want := "plain 127.0.0.1 " + port + " machine user is tester 100%"; args != want {
		t.Errorf("the program is called with %q, not with %q", args, want)
	}
	if err := hosts.Close(); err != nil {
		t.Error(err)
	}
	if !over(program) {
		t.Errorf("process %d of ProxyCommand is still there when the connection has been closed", program)
	}

	// A jump host is reached by its own command, and etcd through that machine.
	os.Remove(log)
	_, h = c.open("behind", nil)
	if err := h.Check(t.Context()); err != nil {
		t.Errorf("a jump host with a ProxyCommand: %v", err)
	}
	if _, args := pid(t, log); !strings.HasPrefix(args, "plain 127.0.0.1 "+port+" machine ") {
		t.Errorf("the jump host's program is called with %q", args)
	}
	os.Remove(log)
	tunnel := NewTunnel(Options{})
	conn, err := tunnel.Dial(t.Context(), net.JoinHostPort(s.name, port), "ssh://tester@machine")
	if err != nil {
		t.Fatalf("what the machine alone knows is not reached through its ProxyCommand: %v", err)
	}
	program, _ = pid(t, log)
	conn.Close()
	tunnel.Close()
	if !over(program) {
		t.Errorf("process %d of ProxyCommand outlives the tunnel", program)
	}

	// The program is killed in the middle: the connection is made anew.
	os.Remove(log)
	_, h = c.open("machine", nil)
	if err := h.Stage(t.Context(), stage, db); err != nil {
		t.Fatal(err)
	}
	program, _ = pid(t, log)
	os.Remove(log)
	if err := syscall.Kill(program, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := h.Stage(t.Context(), stage, db); err != nil {
		t.Errorf("after the program was killed: %v", err)
	}
	if again, _ := pid(t, log); again == program {
		t.Error("there was no other connection: nothing is shown")
	}
	until(t, "the killed program to be waited for", func() bool { return over(program) })

	// ssh(1) itself calls the same program with the same words.
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		t.Skip("there is no ssh to compare with")
	}
	failing, log := c.relayed("fail")
	file := c.file("config", strings.ReplaceAll(config, command, failing))
	_, h = c.open("machine", nil)
	if err := h.Check(t.Context()); err == nil {
		t.Error("a program that fails is a connection")
	}
	_, ours := pid(t, log)
	os.Remove(log)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, ssh, "-F", file, "-o", "BatchMode=yes", "tester@machine", "true").CombinedOutput(); err == nil {
		t.Errorf("ssh gets through a program that fails: %s", out)
	}
	if _, theirs := pid(t, log); ours != theirs {
		t.Errorf("the program is called with %q, by ssh itself with %q", ours, theirs)
	}
}

// TestProxyCommandFails shows that an error has what the program said, that nothing outlasts the limit, and that nothing is left of the program and of what it started.
func TestProxyCommandFails(t *testing.T) {
	c := newClient(t)
	t.Setenv("SHELL", "/bin/sh")
	s := startServer(t, c.key.PublicKey())
	c.knows(s)
	another, _ := newSigner(t)
	config := "Host machine\n  HostName 127.0.0.1\n  Port " + s.addr[strings.LastIndex(s.addr, ":")+1:] + "\n"
	check := func(ctx context.Context, lines string) error {
		t.Helper()
		c.file("config", config+lines+"\n")
		_, h := c.open("machine", nil)
		return h.Check(ctx)
	}
	says := func(err error, words ...string) {
		t.Helper()
		for _, w := range words {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%v\nhas no %q", err, w)
			}
		}
	}

	// How a program ended is told if that is known within a second.
	ended := func(lines string) (err error) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; {
			err = check(t.Context(), lines)
			if err == nil || strings.Contains(err.Error(), " ended: ") || time.Now().After(deadline) {
				return err
			}
		}
	}
	failing, log := c.relayed("fail")
	err := ended("ProxyCommand " + failing)
	says(err, "host ssh://tester@machine", "ProxyCommand", " fail 127.0.0.1 ", "ended: exit status 9", ": the cause; the end")
	if lost := (*LostError)(nil); !errors.As(err, &lost) || strings.Contains(err.Error(), "banner") {
		t.Errorf("%v", err)
	}
	if program, _ := pid(t, log); !over(program) {
		t.Errorf("process %d is still there", program)
	}
	says(ended("ProxyCommand /nonexistent/program"), "ProxyCommand \"/nonexistent/program\" ended: exit status 127", "/nonexistent/program")

	// One that neither connects nor ends when it is told to, with a child that does not, either.
	stubborn, log := c.relayed("stubborn")
	child := filepath.Join(c.home, "child")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for ctx.Err() == nil {
			if _, err := os.Stat(log); err == nil {
				cancel()
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	err = check(ctx, `ProxyCommand sh -c 'trap "" HUP; sleep 600 2>/dev/null & echo "$! ." >'`+child+`'; exec "$@"' - `+stubborn)
	says(err, "still connecting")
	if err != nil && strings.Contains(err.Error(), "ended") {
		t.Errorf("that requorum ended it itself is told as the cause: %v", err)
	}
	if program, _ := pid(t, log); !over(program) {
		t.Errorf("process %d is still there", program)
	}
	sleeper, _ := pid(t, child)
	until(t, "what the program started to be gone", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", sleeper)) // a zombie is init's
		return over(sleeper) || err == nil && strings.Contains(string(stat), ") Z ")
	})

	says(check(t.Context(), "ConnectTimeout 1\nProxyCommand sleep 600"), "no answer within 1s", `ProxyCommand "sleep 600"`)

	// A host that is reached so is held to its key like any other.
	s.key = another
	c.knows(s)
	plain, log := c.relayed("plain")
	err = check(t.Context(), "ProxyCommand "+plain)
	var wrong *HostKeyError
	if !errors.As(err, &wrong) || strings.Contains(err.Error(), "ProxyCommand \"") {
		t.Errorf("a host with another key: %v", err)
	}
	if program, _ := pid(t, log); !over(program) {
		t.Errorf("process %d is still there", program)
	}
}

func TestProxyCommandTokens(t *testing.T) {
	for _, c := range []struct{ text, host, user, want, wrong string }{
		{"nc %h %p", "10.0.0.1", "u", "nc 10.0.0.1 22", ""},
		{"nc %h %p", "[fe80::1]", "u", "nc fe80::1 22", ""},
		{"%n%%h %r", "h", "u@x", "name%h u@x", ""},
		{"nc %h%", "h", "u", "", "single %"},
		{"nc %d", "h", "u", "", "%d, which means nothing there"},
		{"nc %h", "$(id)", "u", "", "%h would be \"$(id)\""},
		{"nc %h", "-oX", "u", "", "%h would be"},
		{"nc %r", "h", "a b", "", "%r would be"},
		{"nc %h", "h", "a b", "nc h", ""}, // it is not used
	} {
		got, err := settings{name: "name", user: c.user}.proxyCommand(c.text, c.host, "22")
		if got != c.want || (err == nil) != (c.wrong == "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%q for %s@%s: %q, %v", c.text, c.user, c.host, got, err)
		}
	}
}

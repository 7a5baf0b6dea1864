package ssh

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/requorum/requorum/internal/etcdtest"
)

// TestTunnel connects to what only the machine at the end of the jumps can reach, and to what can be reached from here.
func TestTunnel(t *testing.T) {
	c := newClient(t)
	gate, s := startServer(t, c.key.PublicKey()), startServer(t, c.key.PublicKey())
	s.name = "inside.invalid"
	c.knows(gate, s)
	c.file("config", "Host 127.0.0.1\n  User tester\nHost machine\n  User tester\n  HostName 127.0.0.1\n  Port "+s.addr[strings.LastIndex(s.addr, ":")+1:]+"\n  ProxyJump "+gate.addr+"\nHost away\n  ProxyJump unknown.invalid\n")
	l := etcdtest.Listen(t)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn); conn.Close() }()
		}
	}()
	logins := func() int { s.mu.Lock(); defer s.mu.Unlock(); return len(s.conns) }
	tunnel := NewTunnel(Options{})
	defer tunnel.Close()
	dial := func(machine, addr string) net.Conn {
		t.Helper()
		conn, err := tunnel.Dial(t.Context(), addr, "ssh://"+machine)
		if err != nil {
			t.Fatalf("%s: %v", addr, err)
		}
		if _, err := conn.Write([]byte("there")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 5)
		if _, err := io.ReadFull(conn, b); err != nil || string(b) != "there" {
			t.Fatalf("%s answers %q, %v", addr, b, err)
		}
		return conn
	}
	dial("away", l.Addr().String()).Close() // what is reached from here does not depend on SSH
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	inside := net.JoinHostPort(s.name, port)
	first, second := dial("machine", inside), dial("machine", inside)
	if n := logins(); n != 1 {
		t.Errorf("%d logins for two connections to one machine", n)
	}
	first.Close()
	second.Close()

	// The line is cut: the next connection makes it anew.
	s.mu.Lock()
	s.conns[0].Close()
	s.mu.Unlock()
	dial("machine", inside).Close()
	if n := logins(); n != 2 {
		t.Errorf("%d logins after the first was lost", n)
	}
	// One who does not answer holds up nobody else.
	ctx, cancel := context.WithCancel(t.Context())
	waited := make(chan error, 1)
	go func() {
		_, err := tunnel.Dial(ctx, "silent.invalid:1", "ssh://machine")
		waited <- err
	}()
	until(t, "the question for who does not answer", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.silent > 0 })
	dial("machine", inside).Close()
	cancel()
	if err := <-waited; err == nil {
		t.Error("who does not answer is connected to")
	}
	l.Close()
	if _, err := tunnel.Dial(t.Context(), inside, "ssh://machine"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nothing listens on the machine: %v", err)
	}
}

// TestTunnelWays goes on from another machine where the first does not lead there, and tells what each of them says.
func TestTunnelWays(t *testing.T) {
	c := newClient(t)
	gate, first, second := startServer(t, c.key.PublicKey()), startServer(t, c.key.PublicKey()), startServer(t, c.key.PublicKey())
	second.name = "inside.invalid"
	c.knows(gate, first, second)
	config := "Host 127.0.0.1\n  User tester\n"
	for name, s := range map[string]*server{"first": first, "second": second} {
		config += "Host " + name + "\n  User tester\n  HostName 127.0.0.1\n  Port " + s.addr[strings.LastIndex(s.addr, ":")+1:] + "\n  ProxyJump " + gate.addr + "\n"
	}
	c.file("config", config+"Host gone\n  HostName 127.0.0.1\n  Port 1\n  ProxyJump "+gate.addr+"\nHost here\n  HostName 127.0.0.1\n")
	tunnel := NewTunnel(Options{})
	defer tunnel.Close()
	for url, behind := range map[string]bool{"ssh://first": true, "ssh://here": false, "no URL": false} {
		if tunnel.Leads(url) != behind {
			t.Errorf("%s is reached through others: %v", url, !behind)
		}
	}
	_, port, err := net.SplitHostPort(gate.addr)
	if err != nil {
		t.Fatal(err)
	}
	inside := net.JoinHostPort(second.name, port)
	for _, before := range []string{"ssh://gone", "ssh://first"} { // one that is not reached, and one that does not know the name
		conn, err := tunnel.Dial(t.Context(), inside, before, "ssh://here", "ssh://second")
		if err != nil {
			t.Errorf("%s keeps from asking the next machine: %v", before, err)
			continue
		}
		conn.Close()
	}
	if _, err := tunnel.Dial(t.Context(), inside, "ssh://gone", "ssh://first"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("one of the machines says that nothing listens there: %v", err)
	}
	if _, err := tunnel.Dial(t.Context(), inside, "ssh://gone"); err == nil || !strings.Contains(err.Error(), "lookup inside.invalid") || !strings.Contains(err.Error(), "nor by SSH: host ssh://gone") {
		t.Errorf("nobody leads there: %v", err)
	}
}

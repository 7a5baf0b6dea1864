package ssh

import (
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
)

// TestTunnel connects to what only the machine at the end of the jumps can reach, and to what can be reached from here.
func TestTunnel(t *testing.T) {
	c := newClient(t)
	gate, s := startServer(t, c.key.PublicKey()), startServer(t, c.key.PublicKey())
	s.name = "inside.invalid"
	c.knows(gate, s)
	c.file("config", "Host 127.0.0.1\n  User tester\nHost machine\n  User tester\n  HostName 127.0.0.1\n  Port "+s.addr[strings.LastIndex(s.addr, ":")+1:]+"\n  ProxyJump "+gate.addr+"\nHost away\n  ProxyJump unknown.invalid\n")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
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
	dial := func(machine, addr string) net.Conn {
		t.Helper()
		conn, err := tunnel.Dial(t.Context(), "ssh://"+machine, addr)
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
	l.Close()
	if _, err := tunnel.Dial(t.Context(), "ssh://machine", inside); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nothing listens on the machine: %v", err)
	}
}

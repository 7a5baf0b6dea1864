package etcdtest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

// echo serves every byte back until the test ends.
func echo(t *testing.T) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn) // ends as the proxy makes it end
			}()
		}
	}()
	return l.Addr().String()
}

func dial(t *testing.T, p *Proxy) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	return conn
}

// write writes beside the test, which reads meanwhile, and then calls done unless it is nil. A cut
// connection is no failure.
func write(t *testing.T, conn net.Conn, data []byte, done func()) {
	t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := conn.Write(data); err == nil && done != nil {
			done()
		}
	})
	t.Cleanup(wg.Wait)
}

func TestProxyPasses(t *testing.T) {
	p := NewProxy(t, echo(t))
	conn := dial(t, p)
	sent := bytes.Repeat([]byte("0123456789"), 50_000)
	write(t, conn, sent, func() { conn.(*net.TCPConn).CloseWrite() })
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("%d of %d bytes came back, with %v", len(got), len(sent), err)
	}
	if up, down := p.Bytes(); up != 500_000 || down != 500_000 || p.Connections() != 1 {
		t.Errorf("%d bytes up, %d down over %d connections are counted", up, down, p.Connections())
	}
}

func TestProxyCuts(t *testing.T) {
	for name, fault := range map[string]Fault{"up": {CutUp: 1000}, "down": {CutDown: 1000}} {
		t.Run(name, func(t *testing.T) {
			p := NewProxy(t, echo(t))
			p.Set(fault)
			conn := dial(t, p)
			write(t, conn, make([]byte, 5000), nil)
			got, err := io.ReadAll(conn)
			if !errors.Is(err, syscall.ECONNRESET) || len(got) > 1000 {
				t.Errorf("%d bytes came back, with %v; want at most 1000 and a reset", len(got), err)
			}
			up, down := p.Bytes()
			if name == "up" && up != 1000 || name == "down" && down != 1000 {
				t.Errorf("%d bytes up and %d down were passed on", up, down)
			}
		})
	}
}

func TestProxyStallsAndHeals(t *testing.T) {
	p := NewProxy(t, echo(t))
	p.Set(Fault{StallDown: 10})
	conn := dial(t, p)
	if _, err := conn.Write([]byte("0123456789abcdef")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	if _, err := io.ReadFull(conn, buf[:10]); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if n, err := conn.Read(buf); err == nil {
		t.Fatalf("%d bytes came through a stall", n)
	}
	p.Set(Fault{})
	conn.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.ReadFull(conn, buf[:6]); err != nil || string(buf[:6]) != "abcdef" {
		t.Errorf("after the stall %q came, with %v", buf[:6], err)
	}
}

func TestProxyThrottles(t *testing.T) {
	p := NewProxy(t, echo(t))
	p.Set(Fault{UpRate: 20_000})
	conn := dial(t, p)
	start := time.Now()
	write(t, conn, make([]byte, 10_000), nil)
	if _, err := io.ReadFull(conn, make([]byte, 10_000)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < 400*time.Millisecond {
		t.Errorf("10 kB at 20 kB/s took %v", took)
	}
}

func TestProxyRefusesAndResets(t *testing.T) {
	p := NewProxy(t, echo(t))
	conn := dial(t, p)
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	p.Set(Fault{Refuse: true})
	p.Reset()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("an open connection ends with %v, not with a reset", err)
	}
	refused, err := net.Dial("tcp", p.Addr())
	if err == nil { // the reset may come just after the connection
		defer refused.Close()
		refused.SetDeadline(time.Now().Add(time.Minute))
		if _, err = refused.Read(make([]byte, 1)); err == nil {
			t.Error("a refused connection serves")
		}
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a new connection ends with %v, not with a reset", err)
	}
}

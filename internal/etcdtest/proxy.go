package etcdtest

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// A Fault is what a [Proxy] does to the connections through it. The zero value is none. "Up" is from
// client to server, "down" from server to client; byte counts are per connection.
type Fault struct {
	Refuse    bool          // reset new connections at once
	Stall     bool          // pass nothing on, in either direction; connections stay open
	CutUp     int64         // if above 0, reset a connection once so many bytes went up
	CutDown   int64         // the same for bytes that went down
	StallUp   int64         // if above 0, pass nothing up after so many bytes
	StallDown int64         // the same for bytes that went down
	UpRate    int64         // bytes per second of each connection; 0 is no limit
	DownRate  int64         // the same down
	Delay     time.Duration // before each chunk of up to 32 KiB is passed on
}

// A Proxy passes TCP connections on from a loopback port of its own to a server, with faults that
// can change at any time and act on open connections too. It ends with the test.
type Proxy struct {
	target   string
	listener net.Listener
	wg       sync.WaitGroup
	closed   chan struct{}

	mu       sync.Mutex
	fault    Fault
	changed  chan struct{} // closed and replaced when fault changes
	open     map[*tunnel]struct{}
	accepted int
	up, down int64
}

// NewProxy starts a proxy for the server at a host and port.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{target: target, listener: l, closed: make(chan struct{}), changed: make(chan struct{}),
		open: map[*tunnel]struct{}{}}
	p.wg.Go(p.serve)
	t.Cleanup(p.close)
	return p
}

// Addr is where the proxy listens, as host and port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Set replaces the fault; Set(Fault{}) heals.
func (p *Proxy) Set(f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = f
	close(p.changed)
	p.changed = make(chan struct{})
}

// Reset resets all open connections.
func (p *Proxy) Reset() {
	p.mu.Lock()
	tunnels := make([]*tunnel, 0, len(p.open))
	for t := range p.open {
		tunnels = append(tunnels, t)
	}
	p.mu.Unlock()
	for _, t := range tunnels {
		t.reset()
	}
}

// Bytes says how many bytes were passed up and down so far.
func (p *Proxy) Bytes() (up, down int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.up, p.down
}

// Connections says how many connections were accepted so far, refused ones included.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

func (p *Proxy) close() {
	close(p.closed)
	p.listener.Close()
	p.Reset()
	p.wg.Wait()
}

func (p *Proxy) current() (Fault, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fault, p.changed
}

func (p *Proxy) serve() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		p.accepted++
		p.mu.Unlock()
		p.wg.Go(func() { p.connect(client) })
	}
}

func (p *Proxy) connect(client net.Conn) {
	fault, _ := p.current()
	if fault.Refuse {
		abort(client)
		return
	}
	server, err := net.DialTimeout("tcp", p.target, 10*time.Second)
	if err != nil {
		abort(client)
		return
	}
	t := &tunnel{client: client, server: server, done: make(chan struct{})}
	p.mu.Lock()
	p.open[t] = struct{}{}
	p.mu.Unlock()
	select {
	case <-p.closed: // close may have missed it
		t.reset()
	default:
	}
	var pair sync.WaitGroup
	pair.Go(func() { p.pass(t, server, client, true) })
	pair.Go(func() { p.pass(t, client, server, false) })
	pair.Wait()
	client.Close()
	server.Close()
	p.mu.Lock()
	delete(p.open, t)
	p.mu.Unlock()
}

// A tunnel is one connection through the proxy.
type tunnel struct {
	client, server net.Conn
	once           sync.Once
	done           chan struct{}
}

// reset ends both halves so that either side sees a reset and not an orderly end.
func (t *tunnel) reset() {
	t.once.Do(func() {
		close(t.done)
		abort(t.client)
		abort(t.server)
	})
}

func abort(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	conn.Close()
}

// pass copies one direction until it ends.
func (p *Proxy) pass(t *tunnel, dst, src net.Conn, up bool) {
	buf := make([]byte, 32<<10)
	var passed int64
	var pace pace
	for {
		n, err := src.Read(buf)
		for data := buf[:n]; len(data) > 0; {
			part := p.admit(t, &pace, passed, int64(len(data)), up)
			if part == 0 {
				t.reset()
				return
			}
			if _, err := dst.Write(data[:part]); err != nil {
				t.reset()
				return
			}
			data = data[part:]
			passed += part
			p.count(part, up)
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			if tcp, ok := dst.(*net.TCPConn); ok {
				tcp.CloseWrite()
			}
			return
		default:
			t.reset()
			return
		}
	}
}

func (p *Proxy) count(n int64, up bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if up {
		p.up += n
	} else {
		p.down += n
	}
}

// admit waits as the fault demands and says how many of n more bytes may follow those passed; 0 means
// that the connection is to be reset.
func (p *Proxy) admit(t *tunnel, pace *pace, passed, n int64, up bool) int64 {
	for {
		fault, changed := p.current()
		cut, stall, rate := fault.CutDown, fault.StallDown, fault.DownRate
		if up {
			cut, stall, rate = fault.CutUp, fault.StallUp, fault.UpRate
		}
		if cut > 0 {
			if passed >= cut {
				return 0
			}
			n = min(n, cut-passed)
		}
		if fault.Stall || stall > 0 && passed >= stall {
			select {
			case <-changed:
				continue
			case <-t.done:
				return 0
			}
		}
		if stall > 0 {
			n = min(n, stall-passed)
		}
		wait := fault.Delay
		if rate > 0 {
			n = min(n, max(1, rate/20))
			wait += pace.next(time.Duration(n) * time.Second / time.Duration(rate))
		}
		if wait > 0 {
			select {
			case <-time.After(wait):
			case <-t.done:
				return 0
			}
		}
		return n
	}
}

// pace holds one direction of a connection to a rate, in pauses that a timer can keep: what one was too long or too short is made up for.
type pace struct{ due time.Time }

const (
	shortestPause = 2 * time.Millisecond
	longestDebt   = 10 * time.Millisecond // that is made up for
)

// next is how long to wait before bytes that take so long.
func (p *pace) next(taking time.Duration) time.Duration {
	now := time.Now()
	if p.due.Before(now.Add(-longestDebt)) {
		p.due = now.Add(-longestDebt)
	}
	p.due = p.due.Add(taking)
	if wait := p.due.Sub(now); wait >= shortestPause {
		return wait
	}
	return 0
}

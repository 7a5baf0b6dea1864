package ssh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	gossh "golang.org/x/crypto/ssh"
)

// A Tunnel leads to what listens on machines that are reached through jump hosts only: connections go on from the machine itself, at the end of an SSH
// connection, which ends soon after the last of them. Nothing is brought there and nothing runs. It is safe for concurrent use.
type Tunnel struct {
	options Options

	mu     sync.Mutex
	logins map[string]*login // by URL of the machine
}

// NewTunnel makes no connection yet.
func NewTunnel(o Options) *Tunnel { return &Tunnel{options: o, logins: map[string]*login{}} }

// A login is what the connections to one machine share.
type login struct {
	turn chan struct{} // held while connecting

	mu    sync.Mutex
	chain *chain // nil: not connected
	users int    // of chain
}

const (
	// linger is how long a connection to a machine stays that nobody uses.
	linger = 15 * time.Second
	// ahead is how much earlier a connection from here is tried than one through jump hosts.
	ahead = 250 * time.Millisecond
)

// Dial connects to host:port. From here is tried first, and soon also from the machine at url, if that is reached through jump hosts: what connects first
// counts. That nothing listens there is ECONNREFUSED.
func (t *Tunnel) Dial(ctx context.Context, url, addr string) (net.Conn, error) {
	direct := func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "tcp", addr) }
	s, err := t.options.settings(url)
	if err != nil || len(s.jumps) == 0 {
		return direct(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	type outcome struct {
		conn net.Conn
		err  error
	}
	here, there := make(chan outcome, 1), make(chan outcome, 1)
	failed := make(chan struct{}) // from here
	go func() {
		conn, err := direct(ctx)
		if err != nil {
			close(failed)
		}
		here <- outcome{conn, err}
	}()
	go func() {
		select {
		case <-failed:
		case <-ctx.Done():
		case <-time.After(ahead):
		}
		conn, err := t.login(url).dial(ctx, s, addr)
		there <- outcome{conn, err}
	}()
	// The one that is not needed is told, and closed if it came to something all the same.
	drop := func(late <-chan outcome) {
		cancel()
		if o := <-late; o.conn != nil {
			_ = o.conn.Close() // nothing was sent
		}
	}
	select {
	case h := <-here:
		if h.err == nil {
			go drop(there)
			return h.conn, nil
		}
		defer cancel()
		o := <-there
		if o.err != nil && !errors.Is(o.err, syscall.ECONNREFUSED) {
			o.err = fmt.Errorf("%w; nor by SSH: host %s: %w", h.err, url, o.err)
		}
		return o.conn, o.err
	case o := <-there:
		if o.err == nil || errors.Is(o.err, syscall.ECONNREFUSED) {
			go drop(here)
			return o.conn, o.err
		}
		defer cancel()
		h := <-here
		if h.err != nil {
			h.err = fmt.Errorf("%w; nor by SSH: host %s: %w", h.err, url, o.err)
		}
		return h.conn, h.err
	}
}

func (t *Tunnel) login(url string) *login {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.logins[url] == nil {
		t.logins[url] = &login{turn: make(chan struct{}, 1)}
	}
	return t.logins[url]
}

// dial goes on from the machine. That nothing listens there is ECONNREFUSED. A connection that was lost is made anew.
func (l *login) dial(ctx context.Context, s settings, addr string) (net.Conn, error) {
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	for {
		c, fresh, err := l.enter(ctx, s)
		if err != nil {
			return nil, err
		}
		conn, err := c.client().DialContext(ctx, "tcp", addr)
		if err == nil {
			return &tunnelled{Conn: conn, leave: sync.OnceFunc(func() { l.leave(c) })}, nil
		}
		var refused *gossh.OpenChannelError
		switch {
		case errors.As(err, &refused) && refused.Reason == gossh.Prohibited:
			err = errors.New("its SSH server does not forward (AllowTcpForwarding, PermitOpen)")
		case errors.As(err, &refused):
			err = fmt.Errorf("%w: %s", syscall.ECONNREFUSED, refused.Message)
		case ctx.Err() != nil:
			err = context.Cause(ctx)
		default:
			l.lose(c)
			if !fresh {
				continue
			}
			return nil, err
		}
		l.leave(c)
		return nil, err
	}
}

// enter returns the connection to the machine that there is, or makes one, for one more user.
func (l *login) enter(ctx context.Context, s settings) (c *chain, fresh bool, err error) {
	l.mu.Lock()
	if l.chain != nil {
		defer l.mu.Unlock()
		l.users++
		return l.chain, false, nil
	}
	l.mu.Unlock()
	if c, err = connect(ctx, s); err != nil {
		return nil, true, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.chain, l.users = c, 1
	return c, true, nil
}

// lose gives up a connection that is dead.
func (l *login) lose(c *chain) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.close()
	if l.chain == c {
		l.chain = nil
	}
}

// leave ends the use of a connection by one user. It itself ends when nobody uses it for a while.
func (l *login) leave(c *chain) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.chain != c { // it was dead
		return
	}
	if l.users--; l.users > 0 {
		return
	}
	time.AfterFunc(linger, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.chain == c && l.users == 0 {
			c.close()
			l.chain = nil
		}
	})
}

// tunnelled is a connection that says when it is over.
type tunnelled struct {
	net.Conn
	leave func()
}

func (c *tunnelled) Close() error {
	err := c.Conn.Close()
	c.leave()
	return err
}

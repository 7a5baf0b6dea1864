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

// A Tunnel leads to what machines reach that are themselves reached through others: connections go on from such a machine, at the end of an SSH
// connection, which ends soon after the last of them. Nothing is brought there and nothing runs. It is safe for concurrent use.
type Tunnel struct {
	options Options

	mu     sync.Mutex
	logins map[string]*login // by URL of the machine
	late   sync.WaitGroup    // for attempts that were not needed in the end
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
	// ahead is how much earlier a connection from here is tried than one from another machine, and one from there than from the next.
	ahead, apart = 250 * time.Millisecond, time.Second
)

// Leads says whether the machine at url is reached through others. From all others there is nothing to be gained.
func (t *Tunnel) Leads(url string) bool {
	s, err := t.options.settings(url)
	return err == nil && s.behind()
}

// A way to connect, and the machine whose it is.
type way struct {
	url  string // empty: from here
	dial func(context.Context) (net.Conn, error)
}

// Dial connects to host:port. From here is tried first, and soon also from those of the machines that are reached through others, one after another: what
// connects first counts. That nothing listens there, by what those machines say, is ECONNREFUSED.
func (t *Tunnel) Dial(ctx context.Context, addr string, urls ...string) (net.Conn, error) {
	ways := []way{{"", func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "tcp", addr) }}}
	for _, url := range urls {
		if s, err := t.options.settings(url); err == nil && s.behind() {
			ways = append(ways, way{url, func(ctx context.Context) (net.Conn, error) { return t.login(url).dial(ctx, s, addr) }})
		}
	}
	if len(ways) == 1 {
		return ways[0].dial(ctx)
	}
	return t.race(ctx, ways)
}

// Close ends all connections. The tunnel is not used any more.
func (t *Tunnel) Close() {
	t.late.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range t.logins {
		l.end()
	}
}

// race tries each way once the one before has failed, or has had its time.
func (t *Tunnel) race(ctx context.Context, ways []way) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	type outcome struct {
		way  int
		conn net.Conn
		err  error
	}
	outcomes := make(chan outcome, len(ways))
	begun, ended := 0, 0
	begin := func() {
		i := begun
		begun++
		go func() {
			conn, err := ways[i].dial(ctx)
			outcomes <- outcome{i, conn, err}
		}()
	}
	// Those that are not needed are told, and closed if they came to something all the same.
	defer func() {
		cancel()
		t.late.Go(func() {
			for ; ended < begun; ended++ {
				if o := <-outcomes; o.conn != nil {
					_ = o.conn.Close() // nothing was sent
				}
			}
		})
	}()
	begin()
	next := time.NewTimer(ahead)
	defer next.Stop()
	errs := make([]error, len(ways))
	for {
		select {
		case <-next.C:
		case o := <-outcomes:
			ended++
			if o.err == nil {
				return o.conn, nil
			}
			errs[o.way] = o.err
			if err := lostRace(ways, errs); err != nil {
				return nil, err
			}
		}
		if begun < len(ways) {
			begin()
			next.Reset(apart)
		}
	}
}

// lostRace is the error of all ways, once nothing that may still come would change it.
func lostRace(ways []way, errs []error) error {
	var refused error
	for _, err := range errs[1:] {
		if err == nil {
			return nil
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			refused = err
		}
	}
	if refused != nil || errs[0] == nil {
		return refused
	}
	all := errs[0]
	for i, err := range errs[1:] {
		all = fmt.Errorf("%w; nor by SSH: host %s: %w", all, ways[i+1].url, err)
	}
	return all
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
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return nil, true, context.Cause(ctx)
	}
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

// end ends the connection, whoever uses it.
func (l *login) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.chain != nil {
		l.chain.close()
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

// Package cluster talks to the members of a running etcd cluster: it asks for their status, chooses
// the one that a backup is best taken from, opens the snapshot stream under a watchdog, compares
// hashes, and proves that the cluster serves.
//
// Every question goes to one named endpoint and has a deadline of its own, so that a member that
// hangs (a stopped process, a dead disk, a firewall that drops) never holds up the others. Calls
// are not retried behind the caller's back: a failure is told at once, with what was found when
// the endpoint was looked at more closely and what to try ([Error]).
package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// DefaultTimeout bounds one question to one endpoint when [Options] say nothing else.
const DefaultTimeout = 5 * time.Second

// Window sizes for the snapshot stream: at gRPC's 64 KiB the server waits for window updates more
// than it sends. They bound what one stream can hold in memory.
const (
	streamWindow = 4 << 20
	readBuffer   = 128 << 10
)

// Options say where a cluster is and how to be let in.
type Options struct {
	// Endpoints are client URLs (http, https) or host:port, which is http unless TLS is set.
	Endpoints []string
	// TLS is used for https endpoints; nil means the system's authorities and no client certificate.
	TLS *tls.Config
	// Username and Password are for clusters with authentication enabled; both or neither.
	Username, Password string
	// DialTimeout bounds connecting, authenticating and one short question, together; 0 is
	// [DefaultTimeout]. Snapshot streams have no such limit, HashKV only the caller's.
	DialTimeout time.Duration
	// Dial connects to the host:port of an endpoint; nil is TCP from this machine.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Log receives warnings about the cluster's configuration; nil discards them.
	Log *slog.Logger
}

// A Client holds at most one connection to each endpoint, opened when first needed. It is safe for
// concurrent use.
type Client struct {
	options   Options
	endpoints []*endpoint

	mu    sync.Mutex
	first int // the endpoint that answered last; questions that any member can answer start there
}

// An endpoint is one client URL with its connection and its token.
type endpoint struct {
	name   string // as configured, for messages
	host   string // host:port
	dial   func(ctx context.Context, addr string) (net.Conn, error)
	secure bool
	tls    *tls.Config // nil when not secure
	conn   *grpc.ClientConn
	token  *token
}

// Dial checks the options and prepares a connection to each endpoint; nothing is sent yet.
// The caller closes the client.
func Dial(o Options) (*Client, error) {
	if len(o.Endpoints) == 0 {
		return nil, errors.New("no etcd endpoint is given: name at least one client URL, such as https://10.0.0.1:2379")
	}
	if (o.Username == "") != (o.Password == "") {
		return nil, errors.New("etcd user name and password: one is given without the other")
	}
	if o.DialTimeout <= 0 {
		o.DialTimeout = DefaultTimeout
	}
	if o.Dial == nil {
		// A dialer of our own also keeps HTTP proxies of the environment out of the way.
		o.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c := &Client{options: o}
	var seen []string
	for _, name := range o.Endpoints {
		if slices.Contains(seen, name) {
			continue
		}
		seen = append(seen, name)
		e, err := newEndpoint(name, o)
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		c.endpoints = append(c.endpoints, e)
	}
	return c, nil
}

func newEndpoint(name string, o Options) (*endpoint, error) {
	e := &endpoint{name: name, dial: o.Dial, token: &token{}}
	full := name
	if !strings.Contains(full, "://") {
		if o.TLS != nil {
			full = "https://" + full
		} else {
			full = "http://" + full
		}
	}
	u, err := url.Parse(full)
	if err != nil {
		return nil, fmt.Errorf("etcd endpoint %q: %w", name, err)
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("etcd endpoint %q: the scheme is %q, not http or https", name, u.Scheme)
	case u.Hostname() == "" || (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.User != nil:
		return nil, fmt.Errorf("etcd endpoint %q is not a client URL: write it as %s://HOST:PORT", name, u.Scheme)
	}
	port := u.Port()
	if port == "" {
		port = "2379"
	}
	e.host, e.secure = net.JoinHostPort(u.Hostname(), port), u.Scheme == "https"
	creds := insecure.NewCredentials()
	if e.secure {
		e.tls = &tls.Config{MinVersion: tls.VersionTLS12}
		if o.TLS != nil {
			e.tls = o.TLS.Clone()
		}
		if e.tls.ServerName == "" {
			e.tls.ServerName = u.Hostname()
		}
		creds = credentials.NewTLS(e.tls)
	}
	e.conn, err = grpc.NewClient("passthrough:///"+e.host,
		grpc.WithTransportCredentials(creds),
		grpc.WithPerRPCCredentials(e.token),
		grpc.WithContextDialer(o.Dial),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: o.DialTimeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 15 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(streamWindow),
		grpc.WithReadBufferSize(readBuffer),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)),
		grpc.WithDisableServiceConfig(),
	)
	if err != nil {
		return nil, fmt.Errorf("etcd endpoint %q: %w", name, err)
	}
	return e, nil
}

// Close closes every connection. Streams that are open end with an error.
func (c *Client) Close() error {
	var errs []error
	for _, e := range c.endpoints {
		if err := e.conn.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close the connection to %s: %w", e.name, err))
		}
	}
	return errors.Join(errs...)
}

// Endpoints returns the endpoints as they were given, without duplicates.
func (c *Client) Endpoints() []string {
	var names []string
	for _, e := range c.endpoints {
		names = append(names, e.name)
	}
	return names
}

func (c *Client) endpoint(name string) (*endpoint, error) {
	for _, e := range c.endpoints {
		if e.name == name {
			return e, nil
		}
	}
	return nil, fmt.Errorf("%q is none of the endpoints %s", name, strings.Join(c.Endpoints(), ", "))
}

// call asks e one question: it authenticates if need be, bounds the question by limit (0: only by
// ctx), and explains a failure. A token that the server no longer knows is replaced once.
func (c *Client) call(ctx context.Context, e *endpoint, op string, limit time.Duration, f func(context.Context) error) error {
	asked := ctx
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	err := c.authenticate(ctx, e)
	if err == nil {
		if err = f(ctx); err != nil && staleToken(err) && c.options.Username != "" {
			e.token.set("")
			if err = c.authenticate(ctx, e); err == nil {
				err = f(ctx)
			}
		}
	}
	if err == nil {
		return nil
	}
	return c.explain(asked, e, op, limit, err)
}

// any asks the endpoints in turn, beginning with the one that answered last, until one answers.
// Only failures to get an answer lead on to the next endpoint; a refusal is final.
func (c *Client) any(ctx context.Context, op string, f func(context.Context, *endpoint) error) error {
	c.mu.Lock()
	first := c.first
	c.mu.Unlock()
	var errs []error
	for i := range c.endpoints {
		n := (first + i) % len(c.endpoints)
		e := c.endpoints[n]
		err := c.call(ctx, e, op, c.options.DialTimeout, func(ctx context.Context) error { return f(ctx, e) })
		if err == nil {
			c.mu.Lock()
			c.first = n
			c.mu.Unlock()
			return nil
		}
		if ctx.Err() != nil || !errors.Is(err, ErrUnreachable) && !errors.Is(err, ErrNoLeader) && !errors.Is(err, errLearner) {
			return err
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// authenticate gets a token for e, unless there is one or there are no credentials. etcd keeps a
// token for five minutes after its last use.
func (c *Client) authenticate(ctx context.Context, e *endpoint) error {
	if c.options.Username == "" || e.token.known() {
		return nil
	}
	answer, err := pb.NewAuthClient(e.conn).Authenticate(ctx, &pb.AuthenticateRequest{Name: c.options.Username, Password: c.options.Password})
	if authOff(err) {
		// The cluster lets everyone in. Backups must go on, but whoever configured a user believes
		// that the cluster is protected.
		c.options.Log.Warn("etcd has authentication disabled, although a user name is configured: anyone who reaches it can read and write it",
			"endpoint", e.name, "user", c.options.Username)
		e.token.off()
		return nil
	}
	if err != nil {
		return authenticateError{err}
	}
	e.token.set(answer.Token)
	return nil
}

// A token is what a member gave for user name and password.
type token struct {
	mu    sync.Mutex
	value string
	none  bool // authentication is disabled
}

func (t *token) set(v string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.value, t.none = v, false
}

func (t *token) off() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.value, t.none = "", true
}

func (t *token) known() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.value != "" || t.none
}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (t *token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.value == "" {
		return nil, nil
	}
	return map[string]string{"token": t.value}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials. etcd's own clients send tokens
// over plain connections too; that is the operator's choice.
func (t *token) RequireTransportSecurity() bool { return false }

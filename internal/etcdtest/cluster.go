package etcdtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// healthTimeout bounds the wait for a member to answer a linearizable read. Machines that run tests
// are busy ones.
const healthTimeout = 90 * time.Second

// Options say what cluster to start. The zero value is three members of [Latest] without TLS.
type Options struct {
	Version    string   // default Latest
	Members    int      // default 3
	Name       string   // members are named NAME1, NAME2, …; default etcd
	Dir        string   // holds each member's data directory, log and scripts; default t.TempDir()
	Token      string   // initial cluster token; default requorum-test
	TLS        bool     // serve clients over TLS and require a certificate of theirs
	PeerTLS    bool     // the same among members
	QuotaBytes int64    // backend quota; default etcd's own
	ExtraFlags []string // for every member, such as --snapshot-count=100
	NotStarted bool     // prepare everything, but start nothing
}

// A Cluster is a set of etcd servers on loopback, with one data directory each.
type Cluster struct {
	Members []*Member
	Certs   *Certs // nil without TLS and PeerTLS

	// RootPassword is what clients log in with as root; empty: they do not log in. EnableAuth sets
	// it, and a test that brings another auth store in, by a restore, sets it to what holds there.
	RootPassword string

	opt     Options
	spawner *spawner
	control *control // nil before the first Member.Commands
}

// StartCluster starts a cluster and waits until every member is healthy. When t ends, so do all
// members; if it has failed, the ends of their logs are printed. With -short the test is skipped:
// that is for what takes seconds.
func StartCluster(t testing.TB, opt Options) *Cluster {
	t.Helper()
	if testing.Short() {
		t.Skip("starts etcd servers")
	}
	if opt.Version == "" {
		opt.Version = Latest
	}
	if opt.Members == 0 {
		opt.Members = 3
	}
	if opt.Name == "" {
		opt.Name = "etcd"
	}
	if opt.Dir == "" {
		opt.Dir = t.TempDir()
	}
	if opt.Token == "" {
		opt.Token = "requorum-test"
	}
	c := &Cluster{opt: opt, spawner: newSpawner()}
	t.Cleanup(func() { c.cleanup(t) })
	if opt.TLS || opt.PeerTLS {
		c.Certs = NewCerts(t, filepath.Join(opt.Dir, "certs"))
	}
	const attempts = 3
	for attempt := 1; ; attempt++ {
		c.Members = nil
		for range opt.Members {
			c.prepareMember(t)
		}
		initial := c.InitialCluster()
		for _, m := range c.Members {
			m.Args = c.args(t, m, initial, "new")
		}
		if opt.NotStarted {
			return c
		}
		err := c.tryStart(t.Context())
		if err == nil {
			return c
		}
		if attempt == attempts || !c.portTaken() {
			t.Fatalf("start a cluster of etcd %s: %v", opt.Version, err)
		}
		// Someone outside of these tests took a port between the reservation and the start.
		for _, m := range c.Members {
			m.Kill(t)
			m.Wipe(t)
		}
	}
}

func (c *Cluster) tryStart(ctx context.Context) error {
	for _, m := range c.Members {
		if err := m.process.start(m.Args); err != nil {
			return fmt.Errorf("start %s: %w", m.Name, err)
		}
	}
	for _, m := range c.Members {
		if err := m.waitHealthy(ctx); err != nil {
			return err
		}
	}
	return nil
}

// portTaken says whether a member could not listen.
func (c *Cluster) portTaken() bool {
	for _, m := range c.Members {
		log, err := os.ReadFile(m.LogFile)
		if err == nil && strings.Contains(string(log), "address already in use") {
			return true
		}
	}
	return false
}

// prepareMember adds a member, with ports and folders but no arguments yet.
func (c *Cluster) prepareMember(t testing.TB) *Member {
	t.Helper()
	name := fmt.Sprintf("%s%d", c.opt.Name, len(c.Members)+1)
	dir := filepath.Join(c.opt.Dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	m := &Member{
		Name:      name,
		Version:   c.opt.Version,
		Dir:       dir,
		DataDir:   filepath.Join(dir, "data"),
		LogFile:   filepath.Join(dir, "etcd.log"),
		ClientURL: fmt.Sprintf("%s://127.0.0.1:%d", scheme(c.opt.TLS), FreePort(t)),
		PeerURL:   fmt.Sprintf("%s://127.0.0.1:%d", scheme(c.opt.PeerTLS), FreePort(t)),
		cluster:   c,
	}
	m.process = &process{spawner: c.spawner, log: m.LogFile}
	c.Members = append(c.Members, m)
	return m
}

func scheme(tls bool) string {
	if tls {
		return "https"
	}
	return "http"
}

// args returns a member's command line.
func (c *Cluster) args(t testing.TB, m *Member, initialCluster, state string) []string {
	t.Helper()
	args := []string{
		Binary(t, "etcd", m.Version),
		"--name=" + m.Name,
		"--data-dir=" + m.DataDir,
		"--listen-client-urls=" + m.ClientURL,
		"--advertise-client-urls=" + m.ClientURL,
		"--listen-peer-urls=" + m.PeerURL,
		"--initial-advertise-peer-urls=" + m.PeerURL,
		"--initial-cluster=" + initialCluster,
		"--initial-cluster-token=" + c.opt.Token,
		"--initial-cluster-state=" + state,
		"--logger=zap",
	}
	if c.opt.TLS {
		args = append(args, "--cert-file="+c.Certs.Server.Cert, "--key-file="+c.Certs.Server.Key,
			"--trusted-ca-file="+c.Certs.CA, "--client-cert-auth")
	}
	if c.opt.PeerTLS {
		args = append(args, "--peer-cert-file="+c.Certs.Server.Cert, "--peer-key-file="+c.Certs.Server.Key,
			"--peer-trusted-ca-file="+c.Certs.CA, "--peer-client-cert-auth")
	}
	if c.opt.QuotaBytes != 0 {
		args = append(args, fmt.Sprintf("--quota-backend-bytes=%d", c.opt.QuotaBytes))
	}
	return append(args, c.opt.ExtraFlags...)
}

func (c *Cluster) cleanup(t testing.TB) {
	if c.control != nil {
		c.control.close()
	}
	for _, m := range c.Members {
		if err := m.process.end(syscall.SIGKILL); err != nil {
			t.Errorf("end %s: %v", m.Name, err)
		}
	}
	c.spawner.close()
	if t.Failed() {
		for _, m := range c.Members {
			t.Logf("log of %s ends:\n%s", m.Name, m.LogTail(12))
		}
	}
}

// InitialCluster is the members' names and peer URLs, as the flag --initial-cluster has them.
func (c *Cluster) InitialCluster() string {
	var pairs []string
	for _, m := range c.Members {
		pairs = append(pairs, m.Name+"="+m.PeerURL)
	}
	return strings.Join(pairs, ",")
}

// Token is the initial cluster token of the first start.
func (c *Cluster) Token() string { return c.opt.Token }

// Endpoints are the client URLs of all members, running or not.
func (c *Cluster) Endpoints() []string {
	var urls []string
	for _, m := range c.Members {
		urls = append(urls, m.ClientURL)
	}
	return urls
}

// Start starts every member that does not run and waits until all are healthy.
func (c *Cluster) Start(t testing.TB) {
	t.Helper()
	if err := c.tryStart(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Stop ends every member with SIGTERM.
func (c *Cluster) Stop(t testing.TB) {
	t.Helper()
	for _, m := range c.Members {
		m.Stop(t)
	}
}

// Kill ends every member with SIGKILL.
func (c *Cluster) Kill(t testing.TB) {
	t.Helper()
	for _, m := range c.Members {
		m.Kill(t)
	}
}

// Wipe removes every member's data directory. None may run.
func (c *Cluster) Wipe(t testing.TB) {
	t.Helper()
	for _, m := range c.Members {
		m.Wipe(t)
	}
}

// WaitHealthy waits until every member answers a linearizable read.
func (c *Cluster) WaitHealthy(t testing.TB) {
	t.Helper()
	for _, m := range c.Members {
		m.WaitHealthy(t)
	}
}

// ClientConfig connects to all members, or to the given endpoints instead, with the client
// certificate and, with a RootPassword, as root.
func (c *Cluster) ClientConfig(endpoints ...string) clientv3.Config {
	if len(endpoints) == 0 {
		endpoints = c.Endpoints()
	}
	cfg := clientv3.Config{
		Endpoints:   endpoints,
		DialTimeout: 10 * time.Second,
		Logger:      zap.NewNop(),
	}
	if c.opt.TLS {
		cfg.TLS = c.Certs.ClientTLS(c.Certs.Client)
	}
	if c.RootPassword != "" {
		cfg.Username, cfg.Password = "root", c.RootPassword
	}
	return cfg
}

// Client returns a client as of [Cluster.ClientConfig], closed when t ends.
func (c *Cluster) Client(t testing.TB, endpoints ...string) *clientv3.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	// Logging in takes a quorum, and on a busy machine a while.
	client, err := answered(ctx, func() (*clientv3.Client, error) {
		client, err := clientv3.New(c.ClientConfig(endpoints...))
		if errors.Is(err, context.DeadlineExceeded) {
			err = rpctypes.ErrTimeout
		}
		return client, err
	})
	if err != nil {
		t.Fatalf("connect to %s: %v", c.opt.Name, err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// Leader returns the member that leads, waiting for an election if there is none.
func (c *Cluster) Leader(t testing.TB) *Member {
	t.Helper()
	var leader *Member
	err := poll(t.Context(), healthTimeout, func(ctx context.Context) error {
		for _, m := range c.Members {
			if !m.Running() {
				continue
			}
			if s, err := m.status(ctx); err == nil && s.Leader != 0 && s.Leader == s.Header.MemberId {
				leader = m
				return nil
			}
		}
		return errors.New("no running member says that it leads")
	})
	if err != nil {
		t.Fatalf("find the leader: %v", err)
	}
	return leader
}

// Followers returns the running voting members other than the leader.
func (c *Cluster) Followers(t testing.TB) []*Member {
	t.Helper()
	leader := c.Leader(t)
	var followers []*Member
	for _, m := range c.Members {
		if m == leader || !m.Running() {
			continue
		}
		if !m.Status(t).IsLearner {
			followers = append(followers, m)
		}
	}
	return followers
}

// AddMember adds a voting member to the running cluster, starts it and waits until it is healthy.
func (c *Cluster) AddMember(t testing.TB) *Member {
	t.Helper()
	m := c.add(t, func(ctx context.Context, client *clientv3.Client, url string) error {
		_, err := client.MemberAdd(ctx, []string{url})
		return err
	})
	m.WaitHealthy(t)
	return m
}

// AddLearner adds a learner to the running cluster, starts it and waits until it answers.
func (c *Cluster) AddLearner(t testing.TB) *Member {
	t.Helper()
	m := c.add(t, func(ctx context.Context, client *clientv3.Client, url string) error {
		_, err := client.MemberAddAsLearner(ctx, []string{url})
		return err
	})
	err := poll(t.Context(), healthTimeout, func(ctx context.Context) error {
		_, err := m.status(ctx)
		return err
	})
	if err != nil {
		t.Fatalf("wait for the learner %s: %v", m.Name, err)
	}
	return m
}

func (c *Cluster) add(t testing.TB, register func(ctx context.Context, client *clientv3.Client, url string) error) *Member {
	t.Helper()
	client := c.Client(t)
	m := c.prepareMember(t)
	m.Args = c.args(t, m, c.InitialCluster(), "existing")
	// Just after an election a leader refuses new members until it has seen all others. What was done without an answer is not done again.
	err := poll(t.Context(), healthTimeout, func(ctx context.Context) error {
		err := register(ctx, client, m.PeerURL)
		if err == nil {
			return nil
		}
		for _, other := range c.Members {
			if other != m && other.Running() && other.lists(ctx, m.PeerURL) {
				return nil
			}
		}
		return err
	})
	if err != nil {
		t.Fatalf("add the member %s: %v", m.Name, err)
	}
	m.Start(t)
	return m
}

// poll calls f until it succeeds, each time with a few seconds, and returns its last error when the
// timeout or ctx ends.
func poll(ctx context.Context, timeout time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := f(attempt)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %v: %w", timeout, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

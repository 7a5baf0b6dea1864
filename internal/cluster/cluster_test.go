package cluster_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/internal/etcdtest"
)

// dial connects with more patience than a person has, unless the test is about patience.
func dial(t *testing.T, o cluster.Options) *cluster.Client {
	t.Helper()
	if o.DialTimeout == 0 {
		o.DialTimeout = time.Minute
	}
	c, err := cluster.Dial(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// within fails the test when f takes longer than limit: a member that hangs must hold nobody up.
func within(t *testing.T, limit time.Duration, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if took := time.Since(start); took > limit {
		t.Errorf("it took %v, want at most %v", took, limit)
	}
}

// eventually does f until it says nothing more against what it found: an election or a machine that stood still for seconds may
// come in between at any time.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func status(t *testing.T, c *cluster.Client) []cluster.MemberStatus {
	t.Helper()
	all, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func read(t *testing.T, c *cluster.Client, endpoint string) []byte {
	t.Helper()
	s, err := c.Snapshot(t.Context(), endpoint, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	data, err := io.ReadAll(s)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(data)) != s.Size {
		t.Errorf("the stream announced %d bytes and gave %d", s.Size, len(data))
	}
	sum := sha256.Sum256(data[:len(data)-32])
	if !slices.Equal(sum[:], data[len(data)-32:]) {
		t.Error("the stream does not end with the sha256 of what came before")
	}
	return data
}

func TestEveryVersion(t *testing.T) {
	for _, version := range etcdtest.Versions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			servers := etcdtest.StartCluster(t, etcdtest.Options{Version: version, TLS: true})
			admin := servers.Client(t)
			etcdtest.MustFill(t, admin, etcdtest.FillOptions{Keys: 2500, ValueSize: 100})
			lease := etcdtest.Lease(t, admin, time.Hour, "/leased")
			c := dial(t, cluster.Options{Endpoints: servers.Endpoints(), TLS: servers.Certs.ClientTLS(servers.Certs.Client)})

			var usable []cluster.MemberStatus
			var rejected []cluster.Rejected
			eventually(t, func() error {
				var names []string
				leaders := 0
				all := status(t, c)
				for _, s := range all {
					if s.Err != nil {
						return s.Err
					}
					names = append(names, s.Name)
					if s.IsLeader() {
						leaders++
					}
					if s.ClusterID == 0 || s.MemberID == 0 || s.Revision == 0 || s.DBSize == 0 || !strings.HasPrefix(s.Version, version[:3]) {
						t.Errorf("status of %s: %+v", s.Endpoint, s)
					}
				}
				if !slices.Equal(names, []string{"etcd1", "etcd2", "etcd3"}) || leaders != 1 {
					return fmt.Errorf("names %q with %d leaders", names, leaders)
				}
				usable, rejected = cluster.Choose(all)
				if len(usable) != 3 || len(rejected) != 0 || usable[0].IsLeader() || !usable[2].IsLeader() {
					return fmt.Errorf("chosen %+v, rejected %+v", usable, rejected)
				}
				return nil
			})
			read(t, c, usable[0].Endpoint)

			revision := etcdtest.Revision(t, admin)
			servers.WaitHealthy(t) // after a linearizable read each has that revision
			var hashes []cluster.Hash
			for _, s := range usable {
				h, err := c.HashKV(t.Context(), s.Endpoint, revision)
				if err != nil {
					t.Fatal(err)
				}
				hashes = append(hashes, h)
				if got, why := hashes[0].Compare(h); got != cluster.Equal {
					t.Errorf("%s: %v: %s", s.Name, got, why)
				}
				if h.Revision != revision {
					t.Errorf("%s hashed revision %d, asked for %d", s.Name, h.Revision, revision)
				}
			}
			if _, err := c.HashKV(t.Context(), usable[0].Endpoint, revision+100); !errors.Is(err, cluster.ErrFutureRevision) {
				t.Errorf("a hash of the future: %v", err)
			}
			etcdtest.Compact(t, admin, revision)
			servers.WaitHealthy(t)
			if _, err := c.HashKV(t.Context(), usable[0].Endpoint, revision-5); !errors.Is(err, cluster.ErrCompacted) {
				t.Errorf("a hash of a compacted revision: %v", err)
			}

			eventually(t, func() error {
				for _, h := range c.Health(t.Context()) {
					if !h.OK {
						return fmt.Errorf("%s is unhealthy: %w", h.Endpoint, h.Err)
					}
				}
				return nil
			})
			eventually(t, func() error {
				at, err := c.Probe(t.Context())
				if err != nil || at <= revision {
					return errors.Join(fmt.Errorf("probe: revision %d after %d", at, revision), err)
				}
				return nil
			})
			put := etcdtest.Put(t, admin, "/changed", "1")
			deleted := etcdtest.Delete(t, admin, "/changed")
			etcdtest.Put(t, admin, "/later", "1")
			var changes []string
			err := c.Changes(t.Context(), usable[2].Endpoint, revision+1, deleted, func(e *mvccpb.Event) {
				if e.Type == mvccpb.PUT && e.Kv.ModRevision < put && string(e.Kv.Key) == "/changed" {
					return // a put of which no answer came
				}
				changes = append(changes, fmt.Sprintf("%s %s %d", e.Type, e.Kv.Key, e.Kv.ModRevision))
			})
			if err != nil || !slices.Equal(changes, []string{fmt.Sprintf("PUT /changed %d", put), fmt.Sprintf("DELETE /changed %d", deleted)}) {
				t.Errorf("changes since the probe began %q, %v", changes, err)
			}
			etcdtest.Delete(t, admin, "/later")
			if err := c.Changes(t.Context(), usable[2].Endpoint, revision-5, deleted, func(*mvccpb.Event) {}); !errors.Is(err, cluster.ErrCompacted) {
				t.Errorf("changes of compacted revisions: %v", err)
			}
			kvs, err := c.Get(t.Context(), "/fill/")
			if err != nil || len(kvs) != 2500 {
				t.Errorf("%d keys, want 2500: %v", len(kvs), err)
			}
			if rest, err := c.Get(t.Context(), ""); err != nil || len(rest) != 2501 {
				t.Errorf("%d keys in all, want 2501, without a probe key: %v", len(rest), err)
			}
			if ttl, granted, err := c.TimeToLive(t.Context(), int64(lease)); err != nil || ttl <= 1800 || granted != 3600 {
				t.Errorf("lease: %d of %d s, %v", ttl, granted, err)
			}
			if ttl, granted, err := c.TimeToLive(t.Context(), 1234); err != nil || ttl != -1 || granted != 0 {
				t.Errorf("no lease: %d of %d s, %v", ttl, granted, err)
			}
			members, err := c.Members(t.Context())
			if err != nil || len(members) != 3 || members[0].Name == "" || len(members[0].PeerURLs) != 1 {
				t.Errorf("members %+v, %v", members, err)
			}

			follower := servers.Followers(t)[0]
			servers.RaiseAlarm(t, follower, pb.AlarmType_NOSPACE)
			want := cluster.Alarm{MemberID: follower.ID(t), Type: cluster.AlarmNoSpace}
			eventually(t, func() error {
				alarms, err := c.Alarms(t.Context())
				if err != nil || !slices.Equal(alarms, []cluster.Alarm{want}) {
					return errors.Join(fmt.Errorf("alarms %v; want %v", alarms, want), err)
				}
				usable, rejected := cluster.Choose(status(t, c))
				if len(usable) != 2 || len(rejected) != 1 || rejected[0].Name != follower.Name || !strings.Contains(rejected[0].Why, "NOSPACE") {
					return fmt.Errorf("with a NOSPACE alarm of %s: chosen %+v, rejected %+v", follower.Name, usable, rejected)
				}
				return nil
			})
		})
	}
}

func TestMembersThatAreNotToBeChosen(t *testing.T) {
	servers := etcdtest.StartCluster(t, etcdtest.Options{})
	learner := servers.AddLearner(t)
	followers := servers.Followers(t)
	paused, leader := followers[0], servers.Leader(t)
	c := dial(t, cluster.Options{Endpoints: servers.Endpoints(), DialTimeout: 2 * time.Second})
	status(t, c) // opens every connection
	paused.Pause(t)
	t.Cleanup(func() { paused.Resume(t) })
	admin := servers.Client(t, leader.ClientURL)

	eventually(t, func() error {
		var all []cluster.MemberStatus
		within(t, 30*time.Second, func() { all = status(t, c) })
		usable, rejected := cluster.Choose(all)
		if len(usable) != 2 || usable[0].IsLeader() || !usable[1].IsLeader() {
			return fmt.Errorf("chosen %+v, rejected %+v", usable, rejected)
		}
		for _, s := range usable {
			if s.Name != followers[1].Name && s.Name != leader.Name {
				return fmt.Errorf("chosen %+v", usable)
			}
		}
		why := map[string]string{}
		for _, r := range rejected {
			why[r.Endpoint] = r.Why
		}
		if !strings.Contains(why[paused.ClientURL], "says nothing") {
			return fmt.Errorf("the stopped process was rejected because %q", why[paused.ClientURL])
		}
		if !strings.Contains(why[learner.ClientURL], "learner") {
			return fmt.Errorf("the learner was rejected because %q", why[learner.ClientURL])
		}
		return nil
	})
	within(t, 30*time.Second, func() {
		var stalled *cluster.Error
		s, err := c.Snapshot(t.Context(), paused.ClientURL, time.Second)
		if err == nil {
			s.Close()
		}
		if !errors.Is(err, cluster.ErrStalled) || !errors.As(err, &stalled) {
			t.Errorf("a snapshot from a stopped process: %v", err)
		}
	})

	// It has missed this much when it goes on, and catches up within Status. Cut off from its
	// peers it cannot.
	etcdtest.MustFill(t, admin, etcdtest.FillOptions{Keys: 300})
	paused.Resume(t)
	eventually(t, func() error {
		if usable, rejected := cluster.Choose(status(t, c)); len(usable) != 3 {
			return fmt.Errorf("the member that goes on is never usable: %+v", rejected)
		}
		return nil
	})
}

// A member without quorum still answers, with a state of its own.
func TestWithoutQuorum(t *testing.T) {
	servers := etcdtest.StartCluster(t, etcdtest.Options{})
	survivor := servers.Members[1]
	servers.Members[0].Kill(t)
	servers.Members[2].Kill(t)
	c := dial(t, cluster.Options{Endpoints: servers.Endpoints(), DialTimeout: 3 * time.Second})
	eventually(t, func() error {
		all := status(t, c)
		if all[1].Err != nil || all[1].Leader != 0 {
			return fmt.Errorf("the survivor never gives its leader up: %+v", all[1])
		}
		usable, rejected := cluster.Choose(all)
		if len(usable) != 0 {
			t.Fatalf("chosen without quorum: %+v", usable)
		}
		text := (&cluster.Unusable{Rejected: rejected}).Error()
		for _, m := range servers.Members {
			if !strings.Contains(text, m.ClientURL) {
				return fmt.Errorf("%s is missing in: %s", m.ClientURL, text)
			}
		}
		for _, part := range []string{"etcd2", "no leader", "connection refused", "try:"} {
			if !strings.Contains(text, part) {
				return fmt.Errorf("%q is missing in: %s", part, text)
			}
		}
		return nil
	})
	eventually(t, func() error {
		members, err := c.Members(t.Context())
		if err != nil || len(members) != 3 {
			return errors.Join(fmt.Errorf("members without quorum: %+v", members), err)
		}
		return nil
	})
	read(t, c, survivor.ClientURL)
	for _, h := range c.Health(t.Context()) {
		if h.OK {
			t.Errorf("%s is called healthy without quorum", h.Endpoint)
		}
	}
	if _, err := c.Probe(t.Context()); err == nil {
		t.Error("a probe without quorum succeeded")
	}
}

func TestAuth(t *testing.T) {
	for _, version := range []string{etcdtest.V34, etcdtest.Latest} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			servers := etcdtest.StartCluster(t, etcdtest.Options{Version: version, Members: 1, ExtraFlags: []string{"--auth-token-ttl=1"}})
			endpoint := servers.Endpoints()[0]

			var log strings.Builder
			early := dial(t, cluster.Options{Endpoints: servers.Endpoints(), Username: "backup", Password: "secret", Log: logger(&log)})
			if s := status(t, early)[0]; s.Err != nil {
				t.Errorf("a user name where authentication is disabled: %v", s.Err)
			}
			if !strings.Contains(log.String(), "authentication disabled") || strings.Contains(log.String(), "secret") {
				t.Errorf("log: %q", log.String())
			}

			servers.EnableAuth(t, "rootpw", etcdtest.User{Name: "backup", Password: "secret", Root: true}, etcdtest.User{Name: "reader", Password: "pw", Read: []string{""}})
			if s := status(t, early)[0]; s.Err != nil {
				t.Errorf("authentication enabled under an open client: %v", s.Err)
			}

			for _, tc := range []struct {
				name, user, password string
				status, snapshot     error
				text                 string
			}{
				{"root role", "backup", "secret", nil, nil, ""},
				{"no root role", "reader", "pw", nil, cluster.ErrNeedsRoot, "etcdctl user grant-role reader root"},
				{"wrong password", "backup", "wrong-secret", cluster.ErrAuth, cluster.ErrAuth, `user "backup" with this password`},
				{"unknown user", "nobody", "wrong-secret", cluster.ErrAuth, cluster.ErrAuth, `user "nobody" with this password`},
				{"no user", "", "", cluster.ErrAuth, cluster.ErrAuth, "no user name is configured"},
			} {
				t.Run(tc.name, func(t *testing.T) {
					c := dial(t, cluster.Options{Endpoints: servers.Endpoints(), Username: tc.user, Password: tc.password})
					s := status(t, c)[0]
					if !errors.Is(s.Err, tc.status) && !(version == etcdtest.V34 && s.Err == nil) {
						t.Errorf("status: %v, want %v", s.Err, tc.status)
					}
					for op, ask := range map[string]func() error{
						"snapshot": func() error {
							s, err := c.Snapshot(t.Context(), endpoint, 0)
							if err == nil {
								err = s.Close()
							}
							return err
						},
						"hash": func() error { _, err := c.HashKV(t.Context(), endpoint, 0); return err },
					} {
						err := ask()
						if !errors.Is(err, tc.snapshot) || (tc.snapshot != nil && !errors.Is(err, cluster.ErrAuth)) {
							t.Errorf("%s: %v, want %v", op, err, tc.snapshot)
						}
						if err != nil && (!strings.Contains(err.Error(), tc.text) || strings.Contains(err.Error(), "wrong-secret")) {
							t.Errorf("%s: %q does not say %q, or says the password", op, err, tc.text)
						}
					}
				})
			}

			// The server forgets tokens after a second here; a client that was idle goes on all the same.
			c := dial(t, cluster.Options{Endpoints: servers.Endpoints(), Username: "backup", Password: "secret"})
			read(t, c, endpoint)
			time.Sleep(3 * time.Second) // nothing tells when a token is forgotten
			read(t, c, endpoint)
			if _, err := c.Probe(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTLS(t *testing.T) {
	servers := etcdtest.StartCluster(t, etcdtest.Options{Members: 1, TLS: true})
	plain := etcdtest.StartCluster(t, etcdtest.Options{Members: 1, Name: "plain"})
	certs, secure := servers.Certs, servers.Endpoints()[0]
	expired := tlsServer(t, certs, certs.Expired)
	otherName := certs.ClientTLS(certs.Client)
	otherName.ServerName = "etcd.example"
	for _, tc := range []struct {
		name, endpoint string
		tls            *tls.Config
		want           string
	}{
		{"unknown authority", secure, &tls.Config{}, "an authority that is not trusted here"},
		{"no client certificate", secure, &tls.Config{RootCAs: certs.ClientTLS(certs.Client).RootCAs}, "wants a client certificate"},
		{"client certificate of another authority", secure, certs.ClientTLS(certs.Foreign), "does not accept the client certificate"},
		{"expired client certificate", secure, certs.ClientTLS(certs.Expired), "does not accept the client certificate"},
		{"certificate for another host", secure, otherName, "is not for etcd.example but for"},
		{"expired server certificate", expired, certs.ClientTLS(certs.Client), "the server's certificate is valid from"},
		{"https to a plain server", strings.Replace(plain.Endpoints()[0], "http:", "https:", 1), certs.ClientTLS(certs.Client), "write the endpoint as http://"},
		{"http to a TLS server", strings.Replace(secure, "https:", "http:", 1), nil, "write the endpoint as https://"},
		{"nothing there", fmt.Sprintf("https://127.0.0.1:%d", etcdtest.FreePort(t)), certs.ClientTLS(certs.Client), "nothing listens there"},
		{"no such host", "http://no-such-host.invalid:2379", nil, "cannot be resolved"},
		{"something else", httptestServer(t), nil, "from"},
		{"a server that says nothing", silentServer(t), nil, "says nothing"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := dial(t, cluster.Options{Endpoints: []string{tc.endpoint}, TLS: tc.tls, DialTimeout: 3 * time.Second})
			for range 2 { // the second time on a connection that has failed before
				eventually(t, func() error { // a look that took too long says only that
					var s cluster.MemberStatus
					within(t, 30*time.Second, func() { s = status(t, c)[0] })
					if !errors.Is(s.Err, cluster.ErrUnreachable) || !strings.Contains(s.Err.Error(), tc.endpoint) {
						t.Fatalf("%v: want ErrUnreachable", s.Err)
					}
					if !strings.Contains(s.Err.Error(), tc.want) {
						return fmt.Errorf("%w: want ErrUnreachable that says %q", s.Err, tc.want)
					}
					return nil
				})
			}
		})
	}
}

// Clock and certificate are seen on the client port, with TLS and without.
func TestPeek(t *testing.T) {
	secure := etcdtest.StartCluster(t, etcdtest.Options{Members: 1, TLS: true})
	plain := etcdtest.StartCluster(t, etcdtest.Options{Version: etcdtest.V34, Members: 1, Name: "plain"})
	for _, servers := range []*etcdtest.Cluster{secure, plain} {
		o := cluster.Options{Endpoints: append(servers.Endpoints(), fmt.Sprintf("http://127.0.0.1:%d", etcdtest.FreePort(t)))}
		if servers == secure {
			o.TLS = servers.Certs.ClientTLS(servers.Certs.Client)
		}
		c := dial(t, o)
		own, err := c.ClientCertificate()
		if err != nil || own.IsZero() == (servers == secure) {
			t.Errorf("our certificate expires at %v, %v", own, err)
		}
		looks := c.Peek(t.Context())
		if p := looks[0]; p.Err != nil || !p.SkewKnown || p.Skew != 0 || p.Certificate.IsZero() == (servers == secure) {
			t.Errorf("%+v: want a clock that agrees, and a certificate with TLS", p)
		}
		if p := looks[1]; p.Err == nil || p.SkewKnown {
			t.Errorf("%+v of a port where nothing listens", p)
		}
	}
}

func tlsServer(t *testing.T, certs *etcdtest.Certs, pair etcdtest.KeyPair) string {
	config := certs.ClientTLS(pair)
	config.NextProtos = []string{"h2"}
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
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
				_, _ = io.Copy(io.Discard, conn)
			}()
		}
	}()
	return "https://" + l.Addr().String()
}

func httptestServer(t *testing.T) string {
	s := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(s.Close)
	return s.URL
}

func silentServer(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return "http://" + l.Addr().String()
}

func TestSnapshotStream(t *testing.T) {
	servers := etcdtest.StartCluster(t, etcdtest.Options{Members: 1})
	admin := servers.Client(t)
	etcdtest.MustFill(t, admin, etcdtest.FillOptions{Keys: 16000, ValueSize: 2000, Random: true})
	const size = 32 << 20
	proxy := etcdtest.NewProxy(t, servers.Members[0].Addr())
	endpoint := "http://" + proxy.Addr()

	t.Run("stalls half-way", func(t *testing.T) {
		c := dial(t, cluster.Options{Endpoints: []string{endpoint}})
		var s *cluster.Stream
		eventually(t, func() (err error) { // it may take more than a second to begin
			s, err = c.Snapshot(t.Context(), endpoint, time.Second)
			return err
		})
		defer s.Close()
		if s.Size < size {
			t.Errorf("size %d is announced, %d are written", s.Size, size)
		}
		proxy.Set(etcdtest.Fault{Stall: true})
		defer proxy.Set(etcdtest.Fault{})
		within(t, 30*time.Second, func() {
			if _, err := io.Copy(io.Discard, s); !errors.Is(err, cluster.ErrStalled) {
				t.Errorf("a stalled stream ended with %v", err)
			}
		})
	})
	t.Run("is cut off", func(t *testing.T) {
		proxy.Set(etcdtest.Fault{CutDown: size / 2})
		defer proxy.Set(etcdtest.Fault{})
		c := dial(t, cluster.Options{Endpoints: []string{endpoint}})
		s, err := c.Snapshot(t.Context(), endpoint, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if n, err := io.Copy(io.Discard, s); err == nil || n >= s.Size || !errors.Is(err, cluster.ErrUnreachable) {
			t.Errorf("a stream cut off after %d of %d bytes ended with %v", n, s.Size, err)
		}
	})
	t.Run("is cancelled by the caller", func(t *testing.T) {
		c := dial(t, cluster.Options{Endpoints: []string{endpoint}})
		ctx, cancel := context.WithCancelCause(t.Context())
		s, err := c.Snapshot(ctx, endpoint, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		why := errors.New("enough")
		cancel(why)
		if _, err := io.Copy(io.Discard, s); !errors.Is(err, why) {
			t.Errorf("a cancelled stream ended with %v", err)
		}
	})
	t.Run("waits for a slow reader", func(t *testing.T) {
		c := dial(t, cluster.Options{Endpoints: []string{endpoint}})
		eventually(t, func() error { // the server, too, may be slower than the watchdog
			s, err := c.Snapshot(t.Context(), endpoint, 2*time.Second)
			if err != nil {
				return err
			}
			defer s.Close()
			time.Sleep(3 * time.Second) // the reader's own pause, longer than the watchdog's
			if n, err := io.Copy(io.Discard, s); err != nil || n != s.Size {
				return errors.Join(fmt.Errorf("%d of %d bytes", n, s.Size), err)
			}
			return nil
		})
	})
	t.Run("reads the same in pieces", func(t *testing.T) {
		c := dial(t, cluster.Options{Endpoints: []string{endpoint}})
		if got := int64(len(read(t, c, endpoint))); got < size {
			t.Errorf("%d bytes", got)
		}
	})
}

// A follower that is cut off from its peers goes on answering with what it last knew.
func TestLaggingMember(t *testing.T) {
	servers := etcdtest.StartCluster(t, etcdtest.Options{})
	c := dial(t, cluster.Options{Endpoints: servers.Endpoints(), DialTimeout: 2 * time.Second})
	follower, leader := servers.Followers(t)[0], servers.Leader(t)
	follower.Pause(t)
	admin := servers.Client(t, leader.ClientURL)
	// More than the buffers of its connections hold: alone when it wakes up, it cannot catch up.
	value := strings.Repeat("x", 250<<10)
	for i := range 3 * cluster.MaxLag {
		etcdtest.Put(t, admin, fmt.Sprintf("/late/%d", i), value)
	}
	var others []*etcdtest.Member
	for _, m := range servers.Members {
		if m != follower {
			others = append(others, m)
		}
	}
	i := slices.Index(servers.Members, follower)
	var all []cluster.MemberStatus
	eventually(t, func() error {
		all = status(t, c)
		if usable, rejected := cluster.Choose(all); len(usable) != 2 {
			return fmt.Errorf("chosen while one is stopped %+v, rejected %+v", usable, rejected)
		}
		return nil
	})
	for _, m := range others {
		m.Kill(t)
	}
	follower.Resume(t)
	var after cluster.MemberStatus
	eventually(t, func() error {
		after = status(t, c)[i]
		return after.Err
	})
	// What a status looks like in which the others still answer.
	var committed uint64
	for _, s := range all {
		committed = max(committed, s.RaftIndex)
	}
	after.Leader, after.Lag = 1, committed-after.RaftAppliedIndex
	all[i] = after
	usable, rejected := cluster.Choose(all)
	if len(usable) != 2 || len(rejected) != 1 || !strings.Contains(rejected[0].Why, "lags") {
		t.Errorf("chosen %+v, rejected %+v", usable, rejected)
	}
}

func logger(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

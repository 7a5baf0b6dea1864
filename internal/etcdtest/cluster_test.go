package etcdtest

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestVersions(t *testing.T) {
	for _, version := range Versions() {
		t.Run(version, func(t *testing.T) {
			c := StartCluster(t, Options{Version: version})
			for _, m := range c.Members {
				if got := m.Status(t).Version; got != version {
					t.Errorf("%s runs version %s", m.Name, got)
				}
			}
			client := c.Client(t)
			fill := FillOptions{Keys: 1234, ValueSize: 500}
			MustFill(t, client, fill)
			lease := Lease(t, client, time.Hour, "/leased/a", "/leased/b")
			Delete(t, client, fill.Key(7))

			rows := Rows(t, client)
			if len(rows) != 1234-1+2 {
				t.Fatalf("%d keys are served, not 1235", len(rows))
			}
			if rows[0].Key != fill.Key(0) || rows[0].Value != fill.Value(0) {
				t.Errorf("the first row is %v", rows[0])
			}
			if last := rows[len(rows)-1]; last.Key != "/leased/b" || last.Lease != int64(lease) {
				t.Errorf("the last row is %v, want /leased/b under lease %x", last, lease)
			}
			if ttls := Leases(t, client); len(ttls) != 1 || ttls[lease] != 3600 {
				t.Errorf("the leases are %v, want %d with 3600 s", ttls, lease)
			}

			// A cluster that is killed and started again is the same one.
			c.Kill(t)
			c.Start(t)
			MustEqual(t, rows, Rows(t, c.Client(t, c.Members[2].ClientURL)))
		})
	}
}

func TestFaults(t *testing.T) {
	c := StartCluster(t, Options{})
	client := c.Client(t)
	leader := c.Leader(t)
	for followers := c.Followers(t); len(followers) != 2 || slices.Contains(followers, leader); followers = c.Followers(t) {
		next := c.Leader(t)
		if next == leader || t.Context().Err() != nil {
			t.Fatalf("of three members %d follow", len(followers))
		}
		leader = next // elected in between
	}

	pid := leader.PID()
	leader.Pause(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := leader.status(ctx); err == nil {
		t.Error("a paused member answers")
	}
	leader.Kill(t) // works on a paused one
	if leader.Running() || leader.PID() != 0 {
		t.Error("a killed member still runs")
	}
	if next := c.Leader(t); next == leader { // two of three are a quorum
		t.Errorf("%s leads after its death", next.Name)
	}
	Put(t, client, "a", "1")
	if err := leader.process.signal(0); err == nil {
		t.Errorf("process %d can still be signalled", pid)
	}
	leader.Start(t)
	leader.WaitHealthy(t)

	learner := c.AddLearner(t)
	if !learner.Status(t).IsLearner {
		t.Error("the added learner is none")
	}
	if n := len(c.Followers(t)); n != 2 {
		t.Errorf("beside a learner %d members follow, not 2", n)
	}

	c.RaiseAlarm(t, leader, pb.AlarmType_NOSPACE)
	err := Retried(t.Context(), func() error { _, err := client.Put(t.Context(), "a", "2"); return err })
	if !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Errorf("a put beside a NOSPACE alarm gives %v", err)
	}
}

func TestTLSAndAuth(t *testing.T) {
	c := StartCluster(t, Options{Members: 1, TLS: true, PeerTLS: true})
	c.EnableAuth(t, "secret", User{Name: "reader", Password: "pw", Read: []string{"/a/"}})
	c.WaitHealthy(t)
	Put(t, c.Client(t), "/a/b", "1")
	Put(t, c.Client(t), "/c", "1")

	cfg := c.ClientConfig()
	cfg.Username, cfg.Password = "reader", "pw"
	cfg.DialTimeout = time.Minute // for the login
	reader, err := clientv3.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	get := func(key string) func() (*clientv3.GetResponse, error) {
		return func() (*clientv3.GetResponse, error) { return reader.Get(t.Context(), key) }
	}
	if resp, err := answered(t.Context(), get("/a/b")); err != nil || len(resp.Kvs) != 1 {
		t.Errorf("the reader's read of its own key gives %v, %v", resp, err)
	}
	if _, err := answered(t.Context(), get("/c")); !errors.Is(err, rpctypes.ErrPermissionDenied) {
		t.Errorf("the reader's read of another key gives %v", err)
	}
	err = Retried(t.Context(), func() error { _, err := reader.Put(t.Context(), "/a/b", "2"); return err })
	if !errors.Is(err, rpctypes.ErrPermissionDenied) {
		t.Errorf("the reader's write gives %v", err)
	}

	for name, pair := range map[string]KeyPair{"expired": c.Certs.Expired, "foreign": c.Certs.Foreign} {
		cfg := c.ClientConfig()
		cfg.TLS = c.Certs.ClientTLS(pair)
		cfg.Username, cfg.Password = "", ""
		client, err := clientv3.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if _, err := client.Status(ctx, c.Members[0].ClientURL); err == nil {
			t.Errorf("the server takes the %s certificate", name)
		}
	}
}

func TestCommands(t *testing.T) {
	c := StartCluster(t, Options{Members: 1, NotStarted: true})
	m := c.Members[0]
	cmd := m.Commands(t)
	run := func(script string) (int, string) {
		t.Helper()
		command := exec.Command(script)
		out, err := command.CombinedOutput()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return command.ProcessState.ExitCode(), strings.TrimSpace(string(out))
	}
	steps := []struct {
		script  string
		code    int
		output  string
		running bool
	}{
		{cmd.Status, 3, "inactive", false},
		{cmd.Stop, 0, "", false},
		{cmd.Inhibit, 0, "", false},
		{cmd.Start, 1, "etcd1 is inhibited", false},
		{cmd.Allow, 0, "", false},
		{cmd.Start, 0, "", true},
		{cmd.Start, 0, "", true},
		{cmd.Status, 0, "active", true},
		{cmd.Stop, 0, "", false},
		{cmd.Status, 3, "inactive", false},
	}
	for i, s := range steps {
		code, output := run(s.script)
		if code != s.code || output != s.output || m.Running() != s.running {
			t.Fatalf("step %d, %s: exit %d, %q, running %v; want %d, %q, %v",
				i, filepath.Base(s.script), code, output, m.Running(), s.code, s.output, s.running)
		}
		if s.running {
			m.WaitHealthy(t) // etcd that ends within its very first start never elects itself again
		}
	}
	run(cmd.Inhibit)
	if m.Boot(t) {
		t.Error("an inhibited member came up with its host")
	}
	run(cmd.Allow)
	if !m.Boot(t) {
		t.Error("a member did not come up with its host")
	}
	m.WaitHealthy(t)
	m.Stop(t)
	m.Wipe(t)
	if _, err := os.Stat(m.DataDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the wiped data directory gives %v", err)
	}
}

// Cleanup must leave no process, also one that is paused.
func TestCleanup(t *testing.T) {
	if testing.Short() {
		t.Skip("starts etcd servers")
	}
	var m *Member
	t.Run("cluster", func(t *testing.T) {
		m = StartCluster(t, Options{Members: 1}).Members[0]
		m.Pause(t)
	})
	if m.Running() {
		t.Error("the server outlives its test")
	}
}

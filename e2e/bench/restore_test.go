package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/requorum/requorum/internal/etcdtest"
)

// BenchmarkRestore compares a restore to three members on this machine with the manual way. Both end with the data synced to disk and three
// members that answer a linearizable read, seen from outside by the same eyes; what requorum proves after that is told apart.
//
// The manual way has its compressed snapshot on the local disk already, and decrypts nothing. requorum fetches from S3, decrypts, checks
// the file and makes sure what the members must serve.
func BenchmarkRestore(b *testing.B) {
	s := readSettings(b)
	for _, d := range []database{{s.of(0.3e9), 2000}, {s.of(1.5e9), 2000}} {
		b.Run(d.String(), func(b *testing.B) {
			to := newBucket(b)
			dir := workDir(b)
			compressed := filepath.Join(dir, "snapshot.zst")
			holds := d.store(b, to, compressed)
			servers := etcdtest.StartCluster(b, etcdtest.Options{Members: 3, Dir: filepath.Join(dir, "cluster"), QuotaBytes: quota, NotStarted: true})
			config := to.configure(b, servers, dir)
			lost := func() { // everything that a member had
				servers.Kill(b)
				for _, m := range servers.Members {
					leftovers, err := filepath.Glob(m.DataDir + "*")
					if err != nil {
						b.Fatal(err)
					}
					for _, path := range leftovers {
						if err := os.RemoveAll(path); err != nil {
							b.Fatal(err)
						}
					}
				}
				settle(b)
			}
			c := comparison{what: "restore of " + d.String() + " to three members: " + holds.String(), oursIs: "requorum restore", baseIs: "zstd, 3 × etcdutl, sync", unit: "s", target: 0.7, stretch: 0.5}
			var oursCPU, whole, etcdProven series
			stages := map[string]series{}
			var order []string
			var manual stageTimes
			c.compare(s.pairs, func() float64 {
				lost()
				seconds, e := restore(b, servers, to, config)
				oursCPU = append(oursCPU, e.cpu)
				whole = append(whole, e.seconds)
				r := e.restored(b)
				etcdProven = append(etcdProven, r.HealthySeconds)
				for _, stage := range r.Stages {
					if stages[stage.Name] == nil {
						order = append(order, stage.Name)
					}
					stages[stage.Name] = append(stages[stage.Name], stage.Seconds)
				}
				return seconds
			}, func() float64 {
				lost()
				return manual.restore(b, servers, compressed, filepath.Join(dir, "snapshot"))
			})
			for _, stage := range order {
				c.remark("  %-24s %s", stage, stages[stage].text("s"))
			}
			c.remark("%-26s %s (healthy_seconds of its report)", "until etcd was proven", etcdProven.text("s"))
			c.remark("%-26s %s", "the whole command", whole.text("s"))
			c.remark("%-26s %s", "its processor time", oursCPU.text("s"))
			for i, stage := range manual.names {
				c.remark("  by hand: %-15s %s", stage, manual.seconds[i].text("s"))
			}
			c.report(b)
		})
	}
}

// store backs the database up into the bucket, and beside it to a compressed file as a careful person would.
func (d database) store(b *testing.B, to bucket, compressed string) contents {
	b.Helper()
	servers, holds := d.start(b)
	defer servers.Kill(b)
	to.backup(b, servers.Endpoints()[0]).run(b)
	path := strings.TrimSuffix(compressed, ".zst")
	save(b, servers.Endpoints()[0], path).run(b)
	run(b, "zstd", "-q", "-1", "--rm", path, "-o", compressed)
	return holds
}

// configure writes the configuration of a restore.
func (to bucket) configure(b *testing.B, servers *etcdtest.Cluster, dir string) string {
	b.Helper()
	key := filepath.Join(dir, "identity")
	if err := os.WriteFile(key, []byte(to.identity.String()+"\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	var text strings.Builder
	fmt.Fprintf(&text, "clusters:\n  dcs:\n    endpoints: [%s]\n    stores: [main]\n    recipients: [%s]\n    identity_file: %s\n    target_version: %s\n    members:\n",
		strings.Join(servers.Endpoints(), ", "), to.identity.Recipient(), key, etcdtest.Latest)
	for _, m := range servers.Members {
		scripts := m.Commands(b)
		fmt.Fprintf(&text, "      - {name: %s, peer_url: %q, client_url: %q, data_dir: %s, service: {start: %s, stop: %s, status: %s, inhibit: %s, allow: %s}}\n",
			m.Name, m.PeerURL, m.ClientURL, m.DataDir, scripts.Start, scripts.Stop, scripts.Status, scripts.Inhibit, scripts.Allow)
	}
	fmt.Fprintf(&text, "stores:\n  main: {s3: {bucket: %s, endpoint: %q, path_style: true, region: %s}}\nspool_dir: %s\n", to.name, to.server.Endpoint, to.server.Region, to.spool)
	path := filepath.Join(dir, "requorum.yaml")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	return path
}

// restore runs requorum and returns how long it took until the members were healthy.
func restore(b *testing.B, servers *etcdtest.Cluster, to bucket, config string) (seconds float64, e execution) {
	b.Helper()
	t := newTask(b, requorum(b), "-c", config, "-q", "-o", "json", "restore", "dcs", "--yes")
	t.Env = append(os.Environ(), to.server.Environ()...)
	begun := time.Now()
	healthy := make(chan error, 1)
	go func() { healthy <- untilHealthy(b.Context(), servers) }()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := <-healthy; err != nil {
			b.Error(err)
		}
		seconds = time.Since(begun).Seconds()
	}()
	e = t.run(b)
	<-ended
	return seconds, e
}

// restored is what a restore says of itself.
type restored struct {
	OK             bool
	HealthySeconds float64 `json:"healthy_seconds"`
	Stages         []struct {
		Name    string
		Seconds float64
	}
}

func (e execution) restored(b *testing.B) (r restored) {
	b.Helper()
	if err := json.Unmarshal(e.stdout, &r); err != nil {
		b.Fatalf("read what requorum restore printed: %v\n%s", err, e.stdout)
	}
	if !r.OK {
		b.Fatalf("the restore is not proven:\n%s", e.stdout)
	}
	return r
}

// stageTimes are how long the stages of the manual way took.
type stageTimes struct {
	names   []string
	seconds []series
}

// restore does what the manual of etcd says.
func (t *stageTimes) restore(b *testing.B, servers *etcdtest.Cluster, compressed, snapshot string) float64 {
	b.Helper()
	begun := time.Now()
	last := begun
	n := 0
	stage := func(name string) {
		if n == len(t.names) {
			t.names, t.seconds = append(t.names, name), append(t.seconds, nil)
		}
		t.seconds[n] = append(t.seconds[n], time.Since(last).Seconds())
		last = time.Now()
		n++
	}
	run(b, "zstd", "-q", "-d", "-f", compressed, "-o", snapshot)
	stage("zstd -d")
	token := fmt.Sprintf("by-hand-%d", begun.UnixNano())
	for _, m := range servers.Members {
		run(b, etcdutl(b), "snapshot", "restore", snapshot, "--name="+m.Name, "--data-dir="+m.DataDir,
			"--initial-cluster="+servers.InitialCluster(), "--initial-cluster-token="+token, "--initial-advertise-peer-urls="+m.PeerURL)
		stage("etcdutl " + m.Name)
	}
	settle(b)
	stage("sync")
	for _, m := range servers.Members {
		m.Start(b)
	}
	if err := untilHealthy(b.Context(), servers); err != nil {
		b.Fatal(err)
	}
	stage("start")
	return time.Since(begun).Seconds()
}

// untilHealthy waits until every member answers a linearizable read.
func untilHealthy(ctx context.Context, servers *etcdtest.Cluster) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	for _, m := range servers.Members {
		for !answers(ctx, m) {
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s is not healthy: %w", m.Name, ctx.Err())
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	return nil
}

func answers(ctx context.Context, m *etcdtest.Member) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", m.Addr()) // a client would wait a second after a refusal
	if err != nil {
		return false
	}
	conn.Close()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{m.ClientURL}, DialTimeout: time.Second, Logger: zap.NewNop()})
	if err != nil {
		return false
	}
	defer client.Close()
	_, err = client.Get(ctx, "health")
	return err == nil
}

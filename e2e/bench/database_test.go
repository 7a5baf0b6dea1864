package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/requorum/requorum/internal/etcdtest"
)

// A database is one that benchmarks run on. Its values are JSON-like and differ in length by up to a half: if all
// had exactly 2,000 bytes, two would never fit into one page of 4 kB, and half of the file would be zeros that cost nothing. Every other
// key was written twice, so that there is history.
type database struct {
	bytes int64 // of the database file
	value int   // mean length of a value
}

func (d database) String() string {
	return fmt.Sprintf("%dMB-of-%dB", d.bytes/1e6, d.value)
}

// contents say what a filled database came to.
type contents struct {
	Keys  int64
	Bytes int64 // of the database file
}

func (c contents) String() string {
	return fmt.Sprintf("%d keys, %.0f MB", c.Keys, float64(c.Bytes)/1e6)
}

const memberName = "etcd1"

// filled returns a data directory of a one-member cluster with the database, which must be copied before use. It is made once and kept in
// the cache of test programs.
func (d database) filled(b *testing.B) (dir string, c contents) {
	b.Helper()
	cache, err := etcdtest.CacheDir()
	if err != nil {
		b.Fatal(err)
	}
	home := filepath.Join(cache, "bench", "v2-"+d.String())
	dir = filepath.Join(home, "data")
	facts := filepath.Join(home, "contents.json")
	if text, err := os.ReadFile(facts); err == nil {
		if err := json.Unmarshal(text, &c); err != nil {
			b.Fatal(err)
		}
		return dir, c
	}
	if err := os.RemoveAll(home); err != nil {
		b.Fatal(err)
	}
	if err := os.MkdirAll(home, 0o700); err != nil {
		b.Fatal(err)
	}
	say("filling a database of %v: once", d)
	servers := etcdtest.StartCluster(b, etcdtest.Options{
		Members: 1, Dir: workDir(b), QuotaBytes: quota,
		ExtraFlags: []string{"--unsafe-no-fsync", "--max-txn-ops=2000"},
	})
	c = d.fill(b, servers.Client(b))
	// The WAL of the filling would be read at every start: a restored data dir has none of it.
	snapshot := filepath.Join(home, "snapshot")
	run(b, etcdctl(b), "--endpoints", servers.Endpoints()[0], "--command-timeout=10m", "snapshot", "save", snapshot)
	run(b, etcdutl(b), "snapshot", "restore", snapshot, "--name="+memberName, "--data-dir="+dir,
		"--initial-cluster="+memberName+"=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380")
	servers.Kill(b)
	if err := os.Remove(snapshot); err != nil {
		b.Fatal(err)
	}
	text, err := json.Marshal(c)
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(facts, text, 0o600); err != nil {
		b.Fatal(err)
	}
	return dir, c
}

// quota is the servers' backend quota.
const quota = 8 << 30

// fill puts keys, by several writers in large transactions, until the database file is as large as wanted.
func (d database) fill(b *testing.B, client *clientv3.Client) (c contents) {
	b.Helper()
	const writers = 6
	batch := max(1, min(1000, (768<<10)/(d.value*3/2)))
	chunk := max(int64(batch), d.bytes/50/int64(d.value+100))
	deadline := time.Now().Add(20 * time.Minute)
	for {
		status, err := client.Status(b.Context(), client.Endpoints()[0])
		if err != nil {
			b.Fatal(err)
		}
		c.Bytes = status.DbSize
		if c.Bytes >= d.bytes {
			return c
		}
		if time.Now().After(deadline) {
			b.Fatalf("the database has %v after 20 minutes", c)
		}
		group, ctx := errgroup.WithContext(b.Context())
		group.SetLimit(writers)
		for first := c.Keys; first < c.Keys+chunk; first += int64(batch) {
			group.Go(func() error { return d.put(ctx, client, first, min(batch, int(c.Keys+chunk-first))) })
		}
		if err := group.Wait(); err != nil {
			b.Fatal(err)
		}
		c.Keys += chunk
	}
}

// put writes n keys from the number first and every other of them again.
func (d database) put(ctx context.Context, client *clientv3.Client, first int64, n int) error {
	puts := make([]clientv3.Op, n)
	for i := range puts {
		puts[i] = d.item(first+int64(i), 1)
	}
	if _, err := client.Txn(ctx).Then(puts...).Commit(); err != nil {
		return err
	}
	for i := range n / 2 {
		puts[i] = d.item(first+2*int64(i), 2)
	}
	if n < 2 {
		return nil
	}
	_, err := client.Txn(ctx).Then(puts[:n/2]...).Commit()
	return err
}

// item writes one key for the nth time.
func (d database) item(number int64, time uint64) clientv3.Op {
	length := rand.New(rand.NewPCG(time, uint64(number)))
	item := etcdtest.FillOptions{Prefix: "/registry/items/", First: int(number), ValueSize: d.value/2 + length.IntN(d.value+1), Seed: time}
	return clientv3.OpPut(item.Key(0), item.Value(0))
}

// start runs a cluster of one member on a copy of the database, until b ends. wrap goes in front of the server's command line.
func (d database) start(b *testing.B, wrap ...string) (*etcdtest.Cluster, contents) {
	b.Helper()
	filled, c := d.filled(b)
	servers := etcdtest.StartCluster(b, etcdtest.Options{Members: 1, Dir: workDir(b), QuotaBytes: quota, NotStarted: true})
	m := servers.Members[0]
	if err := os.CopyFS(m.DataDir, os.DirFS(filled)); err != nil {
		b.Fatal(err)
	}
	m.Args = append(wrap, m.Args...)
	servers.Start(b)
	return servers, c
}

func etcdctl(b *testing.B) string { return etcdtest.Binary(b, "etcdctl", etcdtest.Latest) }
func etcdutl(b *testing.B) string { return etcdtest.Binary(b, "etcdutl", etcdtest.Latest) }

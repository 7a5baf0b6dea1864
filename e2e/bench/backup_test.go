package bench

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/storage/storagetest"
)

// memoryTarget bounds what all processes of a backup take together.
const memoryTarget = 200 << 20

// A bucket is an S3 server with a bucket, and the key that backups in it are encrypted to.
type bucket struct {
	server   storagetest.S3Server
	name     string
	identity *age.X25519Identity
	spool    string
}

func newBucket(b *testing.B) bucket {
	b.Helper()
	server := storagetest.StartS3(b, storagetest.S3Options{})
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		b.Fatal(err)
	}
	return bucket{server, server.Bucket(b), identity, filepath.Join(workDir(b), "spool")}
}

// backup is a command that takes a backup of the member at the endpoint into the bucket.
func (to bucket) backup(b *testing.B, endpoint string) *task {
	b.Helper()
	t := newTask(b, requorum(b), "backup", "dcs", "-q", "-o", "json", "--endpoints", endpoint,
		"--store", to.server.URL(to.name), "--recipient", to.identity.Recipient().String(), "--spool-dir", to.spool)
	t.Env = append(os.Environ(), to.server.Environ()...)
	return t
}

// taken is what a backup says of itself.
type taken struct {
	ID      string
	Keys    int64
	Seconds map[string]float64
	Data    struct {
		Bytes       int64
		StoredBytes int64 `json:"stored_bytes"`
	}
}

func (e execution) taken(b *testing.B) (t taken) {
	b.Helper()
	if err := json.Unmarshal(e.stdout, &t); err != nil {
		b.Fatalf("read what requorum backup printed: %v\n%s", err, e.stdout)
	}
	return t
}

// save is the bare command: the database to disk, and nothing else.
func save(b *testing.B, endpoint, path string) *task {
	b.Helper()
	return newTask(b, etcdctl(b), "--endpoints", endpoint, "--command-timeout=10m", "snapshot", "save", path)
}

// BenchmarkBackup compares a whole backup - checked, hashed, compressed, encrypted, stored - with etcdctl snapshot save to disk,
// and watches the memory of all its processes.
func BenchmarkBackup(b *testing.B) {
	s := readSettings(b)
	type point struct {
		contents
		peak int64
	}
	var points []point
	for _, d := range []database{{s.of(0.3e9), 2000}, {s.of(1.5e9), 2000}, {s.of(1.5e9), 256}} {
		b.Run(d.String(), func(b *testing.B) {
			servers, holds := d.start(b)
			peak := compareBackups(b, s, d, holds, servers.Endpoints()[0], "")
			points = append(points, point{holds, peak})
		})
	}
	if len(points) == 3 {
		few, many := points[1], points[2]
		millions := float64(many.Keys-few.Keys) / 1e6
		say("\nmemory grows by %.1f MiB per million keys, half of them written twice (%v to %v keys in databases of the same size)",
			float64(many.peak-few.peak)/(1<<20)/millions, few.Keys, many.Keys)
	}
}

// BenchmarkBackupOverLink is the same with a member on another machine, at the end of a link of 1 Gbit/s: a proxy that lets so much through.
func BenchmarkBackupOverLink(b *testing.B) {
	s := readSettings(b)
	for _, d := range []database{{s.of(0.3e9), 2000}, {s.of(1.5e9), 2000}, {s.of(1.5e9), 256}} {
		b.Run(d.String(), func(b *testing.B) {
			servers, holds := d.start(b)
			link := etcdtest.NewProxy(b, strings.TrimPrefix(servers.Endpoints()[0], "http://"))
			link.Set(etcdtest.Fault{UpRate: 1e9 / 8, DownRate: 1e9 / 8})
			compareBackups(b, s, d, holds, "http://"+link.Addr(), " over 1 Gbit/s")
			if _, down := link.Bytes(); down < 2*int64(s.pairs)*holds.Bytes {
				b.Fatalf("only %d bytes came over the link", down)
			}
		})
	}
}

// compareBackups backs the member at the endpoint up by both sides, and returns the peak memory of ours in bytes.
func compareBackups(b *testing.B, s settings, d database, holds contents, endpoint, over string) (peak int64) {
	b.Helper()
	to := newBucket(b)
	path := filepath.Join(workDir(b), "snapshot")
	c := comparison{what: "backup of " + d.String() + over + ": " + holds.String(), oursIs: "requorum backup", baseIs: "etcdctl snapshot save", unit: "s", target: 1.3, stretch: 1.05}
	var stored, raw int64
	var oursCPU, baseCPU series
	stages := map[string]series{}
	c.compare(s.pairs, func() float64 {
		settle(b)
		t := to.backup(b, endpoint)
		t.watch = true
		e := t.run(b)
		done := e.taken(b)
		if done.Keys != holds.Keys {
			b.Fatalf("the backup holds %d keys, and the database %d", done.Keys, holds.Keys)
		}
		stored, raw = done.Data.StoredBytes, done.Data.Bytes
		for stage, seconds := range done.Seconds {
			stages[stage] = append(stages[stage], seconds)
		}
		peak = max(peak, e.peak)
		oursCPU = append(oursCPU, e.cpu)
		return e.seconds
	}, func() float64 {
		settle(b)
		e := save(b, endpoint, path).run(b)
		baseCPU = append(baseCPU, e.cpu)
		if err := os.Remove(path); err != nil {
			b.Fatal(err)
		}
		return e.seconds
	})
	c.remark("%-26s %.0f MiB (RssAnon + RssShmem of all processes); target 200 MiB: %s", "peak memory", float64(peak)/(1<<20), met(peak <= memoryTarget))
	c.remark("%-26s %.0f MB as %.0f MB, compressed and encrypted", "stored", float64(raw)/1e6, float64(stored)/1e6)
	c.remark("%-26s requorum %s, etcdctl %s", "processor time", oursCPU.text("s"), baseCPU.text("s"))
	for _, stage := range slices.Sorted(maps.Keys(stages)) {
		c.remark("  %-24s %s", stage, stages[stage].text("s"))
	}
	c.report(b)
	b.ReportMetric(float64(peak)/(1<<20), "MiB-peak")
	b.ReportMetric(float64(holds.Keys), "keys")
	return peak
}

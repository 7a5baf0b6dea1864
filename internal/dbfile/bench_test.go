package dbfile

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/storage/schema"
)

// synthetic writes a snapshot of about size bytes with values of valueSize bytes, and returns how many keys it has. The part
// updated of the keys is written twice.
func synthetic(t testing.TB, path string, size int64, valueSize int, updated float64) (keys int) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true, NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	noise := make([]byte, 1<<20)
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	rows := int(size / int64(float64(valueSize+150)*1.12))
	keys = int(float64(rows) / (1 + updated))
	for from := 0; from < rows; from += 20_000 {
		err := db.Update(func(tx *bolt.Tx) error {
			for _, b := range schema.AllBuckets {
				if _, err := tx.CreateBucketIfNotExists(b.Name()); err != nil {
					return err
				}
			}
			b := tx.Bucket(schema.Key.Name())
			b.FillPercent = 0.9
			for i := from; i < min(rows, from+20_000); i++ {
				rev := int64(i + 2)
				kv := &mvccpb.KeyValue{
					Key:            fmt.Appendf(nil, "/registry/pods/namespace-%d/name-%08d", i%keys%100, i%keys),
					Value:          noise[rnd.IntN(len(noise)-valueSize):][:valueSize],
					CreateRevision: rev, ModRevision: rev, Version: 1,
				}
				if i >= keys {
					kv.CreateRevision, kv.Version = int64(i-keys+2), 2
				}
				v, err := proto.Marshal(kv)
				if err != nil {
					return err
				}
				if err := b.Put(rowKey{main: rev}.bytes(), v); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m := make([]byte, 64<<10)
	if _, err := f.ReadAt(m, 0); err != nil {
		t.Fatal(err)
	}
	at, err := readMeta(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(int64(at.pages) * int64(at.pageSize)); err != nil { // as the Snapshot RPC does
		t.Fatal(err)
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(h.Sum(nil)); err != nil {
		t.Fatal(err)
	}
	return keys
}

// BenchmarkCheckInChild measures a check of files in the page cache, and the most anonymous memory its child had.
//
//	go test -run - -bench CheckInChild -benchtime 3x ./internal/dbfile
func BenchmarkCheckInChild(b *testing.B) {
	for _, c := range []struct {
		name    string
		size    int64
		value   int
		updated float64
	}{
		{"300MB of 2kB", 300e6, 2048, 0},
		{"1.5GB of 2kB", 1500e6, 2048, 0},
		{"1.5GB of 256B", 1500e6, 256, 0},
		{"1.5GB of 256B, 30% updated", 1500e6, 256, 0.3},
		{"1.5GB of 256B, all updated", 1500e6, 256, 1},
	} {
		b.Run(c.name, func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "db")
			keys := synthetic(b, path, c.size, c.value, c.updated)
			f := open(b, path)
			stop := make(chan struct{})
			peak := make(chan int64)
			go func() { peak <- peakAnon(stop) }()
			b.ResetTimer()
			for b.Loop() {
				r, err := CheckInChild(b.Context(), f, CheckOptions{TrailerRequired: true})
				if err != nil {
					b.Fatal(err)
				}
				if r.Keys != int64(keys) {
					b.Fatalf("%d keys, want %d", r.Keys, keys)
				}
				b.SetBytes(r.Size)
			}
			b.StopTimer()
			close(stop)
			b.ReportMetric(float64(<-peak)/1024, "MiB-anon")
			b.ReportMetric(float64(keys), "keys")
		})
	}
}

// peakAnon watches the children of this process until stop is closed and returns the largest RssAnon of one, in KiB.
func peakAnon(stop chan struct{}) (peak int64) {
	me := "PPid:\t" + strconv.Itoa(os.Getpid()) + "\n"
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return peak
		case <-tick.C:
		}
		all, _ := filepath.Glob("/proc/[0-9]*/status")
		for _, path := range all {
			b, err := os.ReadFile(path)
			if err != nil || !strings.Contains(string(b), me) {
				continue
			}
			if _, rest, ok := strings.Cut(string(b), "RssAnon:"); ok {
				var kb int64
				if _, err := fmt.Sscan(rest, &kb); err == nil {
					peak = max(peak, kb)
				}
			}
		}
	}
}

// TestKeysetMemory holds the set of seen keys to what its comment says.
func TestKeysetMemory(t *testing.T) {
	const n = 1_000_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s := newKeyset()
	key := make([]byte, 8)
	for i := range uint64(n) {
		binary.BigEndian.PutUint64(key, i)
		if s.has(key, true) {
			t.Fatalf("key %d is said to be in the set already", i)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	for i := range uint64(2 * n) {
		binary.BigEndian.PutUint64(key, i)
		if s.has(key, false) != (i < n) {
			t.Fatalf("key %d: in the set is %v", i, i >= n)
		}
	}
	mib := float64(after.HeapAlloc-before.HeapAlloc) / (1 << 20)
	t.Logf("%.1f MiB for a million keys", mib)
	if mib > 14 {
		t.Errorf("a million keys take %.1f MiB, want at most 14", mib)
	}
}

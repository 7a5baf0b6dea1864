package dbfile

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/pkg/v3/traceutil"
	leases "go.etcd.io/etcd/server/v3/lease"
	"go.etcd.io/etcd/server/v3/lease/leasepb"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"

	"github.com/requorum/requorum/internal/member"
)

// TestMain lets this test binary serve as a child: that of CheckInChild, those of child_test.go, and etcd.
func TestMain(m *testing.M) {
	RunChild()
	member.RunChild()
	runTestChild()
	os.Exit(m.Run())
}

// store is etcd's own key-value store on a file, without a server around it.
type store struct {
	mvcc.KV
	backend backend.Backend
	hashes  func() mvcc.HashStorage // without a cache
	keys    []string                // that random workloads use
	leases  map[int64]int64
}

func newStore(t testing.TB, path string, cfg mvcc.StoreConfig) *store {
	t.Helper()
	be := backend.New(backend.BackendConfig{Path: path, Logger: zap.NewNop(), BatchInterval: time.Hour, BatchLimit: 1000, UnsafeNoFsync: true})
	tx := be.BatchTx()
	tx.LockOutsideApply()
	for _, b := range schema.AllBuckets {
		tx.UnsafeCreateBucket(b)
	}
	tx.Unlock()
	kv := mvcc.NewStore(zap.NewNop(), be, &leases.FakeLessor{}, cfg)
	s := &store{KV: kv, backend: be, leases: make(map[int64]int64)}
	s.hashes = func() mvcc.HashStorage { return mvcc.NewHashStorage(zap.NewNop(), kv) }
	t.Cleanup(s.close)
	return s
}

func (s *store) close() {
	if s.KV != nil {
		s.KV.Close()
		s.backend.Close()
		s.KV = nil
	}
}

func (s *store) grant(id, ttl int64) {
	tx := s.backend.BatchTx()
	tx.LockOutsideApply()
	schema.MustUnsafePutLease(tx, &leasepb.Lease{ID: id, TTL: ttl})
	tx.Unlock()
	s.leases[id] = ttl
}

// snapshot writes what the Snapshot RPC would stream to path, with its trailer.
func (s *store) snapshot(t testing.TB, path string) {
	t.Helper()
	s.backend.ForceCommit()
	snap := s.backend.Snapshot()
	defer snap.Close()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := snap.WriteTo(io.MultiWriter(f, h)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(h.Sum(nil)); err != nil {
		t.Fatal(err)
	}
}

// served is what the store answers for HashKV, its live keys and revision.
func (s *store) served(t testing.TB, revision int64) (mvcc.KeyValueHash, []*mvccpb.KeyValue, int64) {
	t.Helper()
	h, current, err := s.hashes().HashByRev(revision)
	if err != nil {
		t.Fatalf("hash at %d: %v", revision, err)
	}
	r, err := s.Range(context.Background(), []byte{0}, []byte{}, mvcc.RangeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return h, r.KVs, current
}

// step does one random thing.
func (s *store) step(rnd *rand.Rand) {
	key := func() []byte { return []byte(s.keys[rnd.IntN(len(s.keys))]) }
	value := func() []byte {
		b := make([]byte, rnd.IntN(300))
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		return b
	}
	var lease int64
	if rnd.IntN(6) == 0 {
		lease = int64(rnd.IntN(5) + 1)
		if _, ok := s.leases[lease]; !ok {
			s.grant(lease, int64(rnd.IntN(100)+10))
		}
	}
	switch n := rnd.IntN(100); {
	case n < 55:
		s.Put(key(), value(), leases.LeaseID(lease))
	case n < 75:
		s.DeleteRange(key(), nil)
	case n < 80:
		a, b := key(), key()
		s.DeleteRange(a, b)
	case n < 97: // a transaction; a key may be put and then deleted in it
		tx := s.Write(traceutil.TODO())
		put := map[string]bool{}
		for range rnd.IntN(6) {
			if k := key(); !put[string(k)] {
				put[string(k)] = true
				tx.Put(k, value(), leases.LeaseID(lease))
			}
		}
		if rnd.IntN(3) == 0 {
			tx.DeleteRange(key(), nil)
		}
		tx.End()
	case n < 98:
		s.DeleteRange([]byte{0}, []byte{}) // everything
	default:
		if rev := s.Rev(); rev > s.FirstRev()+1 {
			if done, err := s.Compact(traceutil.TODO(), max(1, s.FirstRev())+rnd.Int64N(rev-max(1, s.FirstRev())+1)); err == nil && rnd.IntN(2) == 0 {
				<-done
			}
		}
	}
}

func randomKeys(rnd *rand.Rand, n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("/%c/%0*d", 'a'+rune(rnd.IntN(3)), 1+rnd.IntN(12), rnd.IntN(1000))
	}
	return keys
}

func tempFile(t testing.TB, name string) string { return filepath.Join(t.TempDir(), name) }

func open(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// checkHere checks a file in this process.
func checkHere(t testing.TB, path string, o CheckOptions) (Report, error) {
	t.Helper()
	c := checker{opts: request{Select: o.Select, TrailerRequired: o.TrailerRequired}}
	c.enter(StageOpen)
	r, _, err := c.checkFile(open(t, path))
	return r, err
}

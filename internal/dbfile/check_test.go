package dbfile

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
)

// TestCheckAgreesWithStore compares what a check says about snapshots of etcd's own store, under random workloads, with
// what the store says itself: HashKV, revision, compact revision, live keys, and every indexed key.
func TestCheckAgreesWithStore(t *testing.T) {
	configs := map[string]mvcc.StoreConfig{
		"compacting": {},
		"unfinished": {CompactionBatchLimit: 15, CompactionSleepInterval: 4 * time.Millisecond},
	}
	for name, cfg := range configs {
		for seed := range uint64(12) {
			t.Run(fmt.Sprintf("%s-%d", name, seed), func(t *testing.T) {
				t.Parallel()
				rnd := rand.New(rand.NewPCG(seed, 1))
				s := newStore(t, tempFile(t, "db"), cfg)
				s.keys = randomKeys(rnd, []int{3, 40, 400}[seed%3])
				sel := Select{Prefixes: []string{"/a/"}, Suffixes: []string{"7"}, Infixes: []string{"99"}}
				var unfinished, quirks int
				must := name == "unfinished" && seed%3 == 2
				for round := 0; round < 25 || must && unfinished == 0 && round < 1000; round++ {
					for range rnd.IntN(80) {
						s.step(rnd)
					}
					path := tempFile(t, "snapshot")
					s.snapshot(t, path)
					want, kvs, revision := s.served(t, 0)
					got, err := checkHere(t, path, CheckOptions{Select: sel, TrailerRequired: true})
					if err != nil {
						t.Fatalf("round %d: %v", round, err)
					}
					if got.Revision != revision || got.CompactRevision != want.CompactRevision || got.Keys != int64(len(kvs)) || got.Leases != len(s.leases) {
						t.Fatalf("round %d: the check finds revision %d, compacted %d, %d keys, %d leases; the store has %d, %d, %d, %d",
							round, got.Revision, got.CompactRevision, got.Keys, got.Leases, revision, want.CompactRevision, len(kvs), len(s.leases))
					}
					markers := readMarkers(t, path)
					if markers.scheduled > markers.finished {
						unfinished++
					}
					if len(kvs) == 0 {
						quirks++
					}
					// With no live key, HashKV covers what a compaction has not removed yet: that differs from moment to moment.
					if (len(kvs) > 0 || markers.scheduled == markers.finished) && got.HashKV != (HashKV{want.Hash, want.CompactRevision, want.Revision}) {
						t.Fatalf("round %d: HashKV %+v, the store serves %+v (markers %+v, %d keys)", round, got.HashKV, want, markers, len(kvs))
					}
					wanted := slices.DeleteFunc(kvs, func(kv *mvccpb.KeyValue) bool { return kv.Lease == 0 && !sel.Matches(string(kv.Key)) })
					found := slices.Collect(got.Index.Keys(""))
					if !slices.EqualFunc(wanted, found, func(a, b *mvccpb.KeyValue) bool { return proto.Equal(a, b) }) {
						t.Fatalf("round %d: the index holds %v, want %v", round, found, wanted)
					}
				}
				if must && unfinished == 0 {
					t.Error("no snapshot caught a compaction under way: the test does not test what it should")
				}
			})
		}
	}
}

func readMarkers(t testing.TB, path string) metaBucket {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := openPages(data[:len(data)-32], new(atomic.Int64))
	if err != nil {
		t.Fatal(err)
	}
	all, err := p.buckets()
	if err != nil {
		t.Fatal(err)
	}
	m, err := p.readMetaBucket(all)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

package etcdtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
)

// FillOptions say what [Fill] writes. The same options always write the same.
type FillOptions struct {
	Prefix    string // of the keys; default /fill/
	Keys      int
	First     int    // number of the first key
	ValueSize int    // in bytes; default 256
	Random    bool   // values of random bytes, instead of JSON-like ones, which compress to about a third
	Seed      uint64 // another seed gives other values
}

func (opt FillOptions) withDefaults() FillOptions {
	if opt.Prefix == "" {
		opt.Prefix = "/fill/"
	}
	if opt.ValueSize == 0 {
		opt.ValueSize = 256
	}
	return opt
}

// Key is the i-th key that [Fill] writes.
func (opt FillOptions) Key(i int) string {
	return fmt.Sprintf("%s%08d", opt.withDefaults().Prefix, opt.First+i)
}

// Value is the i-th value that [Fill] writes.
func (opt FillOptions) Value(i int) string {
	opt = opt.withDefaults()
	rng := rand.New(rand.NewPCG(opt.Seed, uint64(opt.First+i)))
	if opt.Random {
		value := make([]byte, opt.ValueSize)
		for i := range value {
			value[i] = byte(rng.Uint32())
		}
		return string(value)
	}
	return jsonLike(rng, opt.First+i, opt.ValueSize)
}

// jsonLike returns a value of exactly size bytes that looks like an object of an orchestrator,
// some of it words and some of it random, and ends in the middle if size says so.
func jsonLike(rng *rand.Rand, n, size int) string {
	words := [...]string{"running", "pending", "primary", "replica", "default", "eu-central-1", "true", "false",
		"container", "volume", "endpoint", "listener", "scheduled", "observed", "generation", "lastTransitionTime"}
	var b strings.Builder
	b.Grow(size + 128)
	fmt.Fprintf(&b, `{"kind":"Item","number":%d,"uid":"%016x-%08x","conditions":[`, n, rng.Uint64(), rng.Uint32())
	for b.Len() < size {
		fmt.Fprintf(&b, `{"type":"%s","status":"%s","node":"10.%d.%d.%d","hash":"%016x"},`,
			words[rng.IntN(len(words))], words[rng.IntN(len(words))], rng.IntN(256), rng.IntN(256), rng.IntN(256), rng.Uint64())
	}
	return b.String()[:size]
}

// Fill writes keys and values in transactions of up to 100 keys, several at a time, so their
// revisions differ from run to run.
func Fill(ctx context.Context, client *clientv3.Client, opt FillOptions) error {
	opt = opt.withDefaults()
	batch := max(1, min(100, (512<<10)/opt.ValueSize))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for from := 0; from < opt.Keys && ctx.Err() == nil; from += batch {
		to := min(from+batch, opt.Keys)
		group.Go(func() error {
			var puts []clientv3.Op
			for i := from; i < to; i++ {
				puts = append(puts, clientv3.OpPut(opt.Key(i), opt.Value(i)))
			}
			err := Retried(ctx, func() error {
				_, err := client.Txn(ctx).Then(puts...).Commit()
				return err
			})
			if err != nil {
				return fmt.Errorf("put %s to %s: %w", opt.Key(from), opt.Key(to-1), err)
			}
			return nil
		})
	}
	return group.Wait()
}

// MustFill is [Fill], bounded by five minutes.
func MustFill(t testing.TB, client *clientv3.Client, opt FillOptions) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if err := Fill(ctx, client, opt); err != nil {
		t.Fatal(err)
	}
}

// Put puts one key and returns the revision.
func Put(t testing.TB, client *clientv3.Client, key, value string, opts ...clientv3.OpOption) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	resp, err := answered(ctx, func() (*clientv3.PutResponse, error) { return client.Put(ctx, key, value, opts...) })
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
	return resp.Header.Revision
}

// Delete deletes one key and returns the revision.
func Delete(t testing.TB, client *clientv3.Client, key string, opts ...clientv3.OpOption) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	resp, err := answered(ctx, func() (*clientv3.DeleteResponse, error) { return client.Delete(ctx, key, opts...) })
	if err != nil {
		t.Fatalf("delete %s: %v", key, err)
	}
	return resp.Header.Revision
}

// Lease grants a lease and puts the keys, each with its own name as the value, under it. Nobody
// keeps it alive.
func Lease(t testing.TB, client *clientv3.Client, ttl time.Duration, keys ...string) clientv3.LeaseID {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	lease, err := answered(ctx, func() (*clientv3.LeaseGrantResponse, error) { return client.Grant(ctx, int64(ttl/time.Second)) })
	if err != nil {
		t.Fatalf("grant a lease of %v: %v", ttl, err)
	}
	for _, key := range keys {
		Put(t, client, key, key, clientv3.WithLease(lease.ID))
	}
	return lease.ID
}

// Revision is the cluster's current revision, by a linearizable read.
func Revision(t testing.TB, client *clientv3.Client) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	resp, err := answered(ctx, func() (*clientv3.GetResponse, error) { return client.Get(ctx, "\x00") })
	if err != nil {
		t.Fatalf("read the current revision: %v", err)
	}
	return resp.Header.Revision
}

// Compact compacts the cluster's history up to rev, physically.
func Compact(t testing.TB, client *clientv3.Client, rev int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := Retried(ctx, func() error {
		_, err := client.Compact(ctx, rev, clientv3.WithCompactPhysical())
		return err
	})
	if err != nil && !errors.Is(err, rpctypes.ErrCompacted) { // an attempt that was not answered may have done it
		t.Fatalf("compact to %d: %v", rev, err)
	}
}

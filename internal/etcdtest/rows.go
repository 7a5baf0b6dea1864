package etcdtest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// A Row is a key as a cluster serves it.
type Row struct {
	Key, Value     string
	CreateRevision int64
	ModRevision    int64
	Version        int64
	Lease          int64
}

func (r Row) String() string {
	value := fmt.Sprintf("%q", r.Value)
	if len(r.Value) > 40 {
		value = fmt.Sprintf("%q… (%d bytes)", r.Value[:40], len(r.Value))
	}
	return fmt.Sprintf("%q = %s created %d modified %d version %d lease %x",
		r.Key, value, r.CreateRevision, r.ModRevision, r.Version, r.Lease)
}

// Rows reads every key at the current revision, in key order.
func Rows(t testing.TB, client *clientv3.Client) []Row {
	t.Helper()
	return RowsAt(t, client, 0)
}

// RowsAt reads every key as of a revision, 0 being the current one, in key order.
func RowsAt(t testing.TB, client *clientv3.Client, rev int64) []Row {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var rows []Row
	for from := "\x00"; ; {
		resp, err := answered(ctx, func() (*clientv3.GetResponse, error) {
			return client.Get(ctx, from, clientv3.WithFromKey(), clientv3.WithLimit(500), clientv3.WithRev(rev))
		})
		if err != nil {
			t.Fatalf("read the keys from %q at revision %d: %v", from, rev, err)
		}
		if rev == 0 {
			rev = resp.Header.Revision // the rest as of the same moment
		}
		for _, kv := range resp.Kvs {
			rows = append(rows, Row{Key: string(kv.Key), Value: string(kv.Value), CreateRevision: kv.CreateRevision,
				ModRevision: kv.ModRevision, Version: kv.Version, Lease: kv.Lease})
		}
		if !resp.More {
			return rows
		}
		from = rows[len(rows)-1].Key + "\x00"
	}
}

// Leases reads the granted TTL, in seconds, of every lease.
func Leases(t testing.TB, client *clientv3.Client) map[clientv3.LeaseID]int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	waitApplied(ctx, client)
	resp, err := answered(ctx, func() (*clientv3.LeaseLeasesResponse, error) { return client.Leases(ctx) })
	if err != nil {
		t.Fatalf("list the leases: %v", err)
	}
	ttls := map[clientv3.LeaseID]int64{}
	for _, l := range resp.Leases {
		ttl, err := answered(ctx, func() (*clientv3.LeaseTimeToLiveResponse, error) { return client.TimeToLive(ctx, l.ID) })
		if err != nil {
			t.Fatalf("ask for lease %x: %v", l.ID, err)
		}
		if ttl.TTL >= 0 { // not expired meanwhile
			ttls[l.ID] = ttl.GrantedTTL
		}
	}
	return ttls
}

// waitApplied waits until every member that answers has applied what any of them knew to be committed: what is asked of one
// member alone, as leases are, is then what the cluster has.
func waitApplied(ctx context.Context, client *clientv3.Client) {
	var committed uint64
	look := func(endpoint string) (applied uint64, ok bool) {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		s, err := client.Status(ctx, endpoint)
		if err != nil {
			return 0, false
		}
		committed = max(committed, s.RaftIndex)
		return s.RaftAppliedIndex, true
	}
	for _, endpoint := range client.Endpoints() {
		look(endpoint)
	}
	goal := committed
	for _, endpoint := range client.Endpoints() {
		for applied, ok := look(endpoint); ok && applied < goal && ctx.Err() == nil; applied, ok = look(endpoint) {
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// WithoutPrefix returns the rows whose keys have none of the prefixes.
func WithoutPrefix(rows []Row, prefixes ...string) []Row {
	return slices.DeleteFunc(slices.Clone(rows), func(r Row) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(r.Key, p) })
	})
}

// Diff says how rows in key order differ from those wanted: one line for each missing, unexpected
// or different key, up to twenty. It is empty if they are the same.
func Diff(want, got []Row) string {
	const limit = 20
	var b strings.Builder
	differences := 0
	report := func(format string, args ...any) {
		if differences++; differences <= limit {
			fmt.Fprintf(&b, format+"\n", args...)
		}
	}
	for len(want) > 0 || len(got) > 0 {
		switch {
		case len(got) == 0 || len(want) > 0 && want[0].Key < got[0].Key:
			report("missing     %v", want[0])
			want = want[1:]
		case len(want) == 0 || got[0].Key < want[0].Key:
			report("unexpected  %v", got[0])
			got = got[1:]
		default:
			if want[0] != got[0] {
				report("want        %v\n     found  %v", want[0], got[0])
			}
			want, got = want[1:], got[1:]
		}
	}
	if differences > limit {
		fmt.Fprintf(&b, "and %d more\n", differences-limit)
	}
	return b.String()
}

// MustEqual fails the test, with a [Diff], unless the rows are the same.
func MustEqual(t testing.TB, want, got []Row) {
	t.Helper()
	if diff := Diff(want, got); diff != "" {
		t.Fatalf("%d keys are wanted, %d found:\n%s", len(want), len(got), diff)
	}
}

package dbfile

import (
	"iter"
	"slices"
	"sort"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// Select names the unleased keys that the Index keeps beside all leased ones. A key is kept when it has one of the
// prefixes, ends with one of the suffixes or contains one of the infixes. Empty strings select nothing.
type Select struct {
	Prefixes, Suffixes, Infixes []string
}

// Matches reports whether s selects key.
func (s Select) Matches(key string) bool {
	return slices.ContainsFunc(s.Prefixes, func(p string) bool { return p != "" && strings.HasPrefix(key, p) }) ||
		slices.ContainsFunc(s.Suffixes, func(p string) bool { return p != "" && strings.HasSuffix(key, p) }) ||
		slices.ContainsFunc(s.Infixes, func(p string) bool { return p != "" && strings.Contains(key, p) })
}

// Index holds the live leased and selected keys of a database file at its revision, and all leases. The value of a
// leased key that nothing selects may be nil: such values are kept only while they fit in a fixed budget.
type Index struct {
	revision int64
	sel      Select
	keys     []*mvccpb.KeyValue // by key
	leases   map[int64]int64    // id → granted TTL in seconds

	truncated bool // values of leased keys that nothing selects were left out
}

// Revision is the revision at which the keys are live.
func (x *Index) Revision() int64 { return x.revision }

// Keys yields the keys with the prefix in key order. They are the Index's own: do not change them.
func (x *Index) Keys(prefix string) iter.Seq[*mvccpb.KeyValue] {
	return func(yield func(*mvccpb.KeyValue) bool) {
		for _, kv := range x.keys[x.search(prefix):] {
			if !strings.HasPrefix(string(kv.Key), prefix) || !yield(kv) {
				return
			}
		}
	}
}

// Lease returns the granted TTL of a lease in seconds; ok is false when the file has no such lease.
func (x *Index) Lease(id int64) (ttlSeconds int64, ok bool) {
	ttlSeconds, ok = x.leases[id]
	return ttlSeconds, ok
}

// Leases yields every lease's id and granted TTL in seconds, by id.
func (x *Index) Leases() iter.Seq2[int64, int64] {
	return func(yield func(int64, int64) bool) {
		ids := make([]int64, 0, len(x.leases))
		for id := range x.leases {
			ids = append(ids, id)
		}
		slices.Sort(ids)
		for _, id := range ids {
			if !yield(id, x.leases[id]) {
				return
			}
		}
	}
}

// get returns the live key, or nil. known is false when the key may exist all the same: unleased and not selected.
func (x *Index) get(key string) (kv *mvccpb.KeyValue, known bool) {
	if i := x.search(key); i < len(x.keys) && string(x.keys[i].Key) == key {
		return x.keys[i], true
	}
	return nil, x.sel.Matches(key)
}

func (x *Index) search(key string) int {
	return sort.Search(len(x.keys), func(i int) bool { return string(x.keys[i].Key) >= key })
}

package dbfile

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"slices"
	"unsafe"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// scan reads the key bucket once, from the newest row to the oldest. In that direction a row is what its key is now
// exactly when the key was not met before; from this follow the live keys, the index and the rows that HashKV covers.
//
// HashKV at the current revision R with compact revision C (server/storage/mvcc: kvHasher.WriteKeyValue, keyIndex.keep)
// covers all rows above C; and of the rows up to C, which an unfinished compaction may have left behind, those that put
// the value a key still has at R - or all of them, if no key has one. A tombstone at C is never covered.
//
// Only keys that may come up again in an older row are remembered. A put of version 1 created its key: an older put of the key
// lies behind a tombstone, and that is remembered.
type scan struct {
	compact int64 // C, -1 if never compacted
	sel     Select
	exact   map[string]bool // selected, too

	newest rowKey // the newest row
	rows   int64
	keys   int64 // live keys but the empty one, which no client can see
	kept   int64 // live keys
	seen   *keyset

	covered, everything suffixCRC // the rows HashKV covers; and if it were all for want of live keys, kept up while kept is 0
	inCovered, inAll    []bool    // for each row of a page

	found       []*mvccpb.KeyValue
	valueBudget int  // bytes left for values that nothing selects
	truncated   bool // values were left out
}

// valueBudget is how many bytes of values of leased keys that nothing selects the Index keeps. Agents that are not
// configured are only listed, for which the first few thousand values do.
const valueBudget = 8 << 20

func newScan(compact int64, sel Select) *scan {
	return &scan{compact: compact, sel: sel, seen: newKeyset(), covered: newSuffixCRC(), everything: newSuffixCRC(), valueBudget: valueBudget}
}

// leaf takes a leaf page of the key bucket; each must be older than the one before.
func (s *scan) leaf(g page) error {
	s.inCovered = slices.Grow(s.inCovered[:0], g.count)[:g.count]
	s.inAll = slices.Grow(s.inAll[:0], g.count)[:g.count]
	undecided := s.kept == 0
	for i := g.count - 1; i >= 0; i-- {
		k, v, _ := g.element(i)
		r, kv, err := parseRow(k, v)
		if err != nil {
			return &CheckError{Stage: StageRows, Err: err}
		}
		if s.rows == 0 {
			s.newest = r
		}
		s.rows++
		live := !s.seen.has(kv.key, kv.version != 1) && !r.tombstone
		if live {
			s.kept++
			if len(kv.key) > 0 {
				s.keys++
				s.keep(kv)
			}
		}
		s.inAll[i] = r.main != s.compact || !r.tombstone
		s.inCovered[i] = r.main > s.compact || live
	}
	prepend(&s.covered, g, s.inCovered)
	if undecided {
		prepend(&s.everything, g, s.inAll)
	}
	return nil
}

// prepend puts the marked rows of a page before what the checksum covers.
func prepend(sum *suffixCRC, g page, marked []bool) {
	var crc uint32
	var n int64
	for i := range g.count {
		if marked[i] {
			row := g.row(i)
			crc = crc32.Update(crc, castagnoli, row)
			n += int64(len(row))
		}
	}
	if n > 0 {
		sum.prepend(crc, n)
	}
}

// keep adds a live key to the index if it belongs there.
func (s *scan) keep(kv keyValue) {
	selected := s.exact[string(kv.key)] || s.sel.Matches(unsafe.String(unsafe.SliceData(kv.key), len(kv.key))) // keeps nothing of it
	if kv.lease == 0 && !selected {
		return
	}
	value := kv.value
	if !selected {
		if len(value) <= s.valueBudget {
			s.valueBudget -= len(value)
		} else {
			value, s.truncated = nil, true
		}
	}
	s.found = append(s.found, &mvccpb.KeyValue{
		Key: bytes.Clone(kv.key), Value: bytes.Clone(value),
		CreateRevision: kv.create, ModRevision: kv.mod, Version: kv.version, Lease: kv.lease,
	})
}

// hash is HashKV's checksum at the newest revision.
func (s *scan) hash() uint32 {
	sum := s.covered
	if s.kept == 0 {
		sum = s.everything
	}
	name := []byte("key") // HashKV begins with the bucket's name
	sum.prepend(crc32.Checksum(name, castagnoli), int64(len(name)))
	return sum.crc
}

// index returns the keys found, in key order.
func (s *scan) index() []*mvccpb.KeyValue {
	slices.SortFunc(s.found, func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) })
	return s.found
}

// checkRevision checks the newest row against the compaction markers and returns the revision a server would open at
// (server/storage/mvcc: store.restore).
func (s *scan) checkRevision(m metaBucket) (int64, error) {
	if m.scheduled >= 0 && m.finished > m.scheduled {
		return 0, &CheckError{Stage: StageRevision, Err: fmt.Errorf("compaction to revision %d is finished, but the last one scheduled is %d", m.finished, m.scheduled)}
	}
	return max(1, s.newest.main, m.finished, m.scheduled), nil
}

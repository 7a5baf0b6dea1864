package dbfile

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"go.etcd.io/etcd/pkg/v3/traceutil"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"
)

var storeDefaults = mvcc.StoreConfig{}

// sample is a database with branch pages, overflow pages, free pages and something in every bucket. With freelist it stores its free
// pages, as bbolt does by default and etcd does not.
func sample(t testing.TB, keys int, freelist bool) []byte {
	t.Helper()
	path := tempFile(t, "sample")
	s := newStore(t, path, storeDefaults)
	rnd := rand.New(rand.NewPCG(1, 1))
	s.keys = randomKeys(rnd, 300)
	s.Put([]byte("big"), make([]byte, 30_000), 0)
	for range keys / 2 {
		s.step(rnd)
	}
	for i := range 3 * keys {
		s.Put(fmt.Appendf(nil, "/last/%03d", i%keys), make([]byte, i%700), 0)
		if i == 2*keys {
			done, err := s.Compact(traceutil.TODO(), s.Rev())
			if err != nil {
				t.Fatal(err)
			}
			<-done
			s.backend.ForceCommit()
		}
	}
	s.DeleteRange([]byte("/last/1"), []byte("/last/2"))
	s.Put([]byte("big"), make([]byte, 9_000), 0)
	s.grant(7, 60)
	s.close()
	err := updateWith(path, &bolt.Options{NoFreelistSync: !freelist}, func(tx *bolt.Tx) error {
		return tx.Bucket(schema.Meta.Name()).Put([]byte("x"), nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m, err := readMeta(data)
	if err != nil {
		t.Fatal(err)
	}
	return data[:int(m.pages)*m.pageSize]
}

func updateWith(path string, o *bolt.Options, fn func(*bolt.Tx) error) error {
	db, err := bolt.Open(path, 0o600, o)
	if err != nil {
		return err
	}
	return errors.Join(db.Update(fn), db.Close())
}

// writeSnapshot writes data with a right trailer.
func writeSnapshot(t testing.TB, data []byte) string {
	t.Helper()
	path := tempFile(t, "snapshot")
	sum := sha256.Sum256(data)
	if err := os.WriteFile(path, append(data[:len(data):len(data)], sum[:]...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// pagesOf lists the pages of a type in a database.
func pagesOf(t testing.TB, data []byte, flags uint16) (ids []uint64) {
	t.Helper()
	p, err := openPages(data, new(atomic.Int64))
	if err != nil {
		t.Fatal(err)
	}
	all, err := p.buckets()
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range all {
		if err := p.leaves(b, ascending, func(page) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	for id := uint64(2); id < p.pages; id++ {
		b := data[int(id)*p.pageSize:]
		if p.reached.get(id) && native.Uint64(b) == id && native.Uint16(b[8:]) == flags {
			ids = append(ids, id)
		}
	}
	return ids
}

// TestDamage hands files with each kind of damage to a check, all but the first few under a right trailer. Each must be
// refused at its stage, with a reason, and no child may die of it.
func TestDamage(t *testing.T) {
	good, synced := sample(t, 900, false), sample(t, 900, true)
	const size = 4096
	branches, leaves := pagesOf(t, good, flagBranch), pagesOf(t, good, flagLeaf)
	if len(branches) == 0 || len(leaves) < 20 {
		t.Fatalf("the sample has %d branch and %d leaf pages: too few for this test", len(branches), len(leaves))
	}
	branch, leaf := int(branches[0])*size, int(leaves[len(leaves)/2])*size
	metas := func(b []byte, change func(m []byte)) { // in both meta pages, with a right checksum
		for _, at := range []int{0, size} {
			m := b[at+pageHeaderSize:][:metaSize]
			change(m)
			resum(m)
		}
	}
	for _, c := range []struct {
		name   string
		source []byte
		change func(b []byte) []byte
		raw    bool // no trailer is added
		stage  string
		says   string
	}{
		{name: "empty", change: func([]byte) []byte { return nil }, raw: true, stage: StageSize, says: "empty"},
		{name: "text", change: func([]byte) []byte { return []byte(strings.Repeat("No backup today. ", 300)) }, raw: true, stage: StageTrailer, says: "no sha256 trailer"},
		{name: "no trailer", change: func(b []byte) []byte { return b }, raw: true, stage: StageTrailer, says: "no sha256 trailer"},
		{name: "bit flipped", change: func(b []byte) []byte {
			sum := sha256.Sum256(b)
			b[len(b)/2] ^= 1
			return append(b, sum[:]...)
		}, raw: true, stage: StageTrailer, says: "its content has"},
		{name: "text with trailer", change: func([]byte) []byte { return []byte(strings.Repeat("No backup today.", 320)) }, stage: StageStructure, says: "not a bbolt database"},
		{name: "short", change: func(b []byte) []byte { return b[:512] }, stage: StageSize, says: "too few"},
		{name: "truncated", change: func(b []byte) []byte { return b[:len(b)/2/512*512] }, stage: StageSize, says: "truncated"},
		{name: "last page missing", change: func(b []byte) []byte { return b[:len(b)-size] }, stage: StageSize, says: "truncated"},
		{name: "both metas damaged", change: func(b []byte) []byte { b[16+9]++; b[size+16+9]++; return b }, stage: StageStructure, says: "checksum of the meta page"},
		{name: "root out of range", change: func(b []byte) []byte {
			metas(b, func(m []byte) { native.PutUint64(m[16:], 1<<60) })
			return b
		}, stage: StageStructure, says: "reference to page"},
		{name: "no pages", change: func(b []byte) []byte { metas(b, func(m []byte) { native.PutUint64(m[40:], 0) }); return b }, stage: StageStructure, says: "claims to have 0 pages"},
		{name: "page size 0", change: func(b []byte) []byte { metas(b, func(m []byte) { native.PutUint32(m[8:], 0) }); return b }, stage: StageStructure, says: "page size 0"},
		{name: "wild child", change: func(b []byte) []byte { native.PutUint64(b[branch+pageHeaderSize+8:], 1<<40); return b }, stage: StageStructure, says: "reference to page 1099511627776"},
		{name: "child is itself", change: func(b []byte) []byte {
			native.PutUint64(b[branch+pageHeaderSize+8:], branches[0])
			return b
		}, stage: StageStructure, says: "referred to twice"},
		{name: "child is a meta page", change: func(b []byte) []byte { native.PutUint64(b[branch+pageHeaderSize+8:], 1); return b }, stage: StageStructure, says: "reference to page 1"},
		{name: "two children are one", change: func(b []byte) []byte {
			copy(b[branch+pageHeaderSize+8:][:8], b[branch+2*pageHeaderSize+8:])
			return b
		}, stage: StageStructure, says: "referred to twice"},
		{name: "children exchanged", change: func(b []byte) []byte {
			x, y := b[branch+pageHeaderSize+8:][:8], b[branch+pageHeaderSize+elementSize+8:][:8]
			for i := range x {
				x[i], y[i] = y[i], x[i]
			}
			return b
		}, stage: StageStructure, says: "key"},
		{name: "empty branch", change: func(b []byte) []byte { native.PutUint16(b[branch+10:], 0); return b }, stage: StageStructure, says: "is empty"},
		{name: "garbage", change: func(b []byte) []byte {
			rnd := rand.New(rand.NewPCG(9, 9))
			for i := range size {
				b[leaf+i] = byte(rnd.Uint32())
			}
			return b
		}, stage: StageStructure, says: "says it is page"},
		{name: "zeroes", change: func(b []byte) []byte { clear(b[leaf:][:size]); return b }, stage: StageStructure, says: "says it is page 0"},
		{name: "overflow", change: func(b []byte) []byte { native.PutUint32(b[leaf+12:], 1<<31); return b }, stage: StageStructure, says: "overflow"},
		{name: "type", change: func(b []byte) []byte { native.PutUint16(b[leaf+8:], flagFreelist); return b }, stage: StageStructure, says: "type 0x10"},
		{name: "count", change: func(b []byte) []byte { native.PutUint16(b[leaf+10:], 60_000); return b }, stage: StageStructure, says: "no room"},
		{name: "position", change: func(b []byte) []byte { native.PutUint32(b[leaf+pageHeaderSize+4:], 1<<30); return b }, stage: StageStructure, says: "outside"},
		{name: "value size", change: func(b []byte) []byte { native.PutUint32(b[leaf+pageHeaderSize+12:], 1<<32-1); return b }, stage: StageStructure, says: "outside"},
		{name: "order", change: func(b []byte) []byte {
			pos := leaf + pageHeaderSize + int(native.Uint32(b[leaf+pageHeaderSize+4:]))
			b[pos] = 0x7f
			return b
		}, stage: StageStructure, says: "out of order"},
		{name: "row without key", change: func(b []byte) []byte {
			pos, ksize := int(native.Uint32(b[leaf+pageHeaderSize+4:])), int(native.Uint32(b[leaf+pageHeaderSize+8:]))
			b[leaf+pageHeaderSize+pos+ksize] = 0x7f // an unknown field where the key's is
			return b
		}, stage: StageRows, says: "row"},
		{name: "row of another revision", change: func(b []byte) []byte {
			g := page{flags: flagLeaf, count: 1, b: b[leaf:][:size]}
			_, v, _ := g.element(0)
			i := 2 + int(v[1])           // behind the key
			for i++; v[i] >= 0x80; i++ { // the create revision
			}
			v[i+2] ^= 1 // the low bits of the mod revision
			return b
		}, stage: StageRows, says: "holds a key value of revision"},
		{name: "free list out of range", source: synced, change: func(b []byte) []byte {
			list := freelistOf(b)
			native.PutUint64(b[list*size+pageHeaderSize:], 1<<50)
			return b
		}, stage: StageStructure, says: "free list names page"},
		{name: "free page in use", source: synced, change: func(b []byte) []byte {
			list := freelistOf(b)
			native.PutUint64(b[list*size+pageHeaderSize:], pagesOf(t, b, flagLeaf)[0])
			return b
		}, stage: StageStructure, says: "free twice, or free and in use"},
		{name: "lost page", source: synced, change: func(b []byte) []byte {
			list := freelistOf(b)
			native.PutUint16(b[list*size+10:], native.Uint16(b[list*size+10:])-1)
			return b
		}, stage: StageStructure, says: "neither in use nor free"},
		{name: "free list too long", source: synced, change: func(b []byte) []byte {
			list := freelistOf(b)
			native.PutUint16(b[list*size+10:], 0xFFFE)
			return b
		}, stage: StageStructure, says: "has room for"},
	} {
		t.Run(c.name, func(t *testing.T) {
			source := good
			if c.source != nil {
				source = c.source
			}
			data := c.change(append([]byte(nil), source...))
			path := tempFile(t, "damaged")
			if !c.raw {
				path = writeSnapshot(t, data)
			} else if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := CheckInChild(t.Context(), open(t, path), CheckOptions{TrailerRequired: true})
			var verdict *CheckError
			if !errors.As(err, &verdict) || verdict.Stage != c.stage || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want stage %s and %q", err, c.stage, c.says)
			}
		})
	}
	for name, data := range map[string][]byte{"good": good, "good with free list": synced} {
		if _, err := CheckInChild(t.Context(), open(t, writeSnapshot(t, data)), CheckOptions{TrailerRequired: true}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func resum(m []byte) {
	var h uint64 = 14695981039346656037 // FNV-1a
	for _, c := range m[:metaSize-8] {
		h = (h ^ uint64(c)) * 1099511628211
	}
	native.PutUint64(m[metaSize-8:], h)
}

func freelistOf(b []byte) int {
	m, err := readMeta(b)
	if err != nil || m.freelist == noFreelist {
		panic(fmt.Sprint("no free list: ", err))
	}
	return int(m.freelist)
}

// TestStructureAgreesWithBbolt damages files at random. Whatever bbolt's own check finds, or dies of, this check must find; and neither may
// find anything in a file that is not damaged.
func TestStructureAgreesWithBbolt(t *testing.T) {
	samples := [][]byte{sample(t, 900, false), sample(t, 900, true)}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	rounds := 240
	if testing.Short() {
		rounds = 40
	}
	var found, died, stricter int
	for round := range rounds {
		rnd := rand.New(rand.NewPCG(uint64(round), 77))
		data := append([]byte(nil), samples[round%2]...)
		if round > 1 {
			for range 1 + rnd.IntN(3) {
				at := 2*4096 + rnd.IntN(len(data)/4096-2)*4096
				switch rnd.IntN(4) {
				case 0:
					at += rnd.IntN(4096)
				case 1:
					at += rnd.IntN(pageHeaderSize)
				default:
					at += rnd.IntN(10 * elementSize)
				}
				data[at] ^= 1 << rnd.IntN(8)
			}
		}
		path := writeSnapshot(t, data)
		_, ours := checkHere(t, path, CheckOptions{TrailerRequired: true})
		limit := 2 * time.Second // on some damage bbolt walks without end
		if ours == nil {
			limit = time.Minute // it is only slow
		}
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		cmd := exec.CommandContext(ctx, exe)
		cmd.Env = append(os.Environ(), childVariable+"="+roleBbolt)
		cmd.ExtraFiles = []*os.File{open(t, path)}
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		switch {
		case err == nil && ours != nil:
			stricter++
		case errors.As(err, &exit):
			found++
			if exit.ExitCode() != 3 {
				died++
			}
			if ours == nil {
				t.Errorf("round %d: this check finds nothing, but bbolt: %.300s", round, out)
			}
		}
		if round < 2 && (err != nil || ours != nil) {
			t.Errorf("an undamaged file: bbolt %v %.300s, this check %v", err, out, ours)
		}
	}
	t.Logf("of %d files, bbolt refused %d, and died of %d of these; %d more are refused by this check alone", rounds, found, died, stricter)
	if found < rounds/10 {
		t.Errorf("only %d of %d files were damaged: the test does not test what it should", found, rounds)
	}
}

package dbfile

import (
	"bytes"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
)

// FuzzRowKey compares the decoder of row keys with etcd's, which panics on what is none.
func FuzzRowKey(f *testing.F) {
	f.Add(rowKey{main: 7, sub: 1}.bytes())
	f.Add(rowKey{main: 1 << 62, sub: 3, tombstone: true}.bytes())
	f.Add([]byte("12345678_12345678x"))
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseRowKey(b)
		var want mvcc.BucketKey
		panicked := func() (p bool) {
			defer func() { p = recover() != nil }()
			want = mvcc.BytesToBucketKey(b)
			return false
		}()
		// etcd takes 18 bytes for a row whatever the last is, but writes only 't'.
		odd := len(b) == tombstoneKeySize && b[rowKeySize] != 't'
		if (err != nil) != (panicked || odd) {
			t.Fatalf("%x: error %v, etcd panics: %v", b, err, panicked)
		}
		if err == nil && (got.main != want.Main || got.sub != want.Sub || got.tombstone != mvcc.IsTombstone(b) || !bytes.Equal(got.bytes(), b)) {
			t.Fatalf("%x is %+v, etcd has %+v", b, got, want)
		}
	})
}

// FuzzKeyValue compares the decoder of key values with protobuf's.
func FuzzKeyValue(f *testing.F) {
	for _, kv := range []*mvccpb.KeyValue{{}, {Key: []byte("k"), Value: []byte("v"), CreateRevision: 1, ModRevision: 2, Version: 3, Lease: -4}} {
		b, err := proto.Marshal(kv)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(append(b, b...))
		f.Add(append(b, 0x3a, 1, 0))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseKeyValue(b)
		var want mvccpb.KeyValue
		wantErr := proto.Unmarshal(b, &want)
		if (err != nil) != (wantErr != nil) {
			t.Fatalf("%x: error %v, protobuf says %v", b, err, wantErr)
		}
		if err == nil && (!bytes.Equal(got.key, want.Key) || !bytes.Equal(got.value, want.Value) || got.create != want.CreateRevision ||
			got.mod != want.ModRevision || got.version != want.Version || got.lease != want.Lease) {
			t.Fatalf("%x is %+v, protobuf has %v", b, got, &want)
		}
	})
}

// FuzzCheck hands changed databases to the check, which has to come to a verdict without a panic. Each 10 bytes of the input change
// 8 bytes of the database: at which multiple of 8, and what is XORed to them.
func FuzzCheck(f *testing.F) {
	samples := [][]byte{sample(f, 20, false), sample(f, 20, true)}
	change := func(at uint16, xor uint64) []byte {
		return native.AppendUint64(native.AppendUint16(nil, at/8), xor)
	}
	f.Add(false, change(2*4096, 1))
	f.Add(true, append(change(3*4096+8, 1<<20), change(5*4096+16, 0xffffffff)...))
	f.Fuzz(func(t *testing.T, freelist bool, changes []byte) {
		data := bytes.Clone(samples[0])
		if freelist {
			data = bytes.Clone(samples[1])
		}
		for ; len(changes) >= 10; changes = changes[10:] {
			b := data[int(native.Uint16(changes))*8%len(data):][:8]
			native.PutUint64(b, native.Uint64(b)^native.Uint64(changes[2:]))
		}
		resum(data[pageHeaderSize:][:metaSize])
		resum(data[4096+pageHeaderSize:][:metaSize])
		var c checker
		r, _, err := c.check(data, false)
		var verdict *CheckError
		if err != nil && !errors.As(err, &verdict) {
			t.Fatalf("%v is no verdict", err)
		}
		if err == nil && r.Rows < r.Keys {
			t.Fatalf("%d keys in %d rows", r.Keys, r.Rows)
		}
	})
}

// TestSuffixCRC builds checksums from back to front and compares them with those of the whole.
func TestSuffixCRC(t *testing.T) {
	rnd := rand.New(rand.NewPCG(4, 4))
	for range 200 {
		b := make([]byte, rnd.IntN(100_000))
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		s := newSuffixCRC()
		for rest := b; len(rest) > 0; {
			n := 1 + rnd.IntN(min(len(rest), 1+rnd.IntN(20_000)))
			part := rest[len(rest)-n:]
			s.prepend(crc32.Checksum(part, castagnoli), int64(n))
			rest = rest[:len(rest)-n]
		}
		if want := crc32.Checksum(b, castagnoli); s.crc != want {
			t.Fatalf("%d bytes: %08x, want %08x", len(b), s.crc, want)
		}
	}
}

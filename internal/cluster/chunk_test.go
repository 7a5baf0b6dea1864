package cluster

import (
	"bytes"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// pieces cuts b into buffers of n bytes.
func pieces(b []byte, n int) (s mem.BufferSlice) {
	for len(b) > 0 {
		k := min(n, len(b))
		s = append(s, mem.SliceBuffer(b[:k]))
		b = b[k:]
	}
	return s
}

// TestChunkAgreesWithProtobuf decodes messages as they may arrive, cut anywhere, by both decoders.
func TestChunkAgreesWithProtobuf(t *testing.T) {
	for name, m := range map[string]*pb.SnapshotResponse{
		"empty":   {},
		"first":   {RemainingBytes: 1 << 40, Blob: bytes.Repeat([]byte("page"), 300), Version: "3.6.0"},
		"last":    {Blob: []byte{1}},
		"header":  {Header: &pb.ResponseHeader{ClusterId: 7, Revision: 9}, RemainingBytes: 5, Blob: []byte("abc")},
		"no blob": {RemainingBytes: 300, Version: "3.7.0"},
	} {
		wire, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		var c chunk // used again and again, as a stream does
		for n := 1; n <= len(wire)+1; n++ {
			if err := c.decode(pieces(wire, n)); err != nil {
				t.Fatalf("%s in pieces of %d bytes: %v", name, n, err)
			}
			if got := bytes.Join(c.blob, nil); !bytes.Equal(got, m.Blob) || c.remaining != m.RemainingBytes || c.version != m.Version {
				t.Fatalf("%s in pieces of %d bytes: %d bytes, %d remaining, version %q; want %v", name, n, len(got), c.remaining, c.version, m)
			}
		}
		for n := range wire { // protobuf accepts a message that ends between two fields, and so may we
			if c.decode(pieces(wire[:n], 7)) == nil && proto.Unmarshal(wire[:n], new(pb.SnapshotResponse)) != nil {
				t.Errorf("%s cut off after %d bytes is accepted", name, n)
			}
		}
	}
}

func FuzzChunk(f *testing.F) {
	f.Add([]byte("\x10\x05\x1a\x03abc\x22\x053.6.0"), 3)
	f.Add([]byte("\x1a\xff\xff\xff\xff\xff\xff\xff\xff\x7f"), 1)
	f.Fuzz(func(t *testing.T, wire []byte, n int) {
		var c chunk
		err := c.decode(pieces(wire, max(1, n)))
		var m pb.SnapshotResponse
		if proto.Unmarshal(wire, &m) != nil || bytes.Count(wire, []byte{fieldBlob}) > 1 {
			return // what protobuf refuses is never sent; a blob given twice neither
		}
		if err == nil && !bytes.Equal(bytes.Join(c.blob, nil), m.Blob) {
			t.Errorf("%d bytes of blob, want %d", len(bytes.Join(c.blob, nil)), len(m.Blob))
		}
	})
}

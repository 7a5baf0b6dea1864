package cluster

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// A chunk is an etcdserverpb.SnapshotResponse whose blob still lies in the buffers in which it arrived. Decoded the usual way
// every byte of a database would be copied twice more, for nothing.
type chunk struct {
	remaining uint64
	version   string
	blob      [][]byte // in order; valid until free
	buffers   mem.BufferSlice
}

// free gives the buffers back.
func (c *chunk) free() {
	c.buffers.Free()
	*c = chunk{blob: c.blob[:0], buffers: c.buffers[:0]}
}

// The numbers of SnapshotResponse's fields with their wire types (rpc.proto).
const (
	fieldRemaining = 2<<3 | wireVarint
	fieldBlob      = 3<<3 | wireBytes
	fieldVersion   = 4<<3 | wireBytes

	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
	wireMask    = 7
)

// decode reads a message; c keeps its buffers until free.
func (c *chunk) decode(data mem.BufferSlice) error {
	c.free()
	data.Ref()
	c.buffers = append(c.buffers, data...)
	r := data.Reader()
	defer r.Close()
	for r.Remaining() > 0 {
		tag, err := binary.ReadUvarint(r)
		if err != nil {
			return fmt.Errorf("a field: %w", err)
		}
		if err := c.field(tag, r); err != nil {
			return fmt.Errorf("field %d: %w", tag>>3, err)
		}
	}
	return nil
}

func (c *chunk) field(tag uint64, r *mem.Reader) (err error) {
	switch tag & wireMask {
	case wireVarint:
		n, err := binary.ReadUvarint(r)
		if tag == fieldRemaining {
			c.remaining = n
		}
		return err
	case wireFixed64:
		_, err = r.Discard(8)
		return err
	case wireFixed32:
		_, err = r.Discard(4)
		return err
	case wireBytes:
	default:
		return fmt.Errorf("wire type %d", tag&wireMask)
	}
	size, err := binary.ReadUvarint(r)
	if err != nil {
		return err
	}
	if size > uint64(r.Remaining()) {
		return io.ErrUnexpectedEOF
	}
	n := int(size)
	switch tag {
	case fieldBlob:
		if c.blob, err = r.Peek(n, c.blob); err != nil {
			return err
		}
	case fieldVersion:
		b := make([]byte, n)
		_, err = io.ReadFull(r, b)
		c.version = string(b)
		return err
	}
	_, err = r.Discard(n)
	return err
}

// chunkCodec decodes into chunks; requests are ordinary ones.
type chunkCodec struct{ encoding.CodecV2 }

func (chunkCodec) Unmarshal(data mem.BufferSlice, v any) error {
	c, ok := v.(*chunk)
	if !ok {
		return fmt.Errorf("a %T cannot take a piece of a snapshot", v)
	}
	return c.decode(data)
}

// openSnapshot asks for a snapshot; each RecvMsg into a chunk gives the next piece.
func openSnapshot(ctx context.Context, conn *grpc.ClientConn) (grpc.ClientStream, error) {
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, pb.Maintenance_Snapshot_FullMethodName,
		grpc.ForceCodecV2(chunkCodec{encoding.GetCodecV2(proto.Name)}))
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(&pb.SnapshotRequest{}); err != nil && err != io.EOF { // after io.EOF RecvMsg tells why
		return nil, err
	}
	return stream, stream.CloseSend()
}

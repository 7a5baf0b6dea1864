package cluster

import (
	"context"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Hash is a HashKV: the checksum of a member's rows up to Revision, as they are left by a
// compaction at CompactRevision. Two hashes can be compared only when both revisions are equal.
type Hash struct {
	Hash            uint32
	CompactRevision int64
	Revision        int64
}

// HashKV asks endpoint for its hash up to revision (0: its newest). It needs the root role where authentication
// is on, and stalls the member's writes while it computes (about 1.3 s per GB): ask a
// follower, rarely. Only ctx bounds it. [ErrCompacted] and [ErrFutureRevision] say that the
// member cannot know.
func (c *Client) HashKV(ctx context.Context, endpoint string, revision int64) (Hash, error) {
	e, err := c.endpoint(endpoint)
	if err != nil {
		return Hash{}, err
	}
	var answer *pb.HashKVResponse
	err = c.call(ctx, e, opHashKV, 0, func(ctx context.Context) (err error) {
		answer, err = pb.NewMaintenanceClient(e.conn).HashKV(ctx, &pb.HashKVRequest{Revision: revision})
		return err
	})
	if err != nil {
		return Hash{}, err
	}
	h := Hash{Hash: answer.Hash, CompactRevision: answer.CompactRevision, Revision: answer.HashRevision}
	if h.Revision == 0 { // servers before 3.6 do not say it
		h.Revision = revision
		if revision == 0 {
			h.Revision = answer.GetHeader().GetRevision()
		}
	}
	return h, nil
}

// Comparison is what two hashes say about each other.
type Comparison int

const (
	Incomparable Comparison = iota // they say nothing: other rows are covered
	Equal
	Different
)

func (c Comparison) String() string {
	switch c {
	case Equal:
		return "equal"
	case Different:
		return "different"
	}
	return "not comparable"
}

// Compare compares two hashes, and gives the reason when they cannot be. A member asked at one
// of the revisions it compacted last may answer from its cache, with the compact revision before
// that: such an answer is as good as any whose revisions pair up.
func (h Hash) Compare(other Hash) (Comparison, string) {
	switch {
	case h.Revision != other.Revision:
		return Incomparable, fmt.Sprintf("one covers revisions up to %d, the other up to %d", h.Revision, other.Revision)
	case h.CompactRevision != other.CompactRevision:
		return Incomparable, fmt.Sprintf("one is compacted at %d, the other at %d", h.CompactRevision, other.CompactRevision)
	case h.Hash != other.Hash:
		return Different, fmt.Sprintf("%08x against %08x at revision %d, compacted at %d", h.Hash, other.Hash, h.Revision, h.CompactRevision)
	}
	return Equal, fmt.Sprintf("%08x at revision %d, compacted at %d", h.Hash, h.Revision, h.CompactRevision)
}

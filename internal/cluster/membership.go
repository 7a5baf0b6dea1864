package cluster

import (
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// ErrNotCaughtUp says that a learner has not received enough of the leader's log yet to be promoted.
var ErrNotCaughtUp = errors.New("the learner has not caught up")

const (
	opRemove  = "removal of a member"
	opAdd     = "addition of a learner"
	opPromote = "promotion of a learner"
)

// CurrentMembers is Members as a quorum knows them now. Servers before 3.5 answer from what they know alone.
func (c *Client) CurrentMembers(ctx context.Context) (clusterID uint64, members []Member, err error) {
	err = c.any(ctx, opMembers, func(ctx context.Context, e *endpoint) error {
		answer, err := pb.NewClusterClient(e.conn).MemberList(ctx, &pb.MemberListRequest{Linearizable: true})
		clusterID, members = answer.GetHeader().GetClusterId(), listed(answer.GetMembers())
		return err
	})
	return clusterID, members, err
}

// RemoveMember takes a member out of the cluster for good: its id never comes back. One that is not there is no error.
func (c *Client) RemoveMember(ctx context.Context, id uint64) error {
	return c.any(ctx, opRemove, func(ctx context.Context, e *endpoint) error {
		_, err := pb.NewClusterClient(e.conn).MemberRemove(ctx, &pb.MemberRemoveRequest{ID: id})
		if errors.Is(rpctypes.Error(err), rpctypes.ErrMemberNotFound) {
			return nil
		}
		return err
	})
}

// AddLearner adds a member without a vote, which has not to run yet, and returns its id.
func (c *Client) AddLearner(ctx context.Context, peerURLs []string) (id uint64, err error) {
	err = c.any(ctx, opAdd, func(ctx context.Context, e *endpoint) error {
		answer, err := pb.NewClusterClient(e.conn).MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: peerURLs, IsLearner: true})
		id = answer.GetMember().GetID()
		return err
	})
	return id, err
}

// Promote gives a learner its vote. One that has it is no error; until the learner holds nearly all of the leader's log it is ErrNotCaughtUp.
func (c *Client) Promote(ctx context.Context, id uint64) error {
	return c.any(ctx, opPromote, func(ctx context.Context, e *endpoint) error {
		_, err := pb.NewClusterClient(e.conn).MemberPromote(ctx, &pb.MemberPromoteRequest{ID: id})
		switch known := rpctypes.Error(err); {
		case errors.Is(known, rpctypes.ErrMemberNotLearner):
			return nil
		case errors.Is(known, rpctypes.ErrMemberLearnerNotReady):
			return &Error{Op: opPromote, Endpoint: e.name, What: "the leader says that it has not caught up", Err: ErrNotCaughtUp}
		}
		return err
	})
}

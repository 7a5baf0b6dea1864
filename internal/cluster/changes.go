package cluster

import (
	"context"
	"fmt"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// changesTime bounds Changes: a member that keeps up with its clients sends their changes of hours in it.
const changesTime = 20 * time.Second

// Changes calls each for every change of a key in the revisions from from to to, in their order, as endpoint remembers
// them, but not for those that [Client.Probe] made. The member must have reached to. [ErrCompacted] says that
// it no longer remembers all; each may have been called for some when an error is returned.
func (c *Client) Changes(ctx context.Context, endpoint string, from, to int64, each func(*mvccpb.Event)) error {
	e, err := c.endpoint(endpoint)
	if err != nil || from > to {
		return err
	}
	return c.call(ctx, e, fmt.Sprintf("changes of revisions %d to %d", from, to), changesTime, func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx) // ends the stream
		defer cancel()
		watch, err := pb.NewWatchClient(e.conn).Watch(ctx)
		if err != nil {
			return err
		}
		create := &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: from, Fragment: true}
		if err := watch.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
			return err
		}
		for {
			answer, err := watch.Recv()
			switch {
			case err != nil:
				return err
			case answer.CompactRevision > 0:
				return rpctypes.ErrCompacted
			case answer.Canceled && strings.Contains(answer.CancelReason, "permission denied"):
				return rpctypes.ErrPermissionDenied
			case answer.Canceled:
				return fmt.Errorf("etcd ended the watch: %s", answer.CancelReason)
			}
			for _, event := range answer.Events {
				if event.Kv.ModRevision <= to && !strings.HasPrefix(string(event.Kv.Key), probePrefix) {
					each(event)
				}
			}
			if n := len(answer.Events); n > 0 && !answer.Fragment && answer.Events[n-1].Kv.ModRevision >= to {
				return nil
			}
		}
	})
}

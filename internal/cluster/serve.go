package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// probePrefix is where Probe writes; probeTTL removes what a probe that died left there.
const (
	probePrefix = "requorum/probe/"
	probeTTL    = 30 // seconds
)

// pageSize is how many keys Get asks for at once.
const pageSize = 1000

// MemberHealth is whether one member serves linearizable reads.
type MemberHealth struct {
	Endpoint string
	OK       bool
	Took     time.Duration
	Err      error // nil when OK
}

// Health asks every endpoint at once for a linearizable read, which a member answers only when it
// agrees with a quorum, and returns the answers in the order of the endpoints. Being denied the
// key counts as healthy: denying takes the same agreement.
func (c *Client) Health(ctx context.Context) []MemberHealth {
	out := make([]MemberHealth, len(c.endpoints))
	c.each(func(i int, e *endpoint) {
		start := time.Now()
		err := c.call(ctx, e, "linearizable read", c.options.DialTimeout, func(ctx context.Context) error {
			read := func() error {
				_, err := pb.NewKVClient(e.conn).Range(ctx, &pb.RangeRequest{Key: []byte("health"), CountOnly: true})
				return rpctypes.Error(err)
			}
			err := read()
			if errors.Is(err, rpctypes.ErrLeaderChanged) { // an election that is over: the new leader answers
				err = read()
			}
			if errors.Is(err, rpctypes.ErrPermissionDenied) {
				return nil
			}
			return err
		})
		out[i] = MemberHealth{Endpoint: e.name, OK: err == nil, Took: time.Since(start), Err: err}
	})
	return out
}

// Probe proves that the cluster takes writes: it puts a key below "requorum/probe/" under a lease of
// 30 s, reads it back through every endpoint, and revokes the lease, which removes the key. It returns the
// revision of the write. If it fails half-way the lease removes the key.
func (c *Client) Probe(ctx context.Context) (revision int64, err error) {
	key, value := []byte(probePrefix+rand.Text()), []byte(rand.Text())
	var lease int64
	err = c.any(ctx, "lease grant", func(ctx context.Context, e *endpoint) error {
		answer, err := pb.NewLeaseClient(e.conn).LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: probeTTL})
		lease = answer.GetID()
		return err
	})
	if err != nil {
		return 0, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.options.DialTimeout)
		defer cancel()
		revokeErr := c.any(ctx, "lease revoke", func(ctx context.Context, e *endpoint) error {
			_, err := pb.NewLeaseClient(e.conn).LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: lease})
			if errors.Is(rpctypes.Error(err), rpctypes.ErrLeaseNotFound) { // revoked by a call that was not answered
				return nil
			}
			return err
		})
		err = errors.Join(err, revokeErr)
	}()
	err = c.any(ctx, "write of a probe key", func(ctx context.Context, e *endpoint) error {
		answer, err := pb.NewKVClient(e.conn).Put(ctx, &pb.PutRequest{Key: key, Value: value, Lease: lease})
		revision = answer.GetHeader().GetRevision()
		return err
	})
	if err != nil {
		return 0, err
	}
	errs := make([]error, len(c.endpoints))
	c.each(func(i int, e *endpoint) {
		errs[i] = c.call(ctx, e, "read of a probe key", c.options.DialTimeout, func(ctx context.Context) error {
			answer, err := pb.NewKVClient(e.conn).Range(ctx, &pb.RangeRequest{Key: key})
			if err != nil {
				return err
			}
			if len(answer.Kvs) != 1 || !bytes.Equal(answer.Kvs[0].Value, value) {
				return &Error{Op: "read of a probe key", Endpoint: e.name, What: fmt.Sprintf("the key written at revision %d is not what this member reads", revision)}
			}
			return nil
		})
	})
	return revision, errors.Join(errs...)
}

// Get returns the keys below prefix (all keys for ""), in key order, as they stood at one revision.
func (c *Client) Get(ctx context.Context, prefix string) ([]*mvccpb.KeyValue, error) {
	var out []*mvccpb.KeyValue
	request := &pb.RangeRequest{Key: []byte(prefix), RangeEnd: prefixEnd(prefix), Limit: pageSize}
	if prefix == "" {
		request.Key = []byte{0}
	}
	for {
		var answer *pb.RangeResponse
		err := c.any(ctx, fmt.Sprintf("keys below %q", prefix), func(ctx context.Context, e *endpoint) (err error) {
			answer, err = pb.NewKVClient(e.conn).Range(ctx, request)
			return err
		})
		if err != nil {
			return nil, err
		}
		out = append(out, answer.Kvs...)
		if !answer.More || len(answer.Kvs) == 0 {
			return out, nil
		}
		if request.Revision == 0 {
			request.Revision = answer.Header.Revision
		}
		request.Key = append(bytes.Clone(answer.Kvs[len(answer.Kvs)-1].Key), 0)
	}
}

// A Swap is one write that counts only while its key is at the revision that the writer saw.
type Swap struct {
	Key         string
	Value       []byte // nil removes the key
	ModRevision int64  // 0: the key must be absent
}

// Swap does all of the swaps in one transaction, or none, and then ok is false. Keys are written without a lease. After an error the
// swaps may have been done: look again.
func (c *Client) Swap(ctx context.Context, swaps ...Swap) (ok bool, err error) {
	request := &pb.TxnRequest{}
	for _, s := range swaps {
		request.Compare = append(request.Compare, &pb.Compare{Key: []byte(s.Key), Result: pb.Compare_EQUAL, Target: pb.Compare_MOD,
			TargetUnion: &pb.Compare_ModRevision{ModRevision: s.ModRevision}})
		op := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(s.Key), Value: s.Value}}}
		if s.Value == nil {
			op.Request = &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(s.Key)}}
		}
		request.Success = append(request.Success, op)
	}
	err = c.any(ctx, fmt.Sprintf("change of %d keys", len(swaps)), func(ctx context.Context, e *endpoint) error {
		answer, err := pb.NewKVClient(e.conn).Txn(ctx, request)
		ok = answer.GetSucceeded()
		return err
	})
	return ok && err == nil, err
}

// prefixEnd is the first key after all that begin with prefix, in etcd's form.
func prefixEnd(prefix string) []byte {
	end := []byte(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] < 0xff {
			end[i]++
			return end[:i+1]
		}
	}
	return []byte{0} // to the end
}

// TimeToLive returns how many seconds a lease has left and how many it was granted. A lease that
// does not exist has -1 and 0.
func (c *Client) TimeToLive(ctx context.Context, lease int64) (ttl, granted int64, err error) {
	err = c.any(ctx, fmt.Sprintf("lease %x", lease), func(ctx context.Context, e *endpoint) error {
		answer, err := pb.NewLeaseClient(e.conn).LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: lease})
		if errors.Is(rpctypes.Error(err), rpctypes.ErrLeaseNotFound) {
			ttl, granted = -1, 0
			return nil
		}
		ttl, granted = answer.GetTTL(), answer.GetGrantedTTL()
		return err
	})
	return ttl, granted, err
}

// Alarms returns the alarms that are raised in the cluster. It needs quorum; [Client.Status] tells
// them without.
func (c *Client) Alarms(ctx context.Context) ([]Alarm, error) {
	var out []Alarm
	err := c.any(ctx, "alarms", func(ctx context.Context, e *endpoint) error {
		out = nil
		answer, err := pb.NewMaintenanceClient(e.conn).Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_GET})
		for _, a := range answer.GetAlarms() {
			out = append(out, Alarm{MemberID: a.MemberID, Type: a.Alarm.String()})
		}
		return err
	})
	return out, err
}

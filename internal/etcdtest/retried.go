package etcdtest

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Retried does a request again as long as the answer is that the cluster is not available now - an election, which a
// busy machine can bring about at any time, or a server that has just ended - until ctx ends. A write of
// which no answer came may have been done, so it may be done twice.
func Retried(ctx context.Context, request func() error) error {
	for {
		err := request()
		if err == nil || !Unavailable(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// patience is how long the helpers of tests ask, on a machine that does much else.
const patience = 2 * time.Minute

// answered is [Retried] for a request with an answer.
func answered[T any](ctx context.Context, request func() (T, error)) (answer T, err error) {
	err = Retried(ctx, func() (err error) {
		answer, err = request()
		return err
	})
	return answer, err
}

// Unavailable says whether the cluster could not answer now, but may when asked again.
func Unavailable(err error) bool {
	var answer rpctypes.EtcdError
	if errors.As(err, &answer) {
		return answer.Code() == codes.Unavailable
	}
	return status.Code(err) == codes.Unavailable
}

package backup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/storage/catalog"
)

// How long a follower may take to reach the revision of the backup, how often it is asked, and how long it may hash: at some 1.3 s
// per GB, the largest databases that etcd supports take a fraction of that.
const (
	proveWait  = 10 * time.Second
	proveEvery = 250 * time.Millisecond
	proveLimit = 5 * time.Minute
)

// Prove compares the hash computed from a database file with the one that a follower of the running cluster gives at the same
// revision. Members are those that [cluster.Choose] found usable; a leader is never asked, because answering stalls
// its writes, and taken, the member that the file came from, only when there is no other follower.
//
// The proof says equal, or why the two cannot be compared, which is no error. A difference is [ErrVerify].
func Prove(ctx context.Context, client *cluster.Client, members []cluster.MemberStatus, taken cluster.MemberStatus, file dbfile.HashKV) (catalog.Proof, error) {
	proof := catalog.Proof{Name: proofLive}
	asked, ok := witness(members, taken)
	if !ok {
		proof.Detail = "not comparable: the cluster has no follower that could be asked, and hashing would stall the writes of its leader"
		return proof, nil
	}
	proof.Where = "member " + asked.Label()
	asking, cancel := context.WithTimeout(ctx, proveLimit)
	defer cancel()
	hash, err := hashAt(asking, client, asked.Endpoint, file.Revision)
	switch {
	case errors.Is(err, cluster.ErrCompacted):
		proof.Detail = fmt.Sprintf("not comparable: %s has compacted revision %d since", asked.Label(), file.Revision)
		return proof, nil
	case errors.Is(err, cluster.ErrFutureRevision):
		proof.Detail = fmt.Sprintf("not comparable: %s did not reach revision %d within %v", asked.Label(), file.Revision, proveWait)
		return proof, nil
	case err != nil && ctx.Err() != nil:
		return proof, err
	case err != nil:
		proof.Detail = fmt.Sprintf("not comparable: %v", err)
		return proof, nil
	}
	outcome, why := cluster.Hash(file).Compare(hash)
	proof.Detail = fmt.Sprintf("%v: %s", outcome, why)
	switch outcome {
	case cluster.Equal:
		proof.OK = true
	case cluster.Different:
		return proof, fmt.Errorf("%w: the database of %s and that of %s have different contents at revision %d: %s; one of the two members is corrupt, so nothing was stored (try: etcdctl endpoint hashkv --cluster --rev %d)",
			ErrVerify, taken.Label(), asked.Label(), file.Revision, why, file.Revision)
	}
	return proof, nil
}

// witness chooses the follower to be asked.
func witness(members []cluster.MemberStatus, taken cluster.MemberStatus) (best cluster.MemberStatus, ok bool) {
	for _, m := range members {
		if m.IsLeader() {
			continue
		}
		if !ok || best.MemberID == taken.MemberID {
			best, ok = m, true
		}
	}
	return best, ok
}

// hashAt asks for the hash until the member has reached the revision.
func hashAt(ctx context.Context, client *cluster.Client, endpoint string, revision int64) (cluster.Hash, error) {
	deadline := time.Now().Add(proveWait)
	for {
		hash, err := client.HashKV(ctx, endpoint, revision)
		if !errors.Is(err, cluster.ErrFutureRevision) || time.Now().After(deadline) {
			return hash, err
		}
		select {
		case <-ctx.Done():
			return hash, context.Cause(ctx)
		case <-time.After(proveEvery):
		}
	}
}

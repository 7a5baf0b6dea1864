package schedules

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// A candidacy is one lease's key in an election. Of all keys in the folder the one that was created first leads, as with [go.etcd.io/etcd/client/v3/concurrency.Election],
// with which candidates can share a folder. That one leaves its key in the folder when a campaign is cancelled while the key is being put, and forgets it when a resignation
// fails; either way nobody else is elected while the lease lives.
type candidacy struct {
	client *clientv3.Client
	lease  clientv3.LeaseID
	id     string
	folder string // with a slash at its end
}

func (c candidacy) key() string { return fmt.Sprintf("%s%x", c.folder, c.lease) }

// elected puts the key and returns nil when it is the oldest in the folder. It does not wait any more when waiting ends; the key is put all the same, until asking ends.
func (c candidacy) elected(waiting, asking context.Context) error {
	key := c.key()
	put, err := c.client.Txn(asking).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, c.id, clientv3.WithLease(c.lease))).Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return err
	}
	since := put.Header.Revision
	if !put.Succeeded {
		since = put.Responses[0].GetResponseRange().Kvs[0].CreateRevision
	}
	for {
		before, err := c.client.Get(waiting, c.folder, append(clientv3.WithLastCreate(), clientv3.WithMaxCreateRev(since-1))...)
		if err != nil {
			return err
		}
		if len(before.Kvs) == 0 {
			return nil
		}
		if err := c.deleted(waiting, string(before.Kvs[0].Key), before.Header.Revision+1); err != nil {
			return err
		}
	}
}

// deleted waits until the key is, as seen from the revision on.
func (c candidacy) deleted(ctx context.Context, key string, revision int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for r := range c.client.Watch(ctx, key, clientv3.WithRev(revision), clientv3.WithFilterPut()) {
		if err := r.Err(); err != nil {
			return err
		}
		if len(r.Events) > 0 {
			return nil
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("waiting for %s to be deleted: the watch ended", key)
}

// withdraw removes the key, and tries until that is answered or ctx ends.
func (c candidacy) withdraw(ctx context.Context) error {
	for {
		_, err := c.client.Delete(ctx, c.key())
		if err == nil || ctx.Err() != nil {
			return err
		}
		sleep(ctx, nil, 200*time.Millisecond)
	}
}

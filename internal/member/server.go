package member

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"
)

// Serve runs an etcd server in this process until ctx ends, then stops it in order and returns nil. It returns an error when the
// server does not start or ends by itself; on some errors etcd ends the process, after writing them to its log.
func Serve(ctx context.Context, o Options) error {
	o, err := o.withDefaults()
	if err != nil {
		return err
	}
	e, err := open(o)
	if err == nil {
		defer e.Close()
		err = ready(ctx, e)
	}
	if err != nil {
		return fmt.Errorf("start etcd member %s: %w", o.Name, err)
	}
	return wait(ctx, e, o)
}

// open starts a server, which has read its database when open returns. Whoever starts it closes it.
func open(o Options) (*embed.Etcd, error) {
	c, err := o.config()
	if err != nil {
		return nil, err
	}
	return embed.StartEtcd(c)
}

// ready returns when the server serves.
func ready(ctx context.Context, e *embed.Etcd) error {
	select {
	case <-e.Server.ReadyNotify():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-e.Server.StopNotify():
		return errors.New("it stopped by itself")
	case err := <-e.Err():
		return err
	}
}

// wait returns when the server ends or ctx does, the latter without an error.
func wait(ctx context.Context, e *embed.Etcd, o Options) error {
	var err error
	select {
	case <-ctx.Done():
		return nil
	case <-e.Server.StopNotify():
		err = errors.New("it stopped by itself")
	case err = <-e.Err():
	}
	return fmt.Errorf("etcd member %s: %w", o.Name, err)
}

// Hash is an answer to HashKV.
type Hash struct {
	Hash            uint32
	CompactRevision int64
	Revision        int64
}

// Served is what a server makes of the database that it was started on.
type Served struct {
	Hash    Hash
	Current int64 // revision
	Keys    int64 // live at Hash.Revision
	Leases  []int64
}

// look answers what the server would, without asking for credentials. Revision 0 is the current one.
func look(ctx context.Context, e *embed.Etcd, revision int64) (Served, error) {
	kv := e.Server.KV()
	h, current, err := kv.HashStorage().HashByRev(revision)
	if err != nil {
		return Served{}, fmt.Errorf("hash at revision %d: %w", revision, err)
	}
	s := Served{Hash: Hash{Hash: h.Hash, CompactRevision: h.CompactRevision, Revision: h.Revision}, Current: current}
	r, err := kv.Range(ctx, []byte{0}, []byte{}, mvcc.RangeOptions{Rev: h.Revision, CountOnly: true})
	if err != nil {
		return Served{}, fmt.Errorf("count keys at revision %d: %w", h.Revision, err)
	}
	s.Keys = int64(r.Count)
	tx := e.Server.Backend().ReadTx() // LeaseLeases would ask for credentials
	tx.RLock()
	defer tx.RUnlock()
	for _, l := range schema.MustUnsafeGetAllLeases(tx) {
		s.Leases = append(s.Leases, l.ID)
	}
	return s, nil
}

// Package agentstest holds the two sides that an agent is tested between: the
// key space of a backup, and a restored cluster, both in memory.
package agentstest

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/requorum/requorum/agents"
)

var (
	_ agents.Reader = (*Backup)(nil)
	_ agents.Live   = (*Cluster)(nil)
)

// Backup is an [agents.Reader] in memory.
type Backup struct {
	keys   map[string]*mvccpb.KeyValue
	leases map[int64]int64
	rev    int64
}

// NewBackup returns an empty key space.
func NewBackup() *Backup {
	return &Backup{keys: map[string]*mvccpb.KeyValue{}, leases: map[int64]int64{}}
}

// Grant adds a lease with a granted TTL in seconds.
func (b *Backup) Grant(lease, ttl int64) *Backup {
	b.leases[lease] = ttl
	return b
}

// Put writes a key under a lease, 0 for none. The lease need not exist.
func (b *Backup) Put(key, value string, lease int64) *Backup {
	b.rev++
	b.keys[key] = &mvccpb.KeyValue{
		Key: []byte(key), Value: []byte(value), Lease: lease,
		CreateRevision: b.rev, ModRevision: b.rev, Version: 1,
	}
	return b
}

// Keys implements [agents.Reader].
func (b *Backup) Keys(prefix string) iter.Seq[*mvccpb.KeyValue] {
	return func(yield func(*mvccpb.KeyValue) bool) {
		for _, k := range sorted(b.keys, prefix) {
			if !yield(k) {
				return
			}
		}
	}
}

// Lease implements [agents.Reader].
func (b *Backup) Lease(id int64) (int64, bool) {
	ttl, ok := b.leases[id]
	return ttl, ok
}

// Revision implements [agents.Reader].
func (b *Backup) Revision() int64 { return b.rev }

// Cluster is an [agents.Live] in memory. Its leases run on time.Now, so it
// works in a testing/synctest bubble. It is safe for concurrent use.
type Cluster struct {
	mu     sync.Mutex
	keys   map[string]*mvccpb.KeyValue
	leases map[int64]*lease
	next   int64
	rev    int64
	err    error
}

type lease struct {
	granted time.Duration
	end     time.Time
}

// NewCluster opens the cluster at a revision.
func NewCluster(revision int64) *Cluster {
	return &Cluster{keys: map[string]*mvccpb.KeyValue{}, leases: map[int64]*lease{}, next: 1 << 40, rev: revision}
}

// Restore puts a key as it was restored: created at a revision of the past.
func (c *Cluster) Restore(key, value string, created, lease int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keys[key] = &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value), Lease: lease, CreateRevision: created, ModRevision: created, Version: 1}
}

// Grant makes a lease; 0 takes a new id.
func (c *Cluster) Grant(id int64, ttl time.Duration) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id == 0 {
		c.next++
		id = c.next
	}
	c.leases[id] = &lease{granted: ttl, end: time.Now().Add(ttl)}
	return id
}

// KeepAlive renews a lease. A lease that has ended stays ended.
func (c *Cluster) KeepAlive(id int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expire()
	if l, ok := c.leases[id]; ok {
		l.end = time.Now().Add(l.granted)
	}
}

// Put writes a key as a client would.
func (c *Cluster) Put(key, value string, lease int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expire()
	c.rev++
	k := &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value), Lease: lease, CreateRevision: c.rev, ModRevision: c.rev, Version: 1}
	if old, ok := c.keys[key]; ok {
		k.CreateRevision, k.Version = old.CreateRevision, old.Version+1
	}
	c.keys[key] = k
}

// Delete removes a key.
func (c *Cluster) Delete(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.keys, key)
}

// Fail lets every request end with err until it is called with nil.
func (c *Cluster) Fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

// Get implements [agents.Live].
func (c *Cluster) Get(ctx context.Context, prefix string) ([]*mvccpb.KeyValue, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.answer(ctx); err != nil {
		return nil, err
	}
	return sorted(c.keys, prefix), nil
}

// TimeToLive implements [agents.Live].
func (c *Cluster) TimeToLive(ctx context.Context, id int64) (int64, int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.answer(ctx); err != nil {
		return 0, 0, err
	}
	l, ok := c.leases[id]
	if !ok {
		return -1, 0, nil
	}
	return int64(time.Until(l.end) / time.Second), int64(l.granted / time.Second), nil
}

// Change is an [agents.Restored].Change.
func (c *Cluster) Change(ctx context.Context, changes ...agents.Change) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.answer(ctx); err != nil {
		return false, err
	}
	for _, ch := range changes {
		var rev int64
		if k, ok := c.keys[ch.Key]; ok {
			rev = k.ModRevision
		}
		if rev != ch.ModRevision {
			return false, nil
		}
	}
	c.rev++
	for _, ch := range changes {
		if ch.Value == nil {
			delete(c.keys, ch.Key)
			continue
		}
		k := &mvccpb.KeyValue{Key: []byte(ch.Key), Value: ch.Value, CreateRevision: c.rev, ModRevision: c.rev, Version: 1}
		if old, ok := c.keys[ch.Key]; ok {
			k.CreateRevision, k.Version = old.CreateRevision, old.Version+1
		}
		c.keys[ch.Key] = k
	}
	return true, nil
}

func (c *Cluster) answer(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.err != nil {
		return fmt.Errorf("test cluster: %w", c.err)
	}
	c.expire()
	return nil
}

// expire takes ended leases and their keys away, as the server does.
func (c *Cluster) expire() {
	for id, l := range c.leases {
		if time.Now().Before(l.end) {
			continue
		}
		delete(c.leases, id)
		for key, k := range c.keys {
			if k.Lease == id {
				delete(c.keys, key)
			}
		}
	}
}

func sorted(keys map[string]*mvccpb.KeyValue, prefix string) []*mvccpb.KeyValue {
	var out []*mvccpb.KeyValue
	for key, k := range keys {
		if strings.HasPrefix(key, prefix) {
			out = append(out, k)
		}
	}
	slices.SortFunc(out, func(a, b *mvccpb.KeyValue) int { return strings.Compare(string(a.Key), string(b.Key)) })
	return out
}

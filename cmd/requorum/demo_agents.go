package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
)

// The keys of the demo's agents, laid out as Patroni lays out a scope.
const (
	demoScope   = "/demo/"
	demoLeader  = demoScope + "leader"
	demoMembers = demoScope + "members/"
	demoData    = "/app/data/"
)

const (
	demoTTL   = 4 // seconds, of the agents' leases
	demoLoop  = 150 * time.Millisecond
	demoGrace = 5 * time.Second // how long followers leave a free leader key to its last owner: longer than a few calls of his that come to nothing
	demoCall  = time.Second
	demoLook  = 5 * time.Second      // the longest that one look at the cluster may take
	demoPause = 2 * time.Millisecond // between two writes: load, not a benchmark
)

// demoAgent is a small high-availability agent: it keeps a member key under a
// lease of its own and takes the leader key when that is free. Like Patroni it
// knows the owner of the leader key by name alone: an agent that finds its own
// name there leads, whatever it has missed meanwhile.
type demoAgent struct {
	name   string
	client *clientv3.Client

	leads   atomic.Bool // it leads, or was the last to lead that it knows of
	abstain atomic.Bool // it gives the leader key up and does not take it again
	lease   clientv3.LeaseID
	free    time.Time // since when the leader key was seen free
}

// run lives until the context ends. Errors are what an agent meets while etcd
// is away; it tries again for as long as it lives.
func (a *demoAgent) run(ctx context.Context) error {
	for {
		step, cancel := context.WithTimeout(ctx, demoCall)
		if a.step(step) != nil {
			a.free = time.Time{} // what was seen before etcd was away says nothing
		}
		cancel()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(demoLoop):
		}
	}
}

func (a *demoAgent) step(ctx context.Context) error {
	if err := a.register(ctx); err != nil {
		return err
	}
	got, err := a.client.Get(ctx, demoLeader)
	if err != nil {
		return err
	}
	if len(got.Kvs) > 0 {
		a.free = time.Time{}
		mine := string(got.Kvs[0].Value) == a.name
		a.leads.Store(mine)
		if mine && a.abstain.Load() {
			_, err = a.client.Delete(ctx, demoLeader)
			a.leads.Store(false)
		}
		return err
	}
	if a.free.IsZero() {
		a.free = time.Now()
	}
	if a.abstain.Load() || (!a.leads.Load() && time.Since(a.free) < demoGrace+rand.N(demoLoop)) {
		return nil
	}
	won, err := a.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(demoLeader), "=", 0)).
		Then(clientv3.OpPut(demoLeader, a.name, clientv3.WithLease(a.lease))).Commit()
	if err != nil {
		return err
	}
	a.leads.Store(won.Succeeded)
	return nil
}

// register keeps the lease alive and the member key under it.
func (a *demoAgent) register(ctx context.Context) error {
	if a.lease != 0 {
		if alive, err := a.client.KeepAliveOnce(ctx, a.lease); err == nil && alive.TTL > 0 {
			return nil
		} else if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	granted, err := a.client.Grant(ctx, demoTTL)
	if err != nil {
		return err
	}
	if _, err := a.client.Put(ctx, demoMembers+a.name, `{"state":"running"}`, clientv3.WithLease(granted.ID)); err != nil {
		return err
	}
	a.lease = granted.ID
	a.free = time.Time{} // seen while the lost lease lived: a client may wait out the whole disaster in one call, without an error
	return nil
}

// demoLoad writes while the demo runs and remembers what etcd acknowledged.
type demoLoad struct {
	client *clientv3.Client
	value  string

	mu    sync.Mutex
	acked []demoWrite
}

// demoWrite is one acknowledged write: key, value and the revision it got.
type demoWrite struct {
	key, value string
	revision   int64
}

func (l *demoLoad) run(ctx context.Context) error {
	for i := 0; ctx.Err() == nil; i++ {
		w := demoWrite{key: fmt.Sprintf("%s%06d", demoData, i), value: fmt.Sprintf(`{"order":%d,%s}`, i, l.value)}
		put, cancel := context.WithTimeout(ctx, demoCall)
		resp, err := l.client.Put(put, w.key, w.value)
		cancel()
		if err != nil { // etcd is away, or the demo ends
			select {
			case <-ctx.Done():
			case <-time.After(demoLoop):
			}
			continue
		}
		w.revision = resp.Header.Revision
		l.mu.Lock()
		l.acked = append(l.acked, w)
		l.mu.Unlock()
		time.Sleep(demoPause)
	}
	return nil
}

// upTo returns the writes that were acknowledged at or below a revision, and how many came after it.
func (l *demoLoad) upTo(revision int64) (held []demoWrite, after int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.acked {
		if w.revision <= revision {
			held = append(held, w)
		} else {
			after++
		}
	}
	return held, after
}

func (l *demoLoad) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked)
}

// demoTeam is all agents of the demo.
type demoTeam struct {
	client *clientv3.Client
	agents []*demoAgent
	group  errgroup.Group
	stop   func() // ends the agents and waits for them
	run    func(a *demoAgent)
}

func newTeam(ctx context.Context, client *clientv3.Client) *demoTeam {
	ctx, cancel := context.WithCancel(ctx)
	t := &demoTeam{client: client}
	t.run = func(a *demoAgent) { t.group.Go(func() error { return a.run(ctx) }) }
	t.stop = func() {
		cancel()
		_ = t.group.Wait() // agents return no errors
	}
	return t
}

func (t *demoTeam) add(name string) {
	a := &demoAgent{name: name, client: t.client}
	t.agents = append(t.agents, a)
	t.run(a)
}

func (t *demoTeam) agent(name string) *demoAgent {
	for _, a := range t.agents {
		if a.name == name {
			return a
		}
	}
	return nil
}

// demoOwner is the owner of the leader key as etcd has it, "" for none.
func demoOwner(ctx context.Context, client *clientv3.Client) (string, error) {
	got, err := client.Get(ctx, demoLeader)
	if err != nil || len(got.Kvs) == 0 {
		return "", err
	}
	return string(got.Kvs[0].Value), nil
}

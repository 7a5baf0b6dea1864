package patroni

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/requorum/requorum/agents"
)

// sample is one look at etcd and at every agent.
type sample struct {
	at      time.Time
	scope   *scope // as it is in etcd
	answers []answer
	locks   []lock            // as answers
	names   map[string]answer // by member name, those that could be told and answered
}

// lock is what an agent says about the leader lock.
type lock struct {
	holds bool
	err   error
}

// look takes a sample. An error means that etcd did not answer; agents that do
// not are part of the sample.
func (a *Scope) look(ctx context.Context, live agents.Live) (*sample, error) {
	etcd, cancel := context.WithTimeout(ctx, 3*askTimeout) // a member may hang before another answers
	defer cancel()
	kvs, err := live.Get(etcd, a.dir)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", a.dir, err)
	}
	s := &sample{scope: newScope(a.dir)}
	for _, k := range kvs {
		s.scope.add(k)
	}
	s.answers = a.ask(ctx)
	s.locks = a.askLocks(ctx, s.scope.config.standby())
	s.at = time.Now()
	s.names = map[string]answer{}
	for _, w := range s.answers {
		if w.err != nil {
			continue
		}
		if name := s.scope.nameOf(ctx, w); name != "" {
			s.names[name] = w
		}
	}
	return s, nil
}

// askLocks asks every agent whether it holds the leader lock. /primary says
// no more than that; of a standby cluster the leader answers elsewhere.
func (a *Scope) askLocks(ctx context.Context, standby bool) []lock {
	path := "/primary"
	if standby {
		path = "/standby-leader"
	}
	locks := make([]lock, len(a.rest))
	var wait sync.WaitGroup
	for i, e := range a.rest {
		wait.Go(func() { locks[i].holds, locks[i].err = a.client.holds(ctx, e, path) })
	}
	wait.Wait()
	return locks
}

// nameOf tells which member an agent is: by its own word, else by the address
// that the member registered, "" if neither says.
func (s *scope) nameOf(ctx context.Context, w answer) string {
	if w.Patroni.Name != "" {
		return w.Patroni.Name
	}
	registered := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(s.members)) {
		m, _ := parseMember(s.members[name].Value)
		if u, err := url.Parse(m.APIURL); err == nil && u.Host != "" {
			registered[name] = u.Host
		}
	}
	for name, host := range registered {
		if host == w.host {
			return name
		}
	}
	for _, name := range slices.Sorted(maps.Keys(registered)) {
		if sameAddress(ctx, registered[name], w.host) {
			return name
		}
	}
	return ""
}

// sameAddress says whether two host:port name one place.
func sameAddress(ctx context.Context, a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || portA != portB {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	ipsA, errA := net.DefaultResolver.LookupHost(ctx, hostA)
	ipsB, errB := net.DefaultResolver.LookupHost(ctx, hostB)
	return errA == nil && errB == nil && slices.ContainsFunc(ipsA, func(ip string) bool { return slices.Contains(ipsB, ip) })
}

// who names an agent for a person, also one that is not registered but was in the
// backup.
func (p *proof) who(s *sample, w answer) string {
	if name := s.who(w); name != w.base || p.done.Backup == nil {
		return name
	}
	return readScope(p.done.Backup, p.dir).called(w.base)
}

// who names an agent for a person.
func (s *sample) who(w answer) string {
	for name, other := range s.names {
		if other.base == w.base {
			return name
		}
	}
	return w.base
}

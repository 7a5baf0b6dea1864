package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/requorum/requorum/agents"
)

const (
	// lookTimeout bounds one look at the cluster, so that members that hang cost
	// one look and not the whole deadline.
	lookTimeout = 15 * time.Second
	// patience is how long objects that cannot be read are waited for, when all else is
	// proven: whether anybody held them is not known.
	patience = time.Minute
)

// Verify polls until, since the cluster opened, every API server of the backup
// has registered anew and renewed that, and every lease that was being renewed
// in the backup has been renewed by a holder - of nodes the configured share. A
// lease that was deleted since is nobody's any more; one that was released is not
// renewed. That makes RECONNECTED. What is missing at the deadline of ctx is named:
// NOT BACK. Where Lease objects cannot be read the verdict is UNKNOWN once all
// else is proven.
//
// Without a restore (a Revision of 0) those are expected that a first look
// finds, and at the deadline a lease that is not due yet counts as renewed.
func (a *Agent) Verify(ctx context.Context, base agents.Baseline, done agents.Restored) (agents.Verdict, error) {
	p := &proof{Agent: a, done: done, began: time.Now(), first: map[string]float64{}}
	switch {
	case len(base.Data) > 0:
		p.want = &expected{}
		if err := json.Unmarshal(base.Data, p.want); err != nil {
			return agents.Verdict{}, fmt.Errorf("read what the gate remembered of %s: %w", a.leases, err)
		}
	case done.Backup != nil:
		e := a.read(done.Backup.Keys).expected()
		p.want = &e
	}
	tick := time.NewTicker(a.poll)
	defer tick.Stop()
	for {
		p.look(ctx)
		v, settled := p.verdict(false)
		if done.Tell != nil {
			done.Tell(v)
		}
		if settled {
			return v, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
		if err := ctx.Err(); errors.Is(err, context.DeadlineExceeded) {
			v, _ := p.verdict(true)
			return v, nil
		} else if err != nil {
			return agents.Verdict{}, err
		}
	}
}

// proof is the state of one Verify.
type proof struct {
	*Agent
	done    agents.Restored
	began   time.Time
	want    *expected          // nil before the first look, if only that can tell
	now     *state             // the last look; nil before the first
	first   map[string]float64 // when a check became true, for as long as it stays so
	trouble error              // the last look's
}

// look takes a state. One that fails leaves the last; one that the deadline
// cut off says nothing about etcd.
func (p *proof) look(deadline context.Context) {
	ctx, cancel := context.WithTimeout(deadline, lookTimeout)
	defer cancel()
	s := state{servers: map[string]*mvccpb.KeyValue{}, leases: map[string]lease{}}
	servers, err := p.done.Live.Get(ctx, p.servers)
	if err == nil {
		var leases []*mvccpb.KeyValue
		leases, err = p.done.Live.Get(ctx, p.leases)
		for _, k := range leases {
			l := p.lease(k)
			s.leases[l.name] = l
		}
	}
	if err != nil {
		if p.now == nil || deadline.Err() == nil {
			p.trouble = fmt.Errorf("get %s and %s: %w", p.servers, p.leases, err)
		}
		return
	}
	for _, k := range servers {
		s.servers[strings.TrimPrefix(string(k.Key), p.servers)] = k
	}
	if p.want == nil {
		e := s.expected()
		p.want = &e
	}
	p.now, p.trouble = &s, nil
}

// verdict judges the last look. settled says that waiting on would change
// nothing.
func (p *proof) verdict(last bool) (v agents.Verdict, settled bool) {
	v = agents.Verdict{Verdict: agents.Reconnected, OK: true}
	if p.now == nil {
		v.Verdict, v.OK = agents.NotBack, false
		v.Checks = []agents.Check{{Name: "etcd answers", Detail: p.trouble.Error()}}
		return v, false
	}
	leases, nodes, unread := p.judge(last)
	v.Checks = slices.Concat(p.checkServers(), leases.check("leases renewed", 1), nodes.check("node heartbeats renewed", p.nodes))
	for i := range v.Checks {
		c := &v.Checks[i]
		v.OK = v.OK && c.OK
		if c.OK {
			if _, since := p.first[c.Name]; !since {
				p.first[c.Name] = time.Since(p.done.HealthyAt).Seconds()
			}
			c.Seconds = p.first[c.Name]
		} else {
			delete(p.first, c.Name)
		}
	}
	switch {
	case !v.OK:
		v.Verdict = agents.NotBack
	case unread.count > 0:
		v.Verdict = agents.Unknown
	case len(v.Checks) == 0:
		v.Verdict = agents.Unknown
		v.Checks = []agents.Check{{Name: "registrations", Detail: fmt.Sprintf("nobody was registered under %s or renewed a lease under %s, so nobody was waited for", p.servers, p.leases)}}
	}
	settled = v.OK && (unread.written == unread.count || time.Since(p.began) >= patience)
	if unread.count > 0 {
		v.Checks = append(v.Checks, unread.check())
	}
	if p.trouble != nil && !v.OK {
		v.Checks = append(v.Checks, agents.Check{Name: "etcd answers", Detail: p.trouble.Error()})
	}
	return v, settled
}

// checkServers checks that as many API servers are registered as there were, and
// names those that are not.
func (p *proof) checkServers() []agents.Check {
	want := len(p.want.Servers)
	if want == 0 {
		return nil
	}
	var back, not []string
	for _, address := range slices.Sorted(maps.Keys(p.now.servers)) {
		k := p.now.servers[address]
		was := p.want.Servers[address]
		switch why, anew := p.done.Anew(k); {
		case !anew:
			not = append(not, fmt.Sprintf("%s (%s)", address, why))
		case k.ModRevision <= max(was, k.CreateRevision):
			not = append(not, fmt.Sprintf("%s (registered, and not yet seen renewing that)", address))
		default:
			back = append(back, address)
		}
	}
	for _, address := range slices.Sorted(maps.Keys(p.want.Servers)) {
		if p.now.servers[address] == nil {
			not = append(not, address+" (absent)")
		}
	}
	c := agents.Check{Name: "API servers registered anew", OK: len(back) >= want}
	c.Detail = tally(len(back), want, back, not)
	return []agents.Check{c}
}

// judge sorts the expected leases by what became of them.
func (p *proof) judge(last bool) (leases, nodes holders, unread unreadable) {
	newest, someone := p.now.newest(), p.anyRenewed()
	for _, name := range slices.Sorted(maps.Keys(p.want.Leases)) {
		was := p.want.Leases[name]
		now, there := p.now.leases[name]
		of := &leases
		if (lease{name: name}).node() {
			of = &nodes
		}
		switch {
		case !there:
			of.gone = append(of.gone, name)
		case now.err != nil || was.Unread != "":
			unread.add(name, now, p.written(was, now))
		case p.renewed(was, now):
			of.back = append(of.back, now.by())
		case last && p.done.Revision == 0 && someone && now.held() && now.Renewed.Add(time.Duration(now.Seconds)*time.Second).After(newest):
			of.back = append(of.back, now.by()+" (not due yet)")
		case now.Holder == "":
			of.not = append(of.not, fmt.Sprintf("%s (released, nobody holds it)", name))
		default:
			of.not = append(of.not, fmt.Sprintf("%s (last held by %s)", name, was.Holder))
		}
	}
	return leases, nodes, unread
}

// written says whether a lease was written since the cluster opened, or since
// it was first looked at.
func (p *proof) written(was known, now lease) bool { return now.mod > max(p.done.Revision, was.Mod) }

// renewed says whether somebody holds the lease and said so since: a write that
// changes neither holder nor time - of a label, say - is none of the holder's.
func (p *proof) renewed(was known, now lease) bool {
	return p.written(was, now) && now.held() && (now.Holder != was.Holder || !now.Renewed.Equal(was.Renewed)) // clocks may be set back
}

func (p *proof) anyRenewed() bool {
	for name, was := range p.want.Leases {
		if now, there := p.now.leases[name]; there && was.Unread == "" && p.renewed(was, now) {
			return true
		}
	}
	return false
}

// by names a lease and its holder.
func (l lease) by() string {
	if l.node() {
		return l.Holder
	}
	return l.name + " by " + l.Holder
}

// holders is what became of the leases of one kind.
type holders struct{ back, not, gone []string }

// check is nil when none of them was expected.
func (h holders) check(name string, share float64) []agents.Check {
	want := len(h.back) + len(h.not)
	if want+len(h.gone) == 0 {
		return nil
	}
	enough := int(math.Ceil(share*float64(want) - 1e-9))
	c := agents.Check{Name: name, OK: len(h.back) >= enough, Detail: tally(len(h.back), want, h.back, h.not)}
	if enough < want {
		c.Detail += fmt.Sprintf("; %d are enough", enough)
	}
	if len(h.gone) > 0 {
		c.Detail += "; deleted since: " + listed(h.gone)
	}
	return []agents.Check{c}
}

// unreadable are leases that cannot be read.
type unreadable struct {
	count, written int
	why, silent    []string
}

func (u *unreadable) add(name string, now lease, written bool) {
	u.count++
	if now.err != nil && !slices.Contains(u.why, now.err.Error()) {
		u.why = append(u.why, now.err.Error())
	}
	if written {
		u.written++
	} else {
		u.silent = append(u.silent, name)
	}
}

func (u unreadable) check() agents.Check {
	c := agents.Check{Name: "leases that cannot be read", Detail: fmt.Sprintf("%d of %d written since; by whom, and whether the others had a holder, is unknown", u.written, u.count)}
	if len(u.why) > 0 {
		c.Detail += ": " + listed(u.why)
	}
	if len(u.silent) > 0 {
		c.Detail += "; not written: " + listed(u.silent)
	}
	return c
}

// tally says how many of how many are back, and which are not.
func tally(n, want int, back, not []string) string {
	text := fmt.Sprintf("%d of %d", n, want)
	if len(back) > 0 {
		text += ": " + listed(back)
	}
	if len(not) > 0 {
		text += "; not: " + listed(not)
	}
	return text
}

// listed writes the first few of names.
func listed(names []string) string {
	const few = 10
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
}

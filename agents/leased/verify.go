package leased

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/requorum/requorum/agents"
)

// lookTimeout bounds one look at the cluster, so that members that hang cost
// one look and not the whole deadline.
const lookTimeout = 15 * time.Second

// Verify polls until the expected keys are registered anew and their leases
// are renewed, or until the deadline of ctx: a context without one must be
// cancelled by someone. Leases are renewed after a third of their TTL as a
// rule, so the deadline should exceed that.
func (a *Agent) Verify(ctx context.Context, _ agents.Baseline, done agents.Restored) (agents.Verdict, error) {
	p := &proof{Agent: a, done: done, renewals: agents.NewRenewals(done.Live), first: map[string]float64{}}
	if done.Backup != nil {
		p.before = leasedKeys(done.Backup, a.opt.Prefix)
	}
	if a.opt.Count == 0 && len(a.opt.Expect) == 0 {
		return p.report(ctx)
	}
	tick := time.NewTicker(a.opt.Poll)
	defer tick.Stop()
	for {
		p.look(ctx)
		v := p.verdict()
		if done.Tell != nil {
			done.Tell(v)
		}
		if v.OK {
			return v, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
		if err := ctx.Err(); errors.Is(err, context.DeadlineExceeded) {
			return p.verdict(), nil
		} else if err != nil {
			return agents.Verdict{}, err
		}
	}
}

// proof is the state of one Verify.
type proof struct {
	*Agent
	done     agents.Restored
	renewals *agents.Renewals
	before   []string           // leased keys of the backup
	first    map[string]float64 // when a key was first proven, seconds since etcd was healthy
	state    map[string]state   // of every key there is that counts
	trouble  error              // the last look's
}

// state is how far one key is proven.
type state struct {
	anew    bool   // registered after the restore
	renewed bool   // and its lease is being renewed
	why     string // what is missing
}

// look takes the state of all keys. A look that fails leaves the last state; one
// that the deadline cut off says nothing about etcd.
func (p *proof) look(deadline context.Context) {
	ctx, cancel := context.WithTimeout(deadline, lookTimeout)
	defer cancel()
	failed := func(err error) {
		if p.state == nil || deadline.Err() == nil {
			p.trouble = err
		}
	}
	kvs, err := p.done.Live.Get(ctx, p.opt.Prefix)
	if err != nil {
		failed(fmt.Errorf("get %s: %w", p.opt.Prefix, err))
		return
	}
	now := make(map[string]state, len(kvs))
	for _, k := range kvs {
		if !p.counts(k) {
			continue
		}
		var s state
		if s.why, s.anew = p.done.Anew(k); s.anew {
			if s.why, s.renewed, err = p.renewals.Look(ctx, k.Lease); err != nil {
				failed(err)
				return
			}
			if !s.renewed {
				s.why = "registered anew, but " + s.why
			}
		}
		key := string(k.Key)
		now[key] = s
		if _, known := p.first[key]; s.renewed && !known {
			p.first[key] = time.Since(p.done.HealthyAt).Seconds()
		}
	}
	p.state, p.trouble = now, nil
}

// counts says whether k can be one of the expected keys.
func (p *proof) counts(k *mvccpb.KeyValue) bool {
	if len(p.opt.Expect) > 0 {
		return slices.Contains(p.opt.Expect, string(k.Key))
	}
	return k.Lease != 0
}

// verdict judges the last look.
func (p *proof) verdict() agents.Verdict {
	v := agents.Verdict{Verdict: agents.Reconnected, OK: true}
	if p.opt.Count > 0 {
		v.Checks = []agents.Check{p.counted()}
	}
	for _, key := range p.opt.Expect {
		v.Checks = append(v.Checks, p.expected(key))
	}
	for _, c := range v.Checks {
		if !c.OK {
			v.OK, v.Verdict = false, agents.NotBack
		}
	}
	if p.trouble != nil && !v.OK {
		v.Checks = append(v.Checks, agents.Check{Name: "etcd answers", Detail: p.trouble.Error()})
	}
	return v
}

func (p *proof) expected(key string) agents.Check {
	s, there := p.state[key]
	switch {
	case !there:
		return agents.Check{Name: key, Detail: "absent"}
	case !s.renewed:
		return agents.Check{Name: key, Detail: s.why}
	}
	return agents.Check{Name: key, OK: true, Detail: "registered anew, lease renewed", Seconds: p.first[key]}
}

// counted checks that enough keys are registered, and names those of the
// backup that are not.
func (p *proof) counted() agents.Check {
	var back, not []string
	var times []float64
	for _, key := range slices.Sorted(maps.Keys(p.state)) {
		if s := p.state[key]; s.renewed {
			back = append(back, key)
			times = append(times, p.first[key])
		} else {
			not = append(not, fmt.Sprintf("%s (%s)", key, s.why))
		}
	}
	for _, key := range p.before {
		if _, there := p.state[key]; !there {
			not = append(not, key+" (absent)")
		}
	}
	c := agents.Check{Name: "registered anew", OK: len(back) >= p.opt.Count}
	c.Detail = fmt.Sprintf("%d of %d expected under %s", len(back), p.opt.Count, p.opt.Prefix)
	if c.OK {
		slices.Sort(times)
		c.Seconds = times[p.opt.Count-1]
		c.Detail += ": " + listed(back)
		return c
	}
	if len(not) > 0 {
		c.Detail += "; not back: " + listed(not)
	}
	return c
}

// report takes one look and expects nothing.
func (p *proof) report(ctx context.Context) (agents.Verdict, error) {
	p.look(ctx)
	if err := ctx.Err(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return agents.Verdict{}, err
	}
	anew, backup := 0, ""
	for _, s := range p.state {
		if s.anew {
			anew++
		}
	}
	if p.done.Backup != nil {
		backup = fmt.Sprintf(", %d were in the backup", len(p.before))
	}
	detail := fmt.Sprintf("%d registered anew so far%s; neither count nor expect is configured, so none was waited for", anew, backup)
	if p.trouble != nil {
		detail = p.trouble.Error()
	}
	return agents.Verdict{Verdict: agents.Unknown, OK: true, Checks: []agents.Check{{
		Name: "reported only", OK: p.trouble == nil, Detail: detail,
	}}}, nil
}

// listed writes the first few of names.
func listed(names []string) string {
	const few = 10
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
}

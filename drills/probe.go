package drills

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/storage/catalog"
)

// Registrar registers as an agent does.
type Registrar interface {
	// Register makes key under a fresh lease of ttl, if it is absent, in one transaction. taken is true when it is there already,
	// and then there is no lease.
	Register(ctx context.Context, key, owner string, ttl time.Duration) (lease int64, taken bool, err error)
	// KeepAlive renews a lease.
	KeepAlive(ctx context.Context, lease int64) error
	// Revoke ends a lease, which removes its keys.
	Revoke(ctx context.Context, lease int64) error
}

// Rehearsed is a configured agent with what its programs do to register, beyond the keys that a backup holds of them.
type Rehearsed struct {
	agents.Configured
	Expect []string              // keys that its programs hold when all is well
	Elects func(key string) bool // says of a key that one of several contenders holds it; nil: none
}

// What probes do at most of one agent, and how long they wait.
const (
	mostKeys    = 20 // registrations that are made
	probeTTL    = time.Minute
	failoverTTL = 2 * time.Second
	probePoll   = 200 * time.Millisecond
	// patience bounds the wait for a lease to end, beyond its TTL: an election among the members extends leases.
	patience = 30 * time.Second
)

// Words of a probe's verdict, beside those of package agents: it was not the agents themselves who registered.
const (
	ProbesRegister = "PROBES REGISTER"
	ProbesFail     = "PROBES FAIL"
)

// A probe stands for one agent in a drill: what the agent decides about the backup is done, but nobody of the running cluster is asked
// anything, and it is the drill itself that registers as the agent's programs would.
type probe struct {
	Rehearsed
	id        string // of the drill
	registrar func() (Registrar, error)

	mu        sync.Mutex
	held      []string // the registrations of the backup, which are removed
	questions []agents.Refusal
}

// Select implements [agents.Selector].
func (p *probe) Select() agents.Select {
	if s, ok := p.Agent.(agents.Selector); ok {
		return s.Select()
	}
	return agents.Select{}
}

// Observe implements [agents.Agent].
func (p *probe) Observe(ctx context.Context, kv agents.Reader) (json.RawMessage, error) {
	return p.Agent.Observe(ctx, kv)
}

// Edits are the agent's own. What it would ask the operator is noted, and answered so that the drill goes on.
func (p *probe) Edits(kv agents.Reader, opt agents.Options) ([]agents.Edit, error) {
	edits, err := p.Agent.Edits(kv, opt)
	questions, err := agents.SplitRefusals(err)
	if err != nil {
		return nil, err
	}
	if len(questions) > 0 {
		opt.PatroniSync = agents.PatroniSyncRemove
		if edits, err = p.Agent.Edits(kv, opt); err != nil {
			if _, err = agents.SplitRefusals(err); err != nil {
				return nil, err
			}
		}
	}
	leased := map[string]bool{}
	for k := range kv.Keys("") {
		if k.Lease != 0 {
			leased[string(k.Key)] = true
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.questions, p.held = questions, nil
	for _, e := range edits {
		if leased[e.Key] && !e.Keep && e.Value == nil {
			p.held = append(p.held, e.Key)
		}
	}
	return edits, nil
}

// Gate asks nobody.
func (p *probe) Gate(context.Context, agents.Known) (agents.Baseline, error) {
	return agents.Baseline{Detail: "not asked: a drill leaves the agents of the running cluster alone"}, nil
}

// keys are those that the agent's programs hold, and which of them is an election's; "" for none.
func (p *probe) keys() (registrations []string, election string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := slices.Clone(p.held)
	for _, key := range p.Expect {
		if !slices.Contains(all, key) {
			all = append(all, key)
		}
	}
	slices.Sort(all)
	for _, key := range all {
		if p.Elects != nil && p.Elects(key) {
			election = key
			break
		}
	}
	if len(all) > mostKeys {
		all = all[:mostKeys]
	}
	if election != "" && !slices.Contains(all, election) {
		all = append(all, election)
	}
	return all, election
}

// contested is the key that two contenders race for: the election's, or any registration.
func (p *probe) contested() string {
	all, election := p.keys()
	if election == "" && len(all) > 0 {
		return all[0]
	}
	return election
}

// Verify registers as the agent's programs would: every key must be free, is taken by one of two contenders, under a lease of its own
// that can be renewed. It leaves nothing behind.
func (p *probe) Verify(ctx context.Context, _ agents.Baseline, done agents.Restored) (agents.Verdict, error) {
	registrations, election := p.keys()
	if len(registrations) == 0 {
		return agents.Verdict{}, nil
	}
	r, err := p.registrar()
	if err != nil {
		return agents.Verdict{}, err
	}
	v := agents.Verdict{Verdict: ProbesRegister, OK: true}
	check := func(name string, ok bool, format string, args ...any) {
		c := agents.Check{Name: name, OK: ok, Detail: fmt.Sprintf(format, args...)}
		if ok {
			c.Seconds = time.Since(done.HealthyAt).Seconds()
		} else {
			v.OK, v.Verdict = false, ProbesFail
		}
		v.Checks = append(v.Checks, c)
		if done.Tell != nil {
			done.Tell(v)
		}
	}

	var ghosts []string
	for _, key := range registrations {
		found, err := done.Live.Get(ctx, key)
		if err != nil {
			return v, err
		}
		if len(found) > 0 && string(found[0].Key) == key {
			ghosts = append(ghosts, key)
		}
	}
	if check("free", len(ghosts) == 0, "%s", freeWords(registrations, ghosts)); len(ghosts) > 0 {
		return v, nil
	}

	var leases []int64
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		for _, lease := range leases {
			_ = r.Revoke(ctx, lease) // the sandbox goes anyway
		}
	}()
	if election != "" {
		winners, lease, err := race(ctx, r, election, p.id)
		if err != nil {
			return v, err
		}
		if lease != 0 {
			leases = append(leases, lease)
		}
		check("taken once", winners == 1, "two contenders raced for %s, %d of them got it", election, winners)
	}
	made := 0
	for _, key := range registrations {
		if key != election {
			lease, taken, err := r.Register(ctx, key, p.id, probeTTL)
			if err != nil {
				return v, err
			}
			if taken {
				check("registers", false, "%s was free and is taken: something else writes to the sandbox", key)
				return v, nil
			}
			leases = append(leases, lease)
		}
		why, anew, err := p.anew(ctx, done, key)
		if err != nil {
			return v, err
		}
		if !anew {
			check("registers", false, "%s: %s", key, why)
			return v, nil
		}
		made++
	}
	check("registers", true, "%d of the agent's keys were registered anew above revision %d, each under a lease of its own", made, done.Revision)
	for _, lease := range leases {
		if err := r.KeepAlive(ctx, lease); err != nil {
			check("renews", false, "lease %016x: %v", lease, err)
			return v, nil
		}
	}
	check("renews", true, "%s renewed", catalog.Count(len(leases), "lease"))
	return v, nil
}

func (p *probe) anew(ctx context.Context, done agents.Restored, key string) (why string, ok bool, err error) {
	found, err := done.Live.Get(ctx, key)
	if err != nil {
		return "", false, err
	}
	if len(found) == 0 || string(found[0].Key) != key {
		return "registered, and not there", false, nil
	}
	why, ok = done.Anew(found[0])
	return why, ok, nil
}

func freeWords(registrations, ghosts []string) string {
	if len(ghosts) > 0 {
		return fmt.Sprintf("%d registrations of the past are there: %s", len(ghosts), strings.Join(ghosts, ", "))
	}
	return fmt.Sprintf("no registration of the past is there; looked for %s", catalog.Count(len(registrations), "key"))
}

// race has two contenders try to take a key at once.
func race(ctx context.Context, r Registrar, key, id string) (winners int, lease int64, err error) {
	var wg sync.WaitGroup
	var leases [2]int64
	var taken [2]bool
	var errs [2]error
	for i := range 2 {
		wg.Go(func() {
			leases[i], taken[i], errs[i] = r.Register(ctx, key, fmt.Sprintf("%s-contender-%d", id, i+1), probeTTL)
		})
	}
	wg.Wait()
	for i := range 2 {
		if errs[i] == nil && !taken[i] {
			winners++
			lease = leases[i]
		}
	}
	return winners, lease, errors.Join(errs[:]...)
}

// failover lets the holder of the contested key die, and waits for the other contender to take it when the lease has ended.
func (p *probe) failover(ctx context.Context, now func() time.Time) (evidence string, took time.Duration, err error) {
	key := p.contested()
	if key == "" {
		return "", 0, nil
	}
	r, err := p.registrar()
	if err != nil {
		return "", 0, err
	}
	begun := now()
	_, taken, err := r.Register(ctx, key, p.id+"-contender-1", failoverTTL)
	switch {
	case err != nil:
		return "", 0, err
	case taken:
		return "", 0, &finding{expected: key + " free", found: "it is held", try: "nothing but the drill should write to a sandbox: see whether its ports were taken over"}
	}
	deadline := begun.Add(failoverTTL + patience)
	for {
		lease, taken, err := r.Register(ctx, key, p.id+"-contender-2", probeTTL)
		if err != nil {
			return "", 0, err
		}
		if !taken {
			took = now().Sub(begun)
			_ = r.Revoke(ctx, lease) // the sandbox goes anyway
			return fmt.Sprintf("%s: %s died holding it, and another contender took it %.1f s later (its lease was of %s)", p.Name, key, took.Seconds(), failoverTTL), took, nil
		}
		if now().After(deadline) {
			return "", 0, &finding{expected: fmt.Sprintf("%s free again when the lease of %s had ended", key, failoverTTL), found: fmt.Sprintf("held after %s", now().Sub(begun).Round(time.Second)),
				try: "look at the members' logs: leases that do not end mean a leader that does not lead"}
		}
		select {
		case <-ctx.Done():
			return "", 0, context.Cause(ctx)
		case <-time.After(probePoll):
		}
	}
}

package patroni

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/requorum/requorum/agents"
)

// Verify takes samples until all checks hold in two of them that are at least
// loop_wait apart, with every check true in between:
//
//   - RECONNECTED: the leader is registered anew under its member's lease; as
//     many members as configured are registered anew and running; every agent
//     has seen etcd since the opening and sees it on, unlocked, without
//     failsafe mode and paused only if config says so; the system identifier
//     is the restored one.
//   - CONVERGED: exactly one agent holds the lock and runs a primary, the one
//     in the leader key; every other streams; timelines are equal and the WAL
//     moves on every replica; no failover request.
//   - NO LOSS DETECTED: and nothing is below the baseline of the gate. Without
//     a complete baseline it stays CONVERGED.
//
// DATA LOSS SUSPECTED, with both positions, is a scope with a leader below the
// baseline, converged or not. What holds at the deadline of ctx is the verdict. OK needs
// CONVERGED or more, or RECONNECTED when the only thing missing is WAL: an idle
// leader writes none, and its replicas stream and stand exactly where it does.
func (a *Scope) Verify(ctx context.Context, base agents.Baseline, done agents.Restored) (agents.Verdict, error) {
	known, err := parseBaseline(base)
	if err != nil {
		return agents.Verdict{}, err
	}
	if a = a.asking(known.Asked); len(a.rest) == 0 {
		return agents.Verdict{Verdict: agents.Unknown, OK: true, Checks: []agents.Check{{
			Name: "REST", Detail: "no rest is configured and no member was registered: there are no agents to ask",
		}}}, nil
	}
	p := &proof{Scope: a, done: done, base: known, first: map[string]float64{}, reopens: done.Written[a.dir+"config"] && done.Change != nil}
	tick := time.NewTicker(a.poll)
	defer tick.Stop()
	for {
		s, err := a.look(ctx, done.Live)
		if ctx.Err() == nil {
			p.take(s, err)
			p.reopen(ctx, s)
		}
		v := p.verdict()
		if done.Tell != nil {
			done.Tell(v)
		}
		if p.waits == "" && (v.Verdict == agents.NoLoss || v.Verdict == agents.DataLossSuspected || v.Verdict == agents.Converged && !p.base.Complete) {
			return v, nil
		}
		select {
		case <-tick.C:
			continue
		case <-ctx.Done():
		}
		p.abandon(ctx)
		if err := ctx.Err(); !errors.Is(err, context.DeadlineExceeded) {
			return agents.Verdict{}, err
		}
		return p.verdict(), nil
	}
}

// level is how much of the proof holds.
type level int

const (
	notBack level = iota
	reconnected
	converged
)

// proof is the state of one Verify.
type proof struct {
	*Scope
	done agents.Restored
	base baseline

	now     *sample
	results []result           // of now, in the order of the checks
	first   map[string]float64 // when a check became true, for as long as it stays so
	trouble error              // etcd did not answer at the last look
	held    [3]*sample         // the first sample since which a level's checks hold
	reached level              // what two samples prove
	waits   string             // what keeps the scope from being opened again; "" for nothing
	reopens bool               // the scope was opened paused, and this proof opens it again
}

// take judges a sample against those before.
func (p *proof) take(s *sample, err error) {
	p.trouble = err
	if err != nil {
		p.held, p.reached = [3]*sample{}, notBack
		return
	}
	p.now = s
	alone := p.check(s)
	p.results = alone
	p.reached = notBack
	wait := time.Duration(s.scope.config.loopWait() * float64(time.Second))
	for l := reconnected; l <= converged; l++ {
		holds := true
		for _, r := range alone {
			holds = holds && (r.level > l || r.ok)
		}
		if !holds {
			p.held[l] = nil
			continue
		}
		if p.held[l] == nil || !sameCast(p.held[l], s) {
			p.held[l] = s
		}
		moved := p.moved(p.held[l], s, l)
		p.results = append(p.results, moved...)
		apart := s.at.Sub(p.held[l].at) >= wait
		for _, r := range moved {
			apart = apart && r.ok
		}
		if apart && p.reached == l-1 {
			p.reached = l
		}
	}
	for _, r := range p.results {
		if _, since := p.first[r.name]; !r.ok {
			delete(p.first, r.name)
		} else if !since {
			p.first[r.name] = s.at.Sub(p.done.HealthyAt).Seconds()
		}
	}
}

// verdict is what the samples so far prove.
func (p *proof) verdict() (v agents.Verdict) {
	v = agents.Verdict{Verdict: agents.NotBack}
	for _, r := range p.results {
		v.Checks = append(v.Checks, agents.Check{Name: r.name, OK: r.ok, Detail: r.detail, Seconds: p.first[r.name]})
	}
	if p.trouble != nil {
		v.Checks = append(v.Checks, agents.Check{Name: "etcd answers", Detail: p.trouble.Error()})
	}
	if p.reopens {
		v.Checks = append(v.Checks, p.reopened())
		v.Unfinished = p.waits
		defer func() { v.OK = v.OK && p.waits == "" }()
	}
	switch p.reached {
	case reconnected:
		v.Verdict, v.OK = agents.Reconnected, p.idle()
		// Who was further than the leader may never converge: its history is
		// another one. That is said as soon as somebody leads.
		if loss, led := p.lossSoFar(); led && loss.verdict == agents.DataLossSuspected {
			v.Verdict, v.OK = loss.verdict, false
			v.Checks = append(v.Checks, agents.Check{Name: "nothing below the baseline", Detail: loss.detail})
		}
	case converged:
		loss := p.loss(p.now)
		v.Verdict, v.OK = loss.verdict, loss.verdict != agents.DataLossSuspected
		c := agents.Check{Name: "nothing below the baseline", OK: loss.verdict == agents.NoLoss, Detail: loss.detail}
		if c.OK {
			c.Seconds = p.now.at.Sub(p.done.HealthyAt).Seconds()
		}
		v.Checks = append(v.Checks, c)
	}
	return v
}

// lossSoFar is the loss of a scope that has a leader and has not converged.
func (p *proof) lossSoFar() (loss lossVerdict, led bool) {
	for _, r := range p.results {
		if r.name == oneLeader && r.ok {
			return p.loss(p.now), true
		}
	}
	return lossVerdict{}, false
}

// idle says whether all that is missing is WAL to follow: the leader has
// written none, so the replicas could not show that they move.
func (p *proof) idle() bool {
	then := p.held[converged]
	if then == nil {
		return false
	}
	leader := p.now.names[string(p.now.scope.value("leader"))]
	for name, w := range p.now.names {
		if w.lsn() != then.names[name].lsn() || w.lsn() != leader.lsn() {
			return false
		}
	}
	return true
}

// lossVerdict is the answer of the loss detector.
type lossVerdict struct {
	verdict string
	detail  string
}

// loss compares a converged scope with the baseline: a timeline that ended
// below it, or a final position below it, means that WAL which an agent had is
// not in the scope's history any more.
func (p *proof) loss(s *sample) lossVerdict {
	want := p.base.Furthest
	if !want.known() {
		return lossVerdict{agents.Converged, "no agent told its position at the gate: loss is unknown"}
	}
	leader := s.names[string(s.scope.value("leader"))]
	final := position{Timeline: leader.Timeline, LSN: leader.lsn()}
	history, _ := parseHistory(s.scope.value("history"))
	told := final.Timeline == want.Timeline
	for _, c := range history {
		if c.Timeline < want.Timeline {
			continue
		}
		told = told || c.Timeline == want.Timeline
		if c.LSN < want.LSN {
			return lossVerdict{agents.DataLossSuspected, fmt.Sprintf(
				"timeline %d ended at LSN %s, but at the gate an agent was at %s", c.Timeline, formatLSN(c.LSN), want)}
		}
	}
	if final.less(want) {
		return lossVerdict{agents.DataLossSuspected, fmt.Sprintf("%s is at %s, but at the gate an agent was at %s", s.who(leader), final, want)}
	}
	if !told {
		return lossVerdict{agents.Converged, fmt.Sprintf("at %s; history does not say where timeline %d ended, so loss against %s is unknown", final, want.Timeline, want)}
	}
	if !p.base.Complete {
		return lossVerdict{agents.Converged, fmt.Sprintf("at %s, not below %s; but not every agent told its position at the gate, so loss is unknown", final, want)}
	}
	return lossVerdict{agents.NoLoss, fmt.Sprintf("at %s; at the gate the furthest was at %s", final, want)}
}

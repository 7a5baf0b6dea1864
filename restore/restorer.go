package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"
)

// A Restorer restores one cluster. Its methods are not called at once.
type Restorer struct{ Options }

// New checks the options.
func New(o Options) (*Restorer, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	return &Restorer{o}, nil
}

// targets are the members that are rebuilt.
func (r *Restorer) targets() []Placed {
	return slices.DeleteFunc(slices.Clone(r.Members), func(m Placed) bool { return slices.Contains(r.Without, m.Name) })
}

func (r *Restorer) endpoints(members []Placed) []string {
	var urls []string
	for _, m := range members {
		urls = append(urls, m.ClientURL)
	}
	return urls
}

// each calls f for all members at once and waits. The error joins those of all members; the context is not
// cancelled by one of them.
func each(ctx context.Context, members []Placed, f func(ctx context.Context, i int, m Placed) error) error {
	errs := make([]error, len(members))
	var group errgroup.Group
	for i, m := range members {
		group.Go(func() error {
			errs[i] = f(ctx, i, m)
			return nil
		})
	}
	_ = group.Wait() // f's errors are in errs
	return errors.Join(errs...)
}

// inspect asks all targets. The error is that of the context alone.
func (r *Restorer) inspect(ctx context.Context, run string, deep, verify bool) (map[string]State, map[string]error, error) {
	targets := r.targets()
	states := make([]State, len(targets))
	errs := make([]error, len(targets))
	_ = each(ctx, targets, func(ctx context.Context, i int, m Placed) error {
		states[i], errs[i] = m.On.Inspect(ctx, InspectRequest{Member: m.Member, Run: run, Deep: deep, Verify: verify})
		return nil
	})
	if err := context.Cause(ctx); err != nil {
		return nil, nil, err
	}
	found, failed := map[string]State{}, map[string]error{}
	for i, m := range targets {
		if errs[i] != nil {
			failed[m.Name] = errs[i]
		} else {
			found[m.Name] = states[i]
		}
	}
	return found, failed, nil
}

// A HostRun is a run as the hosts remember it.
type HostRun struct {
	Plan     Plan     `json:"plan"`
	Ended    bool     `json:"ended"`
	Members  []string `json:"members"`        // that hold its journal
	Lock     *Lock    `json:"lock,omitempty"` // of the process that works on it, if any
	LockDead bool     `json:"lock_dead,omitempty"`
}

// Latest returns the run that the hosts saw last: the unfinished one if there is one. It is nil if they remember none.
func (r *Restorer) Latest(ctx context.Context) (*HostRun, error) {
	states, errs, err := r.inspect(ctx, "", false, false)
	if err != nil {
		return nil, err
	}
	if len(states) == 0 {
		return nil, joinMap(errs)
	}
	return latest(states), nil
}

func latest(states map[string]State) *HostRun {
	var best *HostRun
	for _, name := range sortedKeys(states) {
		s := states[name]
		j := s.Journal
		if j == nil {
			continue
		}
		ended := !j.Ended.IsZero()
		switch {
		case best != nil && best.Plan.Run == j.Plan.Run:
		case best == nil, best.Ended && !ended, best.Ended == ended && j.Plan.Started.After(best.Plan.Started):
			best = &HostRun{Plan: j.Plan, Ended: ended}
		default:
			continue
		}
		best.Members = append(best.Members, name)
		best.Ended = best.Ended && ended
		// What one member knows to be abandoned is; another one may have been lost meanwhile.
		if a, b := j.Plan.Abandoned, best.Plan.Abandoned; a && !b || a == b && j.Plan.progress() > best.Plan.progress() {
			best.Plan = j.Plan
		}
		if s.Lock != nil && s.Lock.Run == j.Run {
			best.Lock, best.LockDead = s.Lock, s.Dead
		}
	}
	return best
}

// progress counts the steps that were recorded as done.
func (p Plan) progress() int {
	n := 0
	for _, s := range p.Steps {
		if !s.Done.IsZero() {
			n++
		}
	}
	return n
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func joinMap(errs map[string]error) error {
	var all []error
	for _, name := range sortedKeys(errs) {
		all = append(all, errs[name])
	}
	return errors.Join(all...)
}

// flags repeats the answers that a resumed run needs again.
func (r *Restorer) flags() []string {
	var flags []string
	add := func(flag string, values ...string) {
		for _, v := range values {
			flags = append(flags, flag+" "+v)
		}
	}
	add("--without", r.Without...)
	add("--fenced", r.Fenced...)
	o := r.AgentOptions
	if o.PatroniSync != "" {
		add("--patroni-sync", o.PatroniSync)
	}
	if o.OpenPaused {
		flags = append(flags, "--open-paused")
	}
	add("--keep-leased", o.KeepLeased...)
	add("--drop-leased", o.DropLeased...)
	add("--accept-unverified", o.AcceptUnverified...)
	return flags
}

// resumes says whether a member's service stops more than etcd.
func (r *Restorer) resumes() bool {
	return slices.ContainsFunc(r.targets(), func(m Placed) bool { return m.Service.StaticPod != "" })
}

func (r *Restorer) step(kind StepKind) Step { return Step{Kind: kind, Does: r.does(kind)} }

func (r *Restorer) does(kind StepKind) string {
	switch kind {
	case StepPrepare:
		return "fetch the database, check it, remove ghosts, and start it once to know what it must serve"
	case StepStage:
		return fmt.Sprintf("build %d new data dirs beside the old ones", len(r.targets()))
	case StepStop:
		return "forbid starts, stop every member, wait until processes are gone and ports are closed"
	case StepGate:
		return "ask the agents once more where they stand"
	case StepRemove:
		return "remove the lost member from the cluster, which serves on"
	case StepAdd:
		return "add a learner in its place: a member without a vote"
	case StepJoin:
		return "stage its identity; the leader sends it the rest"
	case StepPromote:
		return "wait until it has caught up, and give it its vote"
	case StepExchange:
		return "exchange the data dirs; the old ones are kept"
	case StepAllow:
		return "allow starts again"
	case StepStart:
		return "start every member"
	case StepProve:
		return "prove identity, health, content, and a write"
	case StepResume:
		return "give the Kubernetes control planes back that were stopped with etcd"
	case StepAgents:
		return "wait for the agents' verdicts"
	case StepBackup:
		return "take a first backup of the new line"
	case StepRevert:
		return "put the old data dirs back"
	case StepDiscard:
		return "remove the staged data dirs"
	case StepEnd:
		return "write the record, release holds and locks"
	}
	return string(kind)
}

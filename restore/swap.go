package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/storage/catalog"
)

const (
	// intrusions is how often members that somebody else starts in the middle of a swap are stopped again.
	intrusions = 3
	// gateWait is how long agents that had answered before are waited for at the second gate.
	gateWait = 60 * time.Second
	gatePoll = time.Second
)

// stage builds every member beside its old dir, all from the one prepared database, while it is predicted what that must serve. Only
// then the first member is stopped. A member on this machine gets the prepared file itself, in the end: meanwhile that is written to disk.
func (x *execution) stage(ctx context.Context) (string, error) {
	cluster := map[string][]string{}
	for _, m := range x.plan.Members {
		cluster[m.Name] = []string{m.PeerURL}
	}
	want, path := x.plan.Prepared, x.spoolFile(x.plan.Run, "db")
	build := func(ctx context.Context, m Placed, take bool) error {
		f, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("open the prepared database: %w", err)
		}
		defer f.Close()
		err = m.On.Stage(ctx, StageRequest{Member: m.Member, Run: x.plan.Run, Owner: x.Owner, InitialCluster: cluster,
			Token: x.plan.Token, Size: want.Size, Checksum: want.Checksum, Take: take}, f) // a file, which a local host has the kernel copy
		if err == nil {
			x.Progress.Advance(string(StepStage), want.Size)
		}
		return err
	}
	members := slices.DeleteFunc(x.targets(), func(m Placed) bool { return x.states[m.Name].Place != PlaceOld })
	taker := -1
	for i, m := range members {
		if m.Host == HostLocal {
			taker = i
		}
	}
	err := each(ctx, members, func(ctx context.Context, i int, m Placed) error {
		if i == taker {
			return dbfile.Sync(path)
		}
		return build(ctx, m, false)
	})
	if err == nil {
		err = x.awaitPrediction(ctx, x.plan, x.p) // it reads the file, too
	}
	if err == nil && taker >= 0 {
		err = build(ctx, members[taker], true)
	}
	if err != nil {
		return "", err
	}
	return catalog.Size(want.Size) + " for each member", nil
}

// stop is the first barrier: no member runs, and none can be started by a service manager.
func (x *execution) stop(ctx context.Context, step *Step) error {
	var running []string
	targets := x.toStop()
	for range intrusions {
		if err := x.applyTo(ctx, targets, ActInhibit); err != nil {
			return err
		}
		if err := x.stopAll(ctx, targets); err != nil {
			return err
		}
		if err := x.see(ctx); err != nil {
			return err
		}
		running = running[:0]
		for _, m := range targets {
			if s := x.states[m.Name]; !s.Stopped() || !s.Inhibited {
				running = append(running, m.Name)
			}
		}
		if len(running) == 0 {
			return x.overtaken(ctx)
		}
		x.happened(step, "%v was started by somebody else after it had been stopped; it is stopped again", running)
	}
	return &HostError{Code: HostRunning, Member: running[0], What: fmt.Sprintf("somebody else started it again %d times", intrusions),
		Advice: "find out who does, and run the same command again"}
}

// toStop are the members that must not run meanwhile: all of them, but where old dirs return to be used, those whose dirs were exchanged. The others have been stopped by
// the run, or were left in peace when it was rolled back without this one.
func (x *execution) toStop() []Placed {
	if !x.reverting() || x.plan.retires() {
		return x.targets()
	}
	return slices.DeleteFunc(x.targets(), func(m Placed) bool {
		s := x.states[m.Name]
		return s.Place == PlaceOld && s.Journal != nil && s.Journal.Here.SwapBegun.IsZero()
	})
}

// stopAll stops members, whatever becomes of one of them; those that run one after another. Members of an etcd that stop at the same
// moment wait for each other: the leader tries for 7 s to hand its lead to a follower that stops as well.
func (x *execution) stopAll(ctx context.Context, members []Placed) error {
	runs := func(m Placed) bool { return !x.states[m.Name].Stopped() }
	err := x.applyTo(ctx, slices.DeleteFunc(slices.Clone(members), runs), ActStop)
	for _, m := range members {
		if runs(m) {
			err = errors.Join(err, m.On.Apply(ctx, x.request(ActStop, m)))
		}
	}
	return err
}

// gate asks the agents while nobody can write any more: their answers are the baseline. Those that answered
// at the first gate are waited for, since the database was prepared on their word.
func (x *execution) gate(ctx context.Context) error {
	begun := x.Now()
	defer func() { x.waiting.Gate += x.Now().Sub(begun).Seconds() }()
	deadline := time.NewTimer(gateWait)
	defer deadline.Stop()
	told := ""
	for {
		answers, err := agents.Gate(ctx, x.Agents, nil, x.plan.Gate)
		if err != nil {
			return err
		}
		var lost []string
		for _, name := range sortedKeys(answers) {
			for _, program := range answers[name].Missing {
				if !slices.Contains(x.plan.Gate[name].Missing, program) {
					lost = append(lost, fmt.Sprintf("%s of %s", program, name))
				}
			}
		}
		if len(lost) == 0 {
			x.plan.Gate = answers
			return nil
		}
		if waits := strings.Join(lost, ", "); waits != told {
			told = waits
			x.Progress.Say("  waiting for %s, which answered when the restore was planned", waits)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-deadline.C:
			return fmt.Errorf("the gate: %v answered when the restore was planned and does not now, for %s; bring it back, or undo this run and plan anew without it", lost, gateWait)
		case <-time.After(gatePoll):
		}
	}
}

// exchange is the second barrier: every member has its new dirs.
func (x *execution) exchange(ctx context.Context, step *Step) error {
	for range intrusions {
		// Nothing is exchanged unless all of it can be.
		for _, name := range sortedKeys(x.states) {
			if s := x.states[name]; s.Place == PlaceOld && !s.Intact {
				return &HostError{Code: HostNotStaged, Member: name, What: "what was staged is no longer whole: " + s.Detail,
					Advice: "run the same command again: it stages anew"}
			}
		}
		err := x.applyAll(ctx, ActExchange)
		if !isHost(err, HostRunning) {
			return err
		}
		x.happened(step, "somebody else started a member in the middle of the exchange (%v); it is stopped again", err)
		if err := x.stop(ctx, step); err != nil {
			return err
		}
	}
	return errors.New("members are started by somebody else again and again while their dirs are exchanged; find out who does, and run the same command again")
}

func (x *execution) allow(ctx context.Context) error { return x.applyAll(ctx, ActAllow) }

// start is the third barrier. Members that somebody else has started meanwhile run on their new dirs; that is noted.
func (x *execution) start(ctx context.Context, step *Step) error {
	if x.reverting() {
		return x.startAgain(ctx)
	}
	for _, name := range sortedKeys(x.states) {
		if s := x.states[name]; !s.Stopped() && (s.Active || len(s.Running) > 0) && s.Journal != nil && s.Journal.Here.StartBegun.IsZero() {
			x.happened(step, "%s was started by somebody else before its turn; it runs on its new data dir", name)
		}
	}
	if err := x.applyAll(ctx, ActStart); err != nil {
		return err
	}
	return x.removeSpool(x.plan.Run) // every member has its own; it takes a moment, which the members use
}

// startAgain starts, after a revert, the members that ran when the run began: everything is as it was.
func (x *execution) startAgain(ctx context.Context) error {
	return each(ctx, x.targets(), func(ctx context.Context, _ int, m Placed) error {
		if j := x.states[m.Name].Journal; j == nil || !j.Here.WasRunning {
			return nil
		}
		return m.On.Apply(ctx, x.request(ActStart, m))
	})
}

// revert undoes the exchange on every member: nothing of the new cluster has run.
func (x *execution) revert(ctx context.Context, step *Step) error {
	for range intrusions {
		err := x.applyAll(ctx, ActRevert)
		if !isHost(err, HostRunning) {
			return err
		}
		x.happened(step, "somebody else started a member in the middle of the rollback (%v); it is stopped again", err)
		if err := x.stop(ctx, step); err != nil {
			return err
		}
	}
	return errors.New("members are started by somebody else again and again while their dirs are put back; find out who does, and run the same command again")
}

package local

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/requorum/requorum/restore"
)

const (
	// stopPoll is how often a stop looks whether everything is gone.
	stopPoll = 200 * time.Millisecond
	// stopGrace is how long a process and its ports may outlive a stop command that succeeded; it is run again every stopAgain.
	stopGrace = 30 * time.Second
	stopAgain = 2 * time.Second
)

// inhibit forbids starts. The marker says so to requorum on every host, the service to everybody else.
func (h *Host) inhibit(ctx context.Context, p *place) error {
	if err := p.service().do(ctx, restore.ActInhibit); err != nil {
		return err
	}
	if owner, err := p.inhibitedBy(); err != nil || owner == p.run {
		return err
	}
	if err := writeFile(p.marker(), []byte(p.run+"\n")); err != nil {
		return fmt.Errorf("%s: inhibit: %w", p.member.Name, err)
	}
	return nil
}

// inhibitedBy is the run that forbids starts, empty if none does.
func (p *place) inhibitedBy() (string, error) {
	data, err := os.ReadFile(p.marker())
	if gone(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", p.member.Name, err)
	}
	if run := string(trimLine(data)); run != "" {
		return run, nil
	}
	return "unknown", nil
}

func trimLine(b []byte) []byte {
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == ' ') {
		b = b[:len(b)-1]
	}
	return b
}

func (h *Host) allow(ctx context.Context, p *place) error {
	owner, err := p.inhibitedBy()
	if err != nil {
		return err
	}
	if owner != "" && owner != p.run {
		if j, err := p.journal(owner); err == nil && j != nil && j.Ended.IsZero() {
			return p.fault(restore.HostInhibited, "finish or roll back that run", "allow starts: run %s forbids them", owner)
		}
	}
	if err := p.service().do(ctx, restore.ActAllow); err != nil {
		return err
	}
	if err := os.Remove(p.marker()); err != nil && !gone(err) {
		return fmt.Errorf("%s: allow: %w", p.member.Name, err)
	}
	return syncDir(p.state)
}

// stop ends the member and waits until its process is gone and its ports are closed.
func (h *Host) stop(ctx context.Context, p *place) error {
	if err := p.noteRunning(ctx); err != nil {
		return err
	}
	// Even if nothing runs: a service manager may be about to start it again.
	if err := p.service().do(ctx, restore.ActStop); err != nil {
		return err
	}
	begun := time.Now()
	again := stopAgain
	for {
		u, err := p.inUse(ctx)
		if err != nil {
			return err
		}
		took := time.Since(begun)
		switch {
		case u.stopped():
			return nil
		case took > stopGrace:
			return p.fault(restore.HostRunning, "stop it by hand and run the same command again", "%s after the stop command succeeded: %s", stopGrace, u)
		case took > again: // somebody else started it meanwhile
			again += stopAgain
			if err := p.service().do(ctx, restore.ActStop); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: stop: %w", p.member.Name, context.Cause(ctx))
		case <-time.After(stopPoll):
		}
	}
}

// exchange puts the staged dirs in the old ones' place. No etcd can run on a mixture of both: the old database is
// locked meanwhile, and a process that began to wait for it makes everything go back.
func (h *Host) exchange(ctx context.Context, p *place) error {
	j, err := p.ownJournal()
	if err != nil {
		return err
	}
	where, detail, err := p.placeOf(j.Here)
	if err != nil {
		return fmt.Errorf("%s: exchange: %w", p.member.Name, err)
	}
	switch where {
	case restore.PlaceNew:
		return nil
	case restore.PlaceUnknown:
		return p.changed(detail)
	}
	if by, err := p.inhibitedBy(); err != nil || by != p.run {
		if err == nil {
			err = p.fault(restore.HostChanged, "run the same command again", "exchange: starts are not forbidden here")
		}
		return err
	}
	if s, err := p.service().status(ctx); err != nil {
		return err
	} else if s.open != "" {
		return p.fault(restore.HostChanged, "run the same command again", "exchange: somebody allowed starts here again: %s", s.open)
	}
	return h.swapUnits(ctx, p, j, forward, backward, func() error {
		if !j.Here.SwapBegun.IsZero() {
			return nil
		}
		ok, why, err := p.intact(ctx, j.Here)
		if err != nil {
			return fmt.Errorf("%s: look at what is staged: %w", p.member.Name, err)
		}
		if !ok {
			return p.fault(restore.HostNotStaged, "run the same command again: it stages anew", "%s", why)
		}
		for i := range j.Here.Units { // until now somebody else could still have replaced the old one
			if j.Here.Units[i].Old, err = identify(j.Here.Units[i].Live); err != nil {
				return fmt.Errorf("%s: exchange: %w", p.member.Name, err)
			}
		}
		j.Here.SwapBegun = h.now().UTC()
		return p.writeJournal(j)
	})
}

// revert puts the old dirs back. The staged ones are kept.
func (h *Host) revert(ctx context.Context, p *place) error {
	j, err := p.ownJournal()
	if err != nil {
		return err
	}
	where, detail, err := p.placeOf(j.Here)
	if err != nil {
		return fmt.Errorf("%s: revert: %w", p.member.Name, err)
	}
	if where == restore.PlaceUnknown {
		return p.changed(detail)
	}
	if !j.Here.SwapBegun.IsZero() {
		if err := h.swapUnits(ctx, p, j, backward, forward, func() error { return nil }); err != nil {
			return err
		}
	}
	j.Here.SwapBegun, j.Here.StartBegun = time.Time{}, time.Time{}
	return p.writeJournal(j)
}

func (p *place) changed(detail string) error {
	return p.fault(restore.HostChanged, "look at what it is, move it away or back, and run the same command again", "%s", detail)
}

type mover func(u restore.Unit, swap func(a, b string) (bool, error)) error

// swapUnits moves every unit while nobody uses them, and moves them back if somebody came in between.
func (h *Host) swapUnits(ctx context.Context, p *place, j *restore.Journal, move, back mover, begin func() error) error {
	u, err := p.inUse(ctx)
	if err != nil {
		return err
	}
	if !u.stopped() {
		return p.fault(restore.HostRunning, "", "%s", u)
	}
	unlock, free, err := lockDB(p.db(p.unitDir()))
	if err != nil {
		return fmt.Errorf("%s: %w", p.member.Name, err)
	}
	defer unlock()
	if !free {
		return p.fault(restore.HostRunning, "", "a process uses %s", p.db(p.unitDir()))
	}
	if err := begin(); err != nil {
		return err
	}
	for _, unit := range j.Here.Units {
		if err := move(unit, swap); err != nil {
			return fmt.Errorf("%s: %w", p.member.Name, err)
		}
	}
	// Whoever opened the database meanwhile waits for its lock, with the other paths still to open:
	// going on it would run on a mixture. One that opened the dirs which are in place now does no harm here.
	var intruders []restore.Process
	for _, unit := range j.Here.Units {
		for _, away := range []string{unit.Staged, unit.Before} {
			found, err := holders(away)
			if err != nil {
				return fmt.Errorf("%s: look for processes: %w", p.member.Name, err)
			}
			intruders = append(intruders, found...)
		}
	}
	if len(intruders) == 0 {
		return nil
	}
	for _, unit := range j.Here.Units {
		if err := back(unit, swap); err != nil {
			return fmt.Errorf("%s: process %d came in between; put back: %w", p.member.Name, intruders[0].PID, err)
		}
	}
	return p.fault(restore.HostRunning, "", "%s", use{processes: intruders})
}

// start starts the member. That it will is written down first.
func (h *Host) start(ctx context.Context, p *place) error {
	by, err := p.inhibitedBy()
	if err != nil {
		return err
	}
	if by != "" {
		return p.fault(restore.HostInhibited, "finish or roll back that run", "start: run %s forbids it (%s)", by, p.marker())
	}
	j, err := p.ownJournal()
	if err != nil {
		return err
	}
	where, detail, err := p.placeOf(j.Here)
	if err != nil {
		return fmt.Errorf("%s: start: %w", p.member.Name, err)
	}
	switch where {
	case restore.PlaceUnknown, restore.PlaceHalf:
		return p.changed(detail)
	case restore.PlaceNew:
		if j.Here.StartBegun.IsZero() {
			j.Here.StartBegun = h.now().UTC()
			if err := p.writeJournal(j); err != nil {
				return err
			}
		}
	case restore.PlaceOld:
		if _, err := os.Stat(p.db(p.unitDir())); gone(err) {
			return p.fault(restore.HostChanged, "", "start: %s holds no member; etcd would begin an empty one", p.data)
		}
	}
	u, err := p.inUse(ctx)
	if err == nil && !u.active && len(u.processes) == 0 && len(u.ports) > 0 {
		u, err = p.inUse(ctx) // the member itself, perhaps: started by somebody else while this looked, it shows by its port first
	}
	if err != nil {
		return err
	}
	if u.active && !u.waits || len(u.processes) > 0 {
		return nil
	}
	if len(u.ports) > 0 {
		port, what := u.ports[0], "something else"
		if port.PID != 0 {
			what = fmt.Sprintf("process %d (%s)", port.PID, port.Owner)
		}
		return p.fault(restore.HostRunning, "end that process, or give it another port", "start: the port of %s is taken by %s", port.URL, what)
	}
	return p.service().do(ctx, restore.ActStart)
}

// prune removes the old dirs that an ended run kept.
func (h *Host) prune(p *place, req restore.ApplyRequest) error {
	if l, err := p.readLock(); err != nil {
		return err
	} else if l != nil {
		return p.locked(l, dead(l))
	}
	j, err := p.journal(req.Run)
	if err != nil {
		return err
	}
	if j == nil || j.Ended.IsZero() {
		return fmt.Errorf("%s: prune: run %s has not ended here", p.member.Name, req.Run)
	}
	for _, u := range p.paths() {
		if used, err := holders(u.Before); err != nil {
			return err
		} else if len(used) > 0 {
			return p.fault(restore.HostRunning, "", "prune: %s", use{processes: used})
		}
		if err := os.RemoveAll(u.Before); err != nil {
			return fmt.Errorf("%s: prune: %w", p.member.Name, err)
		}
	}
	return nil
}

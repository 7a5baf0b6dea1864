package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/restore"
)

func (p *place) lockFile() string { return filepath.Join(p.state, "lock") }

// readLock returns nil if nobody holds the lock.
func (p *place) readLock() (*restore.Lock, error) {
	data, err := os.ReadFile(p.lockFile())
	if gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: read the lock: %w", p.member.Name, err)
	}
	var l restore.Lock
	if err := json.Unmarshal(data, &l); err != nil {
		return nil, fmt.Errorf("%s: the lock %s is unreadable (%w): see which run left it in the journals beside it, and remove it if no requorum runs", p.member.Name, p.lockFile(), err)
	}
	return &l, nil
}

// guarded runs f while no other process changes the lock. The guard is the state directory
// itself: nothing is left behind when the process dies.
func (p *place) guarded(ctx context.Context, f func() error) error {
	d, err := os.Open(p.state)
	if err != nil {
		return fmt.Errorf("%s: %w", p.member.Name, err)
	}
	defer d.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f()
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("%s: guard %s: %w", p.member.Name, p.state, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: guard %s: %w", p.member.Name, p.state, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Dead tells whether a lock's owner was a process of this machine and is proven gone.
func Dead(l restore.Lock) bool { return dead(&l) }

// dead tells whether the lock's owner is proven gone: it ran on this machine, and the machine was
// started again since or has no such process any more.
func dead(l *restore.Lock) bool {
	host, err := os.Hostname()
	if err != nil || l.Host != host {
		return false
	}
	if boot := bootID(); boot != "" && l.Boot != "" && boot != l.Boot {
		return true
	}
	if !processExists(l.PID) {
		return true
	}
	start := startTime(l.PID)
	return l.Start != "" && start != "" && start != l.Start
}

func (p *place) locked(l *restore.Lock, isDead bool) error {
	return &restore.HostError{Code: restore.HostLocked, Member: p.member.Name, Lock: l, Dead: isDead,
		What: fmt.Sprintf("run %s of %s on %s (pid %d) holds the lock", l.Run, l.User, l.Host, l.PID)}
}

// lock takes the lock for the request's run and owner and makes sure that the journal exists.
func (h *Host) lock(ctx context.Context, p *place, req restore.ApplyRequest) error {
	if req.Plan == nil || req.Plan.Run != req.Run {
		return fmt.Errorf("%s: lock: the request has no plan of run %s", p.member.Name, req.Run)
	}
	if err := p.makeState(); err != nil {
		return fmt.Errorf("%s: make the state directory: %w", p.member.Name, err)
	}
	if err := syncDir(filepath.Dir(p.state)); err != nil {
		return fmt.Errorf("%s: make the state directory: %w", p.member.Name, err)
	}
	return p.guarded(ctx, func() error {
		held, err := p.readLock()
		if err != nil {
			return err
		}
		now := h.now().UTC()
		lock := restore.Lock{Run: req.Run, Owner: req.Owner, Since: now, Heartbeat: now}
		switch {
		case held == nil:
		case held.Owner.Token == req.Owner.Token && held.Run == req.Run:
			return nil
		case (dead(held) || req.Gone != "" && req.Gone == held.Owner.Token) && (held.Run == req.Run || req.TakeOver == held.Run || p.over(held.Run)):
		case req.TakeOver == held.Run && now.Sub(held.Heartbeat) > restore.StaleAfter:
		default:
			return p.locked(held, dead(held))
		}
		if err := p.ensureJournal(ctx, h, req.Plan); err != nil {
			return err
		}
		if held != nil {
			return p.writeLock(lock)
		}
		return p.createLock(lock)
	})
}

// over says whether a run has ended here. Its owner may have been killed between saying so and giving the lock back.
func (p *place) over(run string) bool {
	j, err := p.journal(run)
	return err == nil && j != nil && !j.Ended.IsZero()
}

// makeState makes the state directory. Its files are private, but everybody may look for the marker by name: a start command
// may run as another user.
func (p *place) makeState() error {
	if err := os.Mkdir(p.state, 0o711); errors.Is(err, os.ErrExist) {
		return nil
	} else if err != nil {
		return err
	}
	return os.Chmod(p.state, 0o711) // whatever the umask
}

// createLock makes the lock file appear complete or not at all, and only if there is none.
func (p *place) createLock(l restore.Lock) error {
	data, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	tmp := p.lockFile() + "." + l.Token
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("%s: lock: %w", p.member.Name, err)
	}
	defer os.Remove(tmp)
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Link(tmp, p.lockFile())
	}
	if err == nil {
		err = syncDir(p.state)
	}
	if err != nil {
		return fmt.Errorf("%s: lock: %w", p.member.Name, err)
	}
	return nil
}

func (p *place) writeLock(l restore.Lock) error {
	data, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	if err := writeFile(p.lockFile(), data); err != nil {
		return fmt.Errorf("%s: lock: %w", p.member.Name, err)
	}
	return nil
}

// owned refuses a request whose owner does not hold the lock: its run was taken over, or ended.
func (p *place) owned(run string, o restore.Owner, now time.Time) error {
	l, err := p.readLock()
	if err != nil {
		return err
	}
	if l == nil {
		return p.fault(restore.HostLocked, "run the same command again", "the lock of run %s is gone", run)
	}
	if l.Run != run || l.Owner.Token != o.Token {
		return p.locked(l, dead(l))
	}
	return nil
}

// beat renews the heartbeat, unless the lock has changed hands.
func (p *place) beat(run string, o restore.Owner, now time.Time) error {
	return p.guarded(context.Background(), func() error {
		if err := p.owned(run, o, now); err != nil {
			return err
		}
		l, err := p.readLock()
		if err != nil {
			return err
		}
		l.Heartbeat = now.UTC()
		return p.writeLock(*l)
	})
}

// unlock ends the run here and gives the lock back.
func (p *place) unlock(req restore.ApplyRequest, now time.Time) error {
	j, err := p.journal(req.Run)
	if err != nil {
		return err
	}
	if j != nil && j.Ended.IsZero() {
		j.Ended = now.UTC()
		if req.Plan != nil {
			j.Plan = *req.Plan
		}
		if err := p.writeJournal(j); err != nil {
			return err
		}
	}
	return p.release(req, now)
}

// release gives the lock back and leaves the journal as it is.
func (p *place) release(req restore.ApplyRequest, now time.Time) error {
	return p.guarded(context.Background(), func() error {
		if err := p.owned(req.Run, req.Owner, now); err != nil {
			return err
		}
		if err := os.Remove(p.lockFile()); err != nil {
			return fmt.Errorf("%s: give the lock back: %w", p.member.Name, err)
		}
		return syncDir(p.state)
	})
}

// Package local carries out a restore's requests on the machine that it runs on: it is the
// [restore.Host] of members with `host: local`, and what a remote host runs on its side.
//
// All state lies beside the member's data dir D, in plain files that a person can read:
//
//	D.requorum/lock            the run that may change this place, with its owner's heartbeat
//	D.requorum/RUN.json        the journal: the whole plan and what was done here
//	D.requorum/inhibited       starts are forbidden (only where the service has no inhibit command)
//	D.requorum/start.log, …    what the service's commands printed last
//	D.staged-RUN               the new data dir before the exchange
//	D.before-RUN               the old one after it
//
// A data dir that is a mount point keeps its place: D/member is exchanged inside it. A WAL dir outside the data
// dir has its own .staged-RUN and .before-RUN beside it.
package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"
	"time"

	"github.com/requorum/requorum/restore"
)

// Host is this machine. It is safe for concurrent use.
type Host struct {
	log   *slog.Logger
	now   func() time.Time
	child func(restore.Member) Child
}

var _ restore.Host = (*Host)(nil)

// Options are the parts of a [Host]; zero values have defaults.
type Options struct {
	Log *slog.Logger
	Now func() time.Time
	// Child returns what runs in the place of the member's service; nil: the services of all members are as they say.
	Child func(restore.Member) Child
}

// New returns this machine as a host.
func New(o Options) *Host {
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Host{log: o.Log, now: o.Now, child: o.Child}
}

// Owner describes the calling process as the owner of locks.
func Owner(token string) restore.Owner {
	o := restore.Owner{Token: token, PID: os.Getpid(), Boot: bootID(), Start: startTime(os.Getpid())}
	o.Host, _ = os.Hostname()
	if u, err := user.Current(); err == nil {
		o.User = u.Username
	}
	return o
}

// place is where a member lives, with what runs it.
func (h *Host) place(m restore.Member, run string) (*place, error) {
	p, err := newPlace(m, run)
	if err == nil && h.child != nil {
		p.child = h.child(m)
	}
	return p, err
}

// Apply implements [restore.Host].
func (h *Host) Apply(ctx context.Context, req restore.ApplyRequest) error {
	p, err := h.place(req.Member, req.Run)
	if err != nil {
		return err
	}
	return h.apply(ctx, p, req)
}

func (h *Host) apply(ctx context.Context, p *place, req restore.ApplyRequest) error {
	if req.Run == "" {
		return fmt.Errorf("%s: action %s without a run", req.Member.Name, req.Action)
	}
	switch req.Action {
	case restore.ActLock:
		return h.lock(ctx, p, req)
	case restore.ActPrune:
		return h.prune(p, req)
	}
	if err := p.owned(req.Run, req.Owner, h.now()); err != nil {
		return err
	}
	switch req.Action {
	case restore.ActBeat:
		return p.beat(req.Run, req.Owner, h.now())
	case restore.ActRelease:
		return p.release(req, h.now())
	}
	return p.alone(ctx, func() error {
		if err := p.owned(req.Run, req.Owner, h.now()); err != nil { // it may have changed hands meanwhile
			return err
		}
		return h.act(ctx, p, req)
	})
}

// act does an action that no other may be under way beside.
func (h *Host) act(ctx context.Context, p *place, req restore.ApplyRequest) error {
	switch req.Action {
	case restore.ActRecord:
		return p.record(req.Plan)
	case restore.ActInhibit:
		return h.inhibit(ctx, p)
	case restore.ActStop:
		return h.stop(ctx, p)
	case restore.ActExchange:
		return h.exchange(ctx, p)
	case restore.ActRevert:
		return h.revert(ctx, p)
	case restore.ActAllow:
		return h.allow(ctx, p)
	case restore.ActStart:
		return h.start(ctx, p)
	case restore.ActResume:
		return p.service().do(ctx, restore.ActResume)
	case restore.ActDiscard:
		return p.discard()
	case restore.ActUnlock:
		return p.unlock(req, h.now())
	}
	return fmt.Errorf("%s: unknown action %q", req.Member.Name, req.Action)
}

// fault is a [restore.HostError] about the place's member.
func (p *place) fault(code restore.HostCode, advice, format string, args ...any) error {
	return &restore.HostError{Code: code, Member: p.member.Name, Advice: advice, What: fmt.Sprintf(format, args...)}
}

func gone(err error) bool { return errors.Is(err, os.ErrNotExist) }

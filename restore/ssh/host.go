// Package ssh is the [restore.Host] of members on other machines. It needs nothing there but an SSH server and a shell: it brings this very
// program, checked by its sha256, to a private directory, runs it as [Serve], which carries each request out with
// the code that also serves this machine, and has it removed when the connection ends, however it ends.
//
// A connection is only made to a machine whose host key is known. There is no way to switch that off.
//
// Nothing secret is written there or stands on a command line: requests go through the standard input of the program, databases through it
// as well. A machine that does not answer for [aliveWithin] is lost; requests are repeated on a new connection for [retryFor], as
// all of them may be.
package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/requorum/requorum/restore"
)

// retryFor is how long a connection that was lost is made anew before that is an error.
const (
	retryFor  = 20 * time.Second
	retryPoll = time.Second
)

// Options say how to reach machines. Zero values mean what the ssh program would do.
type Options struct {
	Config        string   // an ssh_config(5) file instead of ~/.ssh/config and /etc/ssh/ssh_config
	IdentityFiles []string // private keys instead of those of the configuration
	KnownHosts    []string // instead of those of the configuration
	NoSudo        bool     // users other than root do not become root
	Binaries      []string // requorum for other platforms than this one

	Version  string // of this program; it must be the other side's, too
	SpoolDir string // databases are packed there
	// Dead says whether the owner of a lock was a process of this machine that is gone. Other machines cannot tell.
	Dead     func(restore.Lock) bool
	Progress restore.Progress
	Log      *slog.Logger
}

// Hosts are machines reached by SSH. It is safe for concurrent use.
type Hosts struct {
	opt      Options
	programs []*program

	mu      sync.Mutex
	open    map[string]*Host
	archive *archive // of the database staged last
}

// New makes no connection yet.
func New(o Options) (*Hosts, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if o.Dead == nil {
		o.Dead = func(restore.Lock) bool { return false }
	}
	programs, err := o.programs()
	if err != nil {
		return nil, err
	}
	return &Hosts{opt: o, programs: programs, open: map[string]*Host{}}, nil
}

// Host is the machine at ssh://[user@]host[:port]. Members on one machine share it. A mistake in the URL or in SSH's configuration is an error;
// nothing is sent yet.
func (hs *Hosts) Host(url string) (*Host, error) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if h := hs.open[url]; h != nil {
		return h, nil
	}
	s, err := hs.opt.settings(url)
	if err != nil {
		return nil, err
	}
	h := &Host{hosts: hs, url: url, settings: s, turn: make(chan struct{}, 1)}
	hs.open[url] = h
	return h, nil
}

// Close ends all connections; the machines remove what was brought there.
func (hs *Hosts) Close() error {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	for _, h := range hs.open {
		h.close()
	}
	if hs.archive == nil {
		return nil
	}
	a := hs.archive
	hs.archive = nil
	return a.end()
}

// pack returns the packed form of a database; that of another one is given up.
func (hs *Hosts) pack(req restore.StageRequest, db io.Reader) (*archive, error) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if a := hs.archive; a != nil {
		if a.sum == req.Checksum {
			return a, nil
		}
		hs.archive = nil
		if err := a.end(); err != nil {
			hs.opt.Log.Warn("give up a packed database", "error", err)
		}
	}
	a, err := newArchive(hs.opt.SpoolDir, req.Checksum, req.Size, db)
	if err != nil {
		return nil, err
	}
	hs.archive = a
	return a, nil
}

// Host is one machine. It implements [restore.Host].
type Host struct {
	hosts    *Hosts
	url      string
	settings settings

	turn chan struct{} // held while connecting
	mu   sync.Mutex
	link *link // nil: not connected
	over bool  // closed for good
}

var _ restore.Host = (*Host)(nil)

func (h *Host) String() string { return h.url }

// Check connects, logs in, and looks whether a restore could work there. It leaves nothing behind.
func (h *Host) Check(ctx context.Context) error {
	c, err := connect(ctx, h.settings)
	if err != nil {
		return h.about(err)
	}
	defer c.close()
	_, _, _, err = h.find(ctx, c.client())
	return err
}

// about says which host an error is of.
func (h *Host) about(err error) error {
	var lost *LostError
	if errors.As(err, &lost) {
		return &LostError{Host: h.url, Err: stripLost(err)}
	}
	if strings.Contains(err.Error(), h.url) {
		return err
	}
	return fmt.Errorf("host %s: %w", h.url, err)
}

// stripLost is what a LostError is about, once its host is named elsewhere.
func stripLost(err error) error {
	if lost, ok := err.(*LostError); ok { //nolint:errorlint // only the outermost one is taken off
		return lost.Err
	}
	return err
}

// Inspect implements [restore.Host]. That a lock's owner is gone is known here, if it was a process of this machine.
func (h *Host) Inspect(ctx context.Context, req restore.InspectRequest) (restore.State, error) {
	r, err := h.ask(ctx, request{Inspect: &req}, true)
	if err != nil {
		return restore.State{}, err
	}
	if r.State == nil {
		return restore.State{}, fmt.Errorf("host %s: an answer without a state: it runs another version of requorum", h.url)
	}
	if l := r.State.Lock; l != nil && !r.State.Dead {
		r.State.Dead = h.hosts.opt.Dead(*l)
	}
	return *r.State, nil
}

// Apply implements [restore.Host].
func (h *Host) Apply(ctx context.Context, req restore.ApplyRequest) error {
	// A heartbeat that is late is of no use: the next one comes soon.
	_, err := h.ask(ctx, request{Apply: &req}, req.Action != restore.ActBeat)
	var host *restore.HostError
	if req.Action != restore.ActLock || !errors.As(err, &host) || host.Code != restore.HostLocked || host.Lock == nil || host.Dead || !h.hosts.opt.Dead(*host.Lock) {
		return err
	}
	// The other side cannot know that the owner, a process of this machine, is gone.
	if host.Lock.Run != req.Run && host.Lock.Run != req.TakeOver {
		host.Dead = true
		return err
	}
	req.Gone = host.Lock.Token
	_, err = h.ask(ctx, request{Apply: &req}, true)
	return err
}

// Fetch implements [restore.Host].
func (h *Host) Fetch(ctx context.Context, req restore.FetchRequest, w io.Writer) error {
	return h.repeat(ctx, true, func(ctx context.Context, l *link) error {
		c, err := l.call(ctx, request{Fetch: &req})
		if err != nil {
			return err
		}
		defer c.release()
		return c.receive(ctx, w)
	})
}

// Stage implements [restore.Host]. The database is packed once for all hosts, and each takes it at its own speed. A transfer that breaks goes on where
// it stopped: within this call as soon as there is a connection again, else in the next one.
func (h *Host) Stage(ctx context.Context, req restore.StageRequest, db io.Reader) error {
	name := "stage " + req.Member.Name
	shown := false
	err := h.repeat(ctx, true, func(ctx context.Context, l *link) error {
		c, err := l.call(ctx, request{Stage: &req})
		if err != nil {
			return err
		}
		defer c.release()
		has, wanted, err := c.wanted(ctx)
		if err != nil || !wanted {
			return err
		}
		a, err := h.hosts.pack(req, db)
		if err != nil {
			return err
		}
		from := int64(0)
		if ok, err := a.holds(ctx, has); err != nil {
			return err
		} else if ok {
			from = has.Size
			h.progress(func(p restore.Progress) {
				p.Say("%s goes on after %d of %d MB that it has already", name, from/1e6, req.Size/1e6)
			})
		}
		shown = true
		h.progress(func(p restore.Progress) { p.Start(name, req.Size-from) })
		return c.send(ctx, a, from, func(n int64) { h.progress(func(p restore.Progress) { p.Advance(name, n) }) })
	})
	if shown {
		outcome := "on " + h.settings.addr
		if err != nil {
			outcome = "stopped " + outcome
		}
		h.progress(func(p restore.Progress) { p.Done(name, outcome) })
	}
	return err
}

func (h *Host) progress(f func(restore.Progress)) {
	if p := h.hosts.opt.Progress; p != nil {
		f(p)
	}
}

// ask does a request that has an answer and nothing else.
func (h *Host) ask(ctx context.Context, req request, again bool) (r result, err error) {
	begun := time.Now()
	defer func() {
		h.hosts.opt.Log.Debug("asked", "host", h.url, "for", req.String(), "took", time.Since(begun), "error", err)
	}()
	err = h.repeat(ctx, again, func(ctx context.Context, l *link) error {
		c, err := l.call(ctx, req)
		if err != nil {
			return err
		}
		defer c.release()
		r, err = c.result(ctx)
		return err
	})
	return r, err
}

// repeat does f on a connection, and again on a new one while connections break. The first time that the machine
// cannot be reached at all is an error at once.
func (h *Host) repeat(ctx context.Context, again bool, f func(ctx context.Context, l *link) error) error {
	var until time.Time
	for {
		l, fresh, err := h.connected(ctx)
		if err == nil {
			err = f(ctx, l)
			if lost(err) || errors.Is(err, errReplaced) {
				l.close()
			}
		}
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !lost(err) && !errors.Is(err, errReplaced), !again:
			return h.about(err)
		case until.IsZero() && l == nil && fresh:
			return h.about(err)
		case until.IsZero():
			until = time.Now().Add(retryFor)
		case time.Now().After(until):
			h.forget() // from now on, one attempt each is enough
			return h.about(err)
		}
		h.hosts.opt.Log.Debug("connect again", "host", h.url, "after", err)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(retryPoll):
		}
	}
}

func lost(err error) bool {
	var l *LostError
	return errors.As(err, &l)
}

// connected returns the connection there is, or makes one. fresh says that there had not been one before.
func (h *Host) connected(ctx context.Context) (l *link, fresh bool, err error) {
	select {
	case h.turn <- struct{}{}:
		defer func() { <-h.turn }()
	case <-ctx.Done():
		return nil, false, context.Cause(ctx)
	}
	h.mu.Lock()
	l = h.link
	over := h.over
	h.mu.Unlock()
	if over {
		return nil, true, errors.New("it was closed")
	}
	if l != nil && !l.dead() {
		return l, false, nil
	}
	fresh = l == nil
	if l, err = h.establish(ctx); err != nil {
		return nil, fresh, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over {
		l.close()
		return nil, fresh, errors.New("it was closed")
	}
	h.link = l
	return l, fresh, nil
}

// forget makes the next connection a first one.
func (h *Host) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.link != nil && h.link.dead() {
		h.link = nil
	}
}

func (h *Host) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = true
	if h.link != nil {
		h.link.close()
	}
}

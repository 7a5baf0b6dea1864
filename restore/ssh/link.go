package ssh

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
	gossh "golang.org/x/crypto/ssh"
)

// endWithin is how long an agent has to come to an end after it was told to.
const endWithin = 10 * time.Second

// A link is a connection to a machine with the program ready on it, and a keeper that removes the program when the link is gone.
type link struct {
	host     *Host
	chain    *chain
	delivery delivery
	keeper   *conversation
	gone     chan struct{} // closed when the connection has ended
	once     sync.Once

	mu   sync.Mutex
	idle []*conversation // that wait for another request
}

// establish connects and brings the program. It may be removed at that very moment by its last former user: then it is brought again.
func (h *Host) establish(ctx context.Context) (*link, error) {
	c, err := connect(ctx, h.settings)
	if err != nil {
		return nil, err
	}
	l := &link{host: h, chain: c, gone: make(chan struct{})}
	go func() {
		_ = c.client().Wait() // why is told to whoever used it
		close(l.gone)
	}()
	const attempts = 3
	for i := 1; ; i++ {
		if err = l.prepare(ctx); err == nil {
			return l, nil
		}
		var brought *bringError
		if i == attempts || lost(err) || !errors.Is(err, errReplaced) && !errors.As(err, &brought) {
			c.close()
			return nil, err
		}
	}
}

func (l *link) prepare(ctx context.Context) (err error) {
	if l.delivery, err = l.host.deliver(ctx, l.chain.client()); err != nil {
		return err
	}
	keep := l.delivery
	keep.sudo = false // it keeps the login user's own file
	l.keeper, err = l.converse(ctx, keep.command("keep"))
	if err == nil || lost(err) || errors.Is(err, errReplaced) || ctx.Err() != nil {
		return err
	}
	// Nobody can use it, and no keeper will remove it.
	_, gone := output(ctx, l.chain.client(), sh(fmt.Sprintf("rm -f %s/%s; rmdir %[1]s 2>/dev/null; true", l.delivery.dir, l.delivery.name)), nil)
	return errors.Join(fmt.Errorf("run %s, brought to %s: %w", l.delivery.from, l.delivery.dir, err), gone)
}

func (l *link) dead() bool {
	select {
	case <-l.gone:
		return true
	default:
		return false
	}
}

// close ends the connection. The keeper is told first, so that it has removed the program when this returns.
func (l *link) close() {
	l.once.Do(func() {
		if l.keeper != nil && !l.dead() {
			l.keeper.finish()
		}
		l.chain.close()
	})
}

// call begins a request, in a conversation that is idle or in a new one.
func (l *link) call(ctx context.Context, req request) (*conversation, error) {
	l.mu.Lock()
	var c *conversation
	if n := len(l.idle); n > 0 {
		c, l.idle = l.idle[n-1], l.idle[:n-1]
		c.again = true
	}
	l.mu.Unlock()
	if c == nil {
		var err error
		if c, err = l.converse(ctx, l.delivery.command("serve")); err != nil {
			return nil, err
		}
	}
	c.bind(ctx)
	if err := c.out.writeJSON(frameRequest, req); err != nil {
		defer c.close()
		return nil, c.broken(err)
	}
	return c, nil
}

// A conversation is a session with an agent. Heartbeats go out until it is closed. When the context of a request ends, the agent
// is told to end, and has a moment to do so.
type conversation struct {
	link      *link
	session   *gossh.Session
	in        *bufio.Reader
	out       *frames
	stdin     io.Closer
	complaint lastWords
	stop      func() bool // undoes bind; false if the context had ended
	again     bool        // there were requests before
	answered  bool        // the last request is over, and nothing of it is left on the way
	quit      chan struct{}
	beats     sync.WaitGroup
	over      sync.Once
}

func (l *link) converse(ctx context.Context, command string) (*conversation, error) {
	session, err := l.chain.client().NewSession()
	if err != nil {
		return nil, &LostError{Host: l.host.url, Err: fmt.Errorf("open a session: %w", err)}
	}
	c := &conversation{link: l, session: session, quit: make(chan struct{})}
	session.Stderr = &c.complaint
	stdin, err := session.StdinPipe()
	if err == nil {
		var stdout io.Reader
		stdout, err = session.StdoutPipe()
		c.stdin, c.out, c.in = stdin, &frames{w: stdin}, bufio.NewReaderSize(stdout, 256<<10)
	}
	if err == nil {
		err = session.Start(command)
	}
	if err != nil {
		_ = session.Close() // it was not used
		return nil, &LostError{Host: l.host.url, Err: fmt.Errorf("run the program: %w", err)}
	}
	c.beats.Go(c.beat)
	c.bind(ctx)
	err = c.meet()
	if !c.stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// bind has the agent told when the context ends.
func (c *conversation) bind(ctx context.Context) {
	c.answered = false
	c.stop = context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(endWithin, func() { _ = c.session.Close() })
		defer timer.Stop()
		c.hangUp() // by which the agent knows
		<-c.quit
	})
}

// hangUp tells the agent that nothing more comes.
func (c *conversation) hangUp() { c.out.end(c.stdin) }

// release ends a request. The conversation waits for another one if it can.
func (c *conversation) release() {
	if !c.stop() || !c.answered {
		c.close()
		return
	}
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	c.link.idle = append(c.link.idle, c)
}

func (c *conversation) beat() {
	ticker := time.NewTicker(beatEvery)
	defer ticker.Stop()
	for {
		select {
		case <-c.quit:
			return
		case <-ticker.C:
			if c.out.write(frameBeat, nil) != nil {
				return // the reader meets the same end
			}
		}
	}
}

// meet makes sure that the other side is the same program.
func (c *conversation) meet() error {
	if err := greeted(c.in); err != nil {
		return c.broken(err)
	}
	var h hello
	if err := c.expect(frameHello, &h); err != nil {
		return err
	}
	if want := c.link.host.hosts.opt.Version; h.Version != want {
		return fmt.Errorf("the program for %s/%s is requorum %s, this one is %s: name one of the same version in ssh.binaries", h.OS, h.Arch, h.Version, want)
	}
	return nil
}

// expect reads the next frame, which must be of a kind.
func (c *conversation) expect(want frame, v any) error {
	kind, payload, err := readFrame(c.in, nil)
	if err != nil {
		return c.broken(err)
	}
	if kind != want {
		return fmt.Errorf("its agent answered with %q where %q was expected", kind, want)
	}
	if err := json.Unmarshal(payload, v); err != nil {
		return fmt.Errorf("read its agent's answer: %w", err)
	}
	return nil
}

// broken is the error of a conversation that ended in the middle: by the connection's end, or by the agent's.
func (c *conversation) broken(err error) error {
	if c.link.dead() {
		return &LostError{Host: c.link.host.url, Err: fmt.Errorf("the connection was lost: %w", err)}
	}
	timer := time.AfterFunc(endWithin, func() { _ = c.session.Close() })
	defer timer.Stop()
	c.hangUp()
	werr := c.session.Wait()
	words := c.complaint.String()
	var exit *gossh.ExitError
	switch {
	case errors.As(werr, &exit) && (exit.ExitStatus() == exitReplaced || exit.ExitStatus() == 127 && !strings.Contains(words, "sudo")):
		return fmt.Errorf("%w: %s", errReplaced, words)
	case errors.As(werr, &exit) && !c.again:
		return fmt.Errorf("its agent ended with code %d: %s", exit.ExitStatus(), words)
	}
	return &LostError{Host: c.link.host.url, Err: fmt.Errorf("its agent ended: %w %s", err, words)}
}

// exitReplaced is how a keeper whose program was removed ends.
const exitReplaced = 75

// ExitCode is the exit code of an agent's process.
func ExitCode(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errReplaced):
		return exitReplaced
	}
	return 1
}

// result reads the outcome.
func (c *conversation) result(ctx context.Context) (result, error) {
	var r result
	if err := c.expect(frameResult, &r); err != nil {
		return r, err
	}
	c.answered = !r.Over
	return r, r.failure(ctx, c.link.host.url)
}

// failure is the error that a result tells of.
func (r result) failure(ctx context.Context, host string) error {
	switch {
	case r.Over && ctx.Err() != nil:
		return context.Cause(ctx)
	case r.Over:
		return &LostError{Host: host, Err: errors.New(r.Error)}
	case r.Host != nil:
		return r.Host
	case r.None:
		return fmt.Errorf("%s: %w", r.Error, fs.ErrNotExist)
	case r.Error != "":
		return errors.New(r.Error)
	}
	return nil
}

// receive writes a database that the agent sends.
func (c *conversation) receive(ctx context.Context, w io.Writer) error {
	decoder, err := newDecoder()
	if err != nil {
		return err
	}
	defer decoder.Close()
	var packed, raw []byte
	began, whole := false, false
	for {
		var kind frame
		if kind, packed, err = readFrame(c.in, packed); err != nil {
			err = c.broken(err)
			if began { // what was written cannot be taken back
				err = fmt.Errorf("in the middle of a database: %s", err.Error())
			}
			return err
		}
		switch kind {
		case frameData:
			if raw, err = unpack(decoder, packed, raw); err != nil {
				return err
			}
			began = true
			if _, err := w.Write(raw); err != nil {
				return err
			}
		case frameEnd:
			whole = true
		case frameResult:
			var r result
			if err := json.Unmarshal(packed, &r); err != nil {
				return fmt.Errorf("read its agent's answer: %w", err)
			}
			c.answered = !r.Over
			if err := r.failure(ctx, c.link.host.url); err != nil || whole {
				return err
			}
			return errors.New("its agent did not send the end of the database")
		default:
			return fmt.Errorf("its agent answered with %q in a database", kind)
		}
	}
}

func unpack(decoder *zstd.Decoder, packed, buf []byte) ([]byte, error) {
	raw, err := decoder.DecodeAll(packed, buf[:0])
	if err != nil {
		return nil, fmt.Errorf("unpack the database: %w", err)
	}
	return raw, nil
}

// wanted waits until the agent says what it has of the database; if it wants none, the outcome is there already.
func (c *conversation) wanted(ctx context.Context) (p part, wanted bool, err error) {
	kind, payload, err := readFrame(c.in, nil)
	if err != nil {
		return p, false, c.broken(err)
	}
	switch kind {
	case framePart:
		if err := json.Unmarshal(payload, &p); err != nil {
			return p, false, fmt.Errorf("read its agent's answer: %w", err)
		}
		return p, true, nil
	case frameResult:
		var r result
		if err := json.Unmarshal(payload, &r); err != nil {
			return p, false, fmt.Errorf("read its agent's answer: %w", err)
		}
		c.answered = !r.Over
		return p, false, r.failure(ctx, c.link.host.url)
	}
	return p, false, fmt.Errorf("its agent answered with %q", kind)
}

// send sends the database from an offset on and waits for the outcome. If the agent gives up in the middle, its reason counts.
func (c *conversation) send(ctx context.Context, a *archive, from int64, sent func(n int64)) error {
	if err := c.out.writeJSON(frameOffset, part{Size: from}); err != nil {
		return c.broken(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answered := make(chan error, 1)
	go func() {
		_, err := c.result(ctx)
		answered <- err
		cancel() // nobody reads any more
	}()
	var refused error
	write := func(kind frame, packed []byte) error {
		refused = c.out.write(kind, packed)
		return refused
	}
	err := a.send(ctx, from, func(packed []byte) error { return write(frameData, packed) }, sent)
	if err == nil {
		err = write(frameEnd, nil)
	}
	if err == nil {
		told := <-answered
		c.answered = told == nil // else pieces may be on the way
		return told
	}
	defer func() { c.answered = false }()
	here := refused == nil && ctx.Err() == nil // it is this side that cannot go on
	c.hangUp()
	timer := time.AfterFunc(endWithin, func() { _ = c.session.Close() })
	defer timer.Stop()
	told := <-answered
	if here {
		return err
	}
	return told
}

// finish tells the agent that nothing more comes, and waits for its end.
func (c *conversation) finish() {
	c.hangUp()
	done := make(chan struct{})
	go func() {
		_ = c.session.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-c.link.gone:
	case <-time.After(endWithin):
	}
	c.close()
}

func (c *conversation) close() {
	c.over.Do(func() {
		close(c.quit)
		_ = c.session.Close() // it may have ended by itself
		c.beats.Wait()
	})
}

// lastWords keeps the end of what a program complained about.
type lastWords struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (w *lastWords) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.buf.Len() > 64<<10 {
		w.buf.Reset()
	}
	return w.buf.Write(b)
}

func (w *lastWords) String() string { return clip([]byte(w.text())) }

// text is all that is kept, line by line.
func (w *lastWords) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

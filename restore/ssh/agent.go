package ssh

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/requorum/requorum/restore"
)

const (
	// beatEvery is how often a coordinator says that it is there.
	beatEvery = 5 * time.Second
	// silence is how long an agent works on without hearing from its coordinator. It is far below [restore.StaleAfter], so that
	// nobody can have taken the run over while it works.
	silence = 25 * time.Second
)

// errUnheard ends an agent's work.
var errUnheard = errors.New("the coordinator is not heard any more")

// Serve answers the requests of a coordinator, one after another, on the host: the other end of [Host]. It reads from in, answers on out and
// carries the requests out on host. When in ends or falls silent, what is under way ends as with a cancelled context, and Serve returns;
// so it does at once when in ends between two requests.
//
// The error says that the conversation failed; that of a request is told to the coordinator.
func Serve(ctx context.Context, in io.Reader, out io.Writer, host restore.Host, version string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a := &agent{host: host, out: &frames{w: out}, jobs: make(chan *job), heard: make(chan struct{}, 1)}
	if _, err := io.WriteString(out, "\n"+greeting); err != nil {
		return err
	}
	if err := a.out.writeJSON(frameHello, hello{Version: version, OS: runtime.GOOS, Arch: runtime.GOARCH}); err != nil {
		return err
	}
	go func() { cancel(a.listen(ctx, bufio.NewReaderSize(in, 256<<10))) }() // it ends with in, or with the process
	go watch(ctx, a.heard, cancel)
	for {
		select {
		case j := <-a.jobs:
			err := a.out.writeJSON(frameResult, a.answer(ctx, j))
			close(j.done)
			if err != nil {
				return err
			}
		case <-ctx.Done():
			if err := context.Cause(ctx); !errors.Is(err, io.EOF) {
				return err
			}
			return nil
		}
	}
}

// watch ends the work when nothing is heard for too long.
func watch(ctx context.Context, heard <-chan struct{}, cancel context.CancelCauseFunc) {
	timer := time.NewTimer(silence)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-heard:
			timer.Reset(silence)
		case <-timer.C:
			cancel(fmt.Errorf("%w: nothing for %s", errUnheard, silence))
			return
		}
	}
}

// An agent is the conversation with one coordinator.
type agent struct {
	host  restore.Host
	out   *frames
	jobs  chan *job
	heard chan struct{}
}

// A job is one request, with what follows it.
type job struct {
	request
	data   chan []byte // pieces of the database, packed; closed at its end
	offset chan part   // its Size is where the database goes on
	done   chan struct{}
}

// said tells that the coordinator is there.
func (a *agent) said() {
	select {
	case a.heard <- struct{}{}:
	default:
	}
}

// listen reads what the coordinator says until it ends.
func (a *agent) listen(ctx context.Context, in io.Reader) error {
	var j *job
	ended := true
	for {
		kind, payload, err := readFrame(in, nil)
		if err != nil {
			return fmt.Errorf("%w: %w", errUnheard, err)
		}
		a.said()
		switch kind {
		case frameBeat:
		case frameRequest:
			j, ended = &job{data: make(chan []byte), offset: make(chan part, 1), done: make(chan struct{})}, false
			if err := json.Unmarshal(payload, &j.request); err != nil {
				return fmt.Errorf("read the request: %w", err)
			}
			select {
			case a.jobs <- j:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		case frameOffset:
			var p part
			if err := json.Unmarshal(payload, &p); err != nil || j == nil {
				return fmt.Errorf("read where the database goes on: %w", err)
			}
			select {
			case j.offset <- p:
			default:
				return errors.New("a second offset for one database")
			}
		case frameData, frameEnd:
			if ended {
				return errors.New("data after the end")
			}
			if ended = kind == frameEnd; ended {
				close(j.data)
				continue
			}
			if err := a.hand(ctx, j, payload); err != nil {
				return err
			}
		default:
			return fmt.Errorf("an unknown message %q", kind)
		}
	}
}

// hand waits until the piece is taken, or nobody wants it any more. That this takes long is not the coordinator's fault.
func (a *agent) hand(ctx context.Context, j *job, piece []byte) error {
	ticker := time.NewTicker(beatEvery)
	defer ticker.Stop()
	for {
		select {
		case j.data <- piece:
			return nil
		case <-j.done:
			return nil
		case <-ticker.C:
			a.said()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (a *agent) answer(ctx context.Context, req *job) result {
	var r result
	err := func() error {
		switch {
		case req.Inspect != nil:
			state, err := a.host.Inspect(ctx, *req.Inspect)
			r.State = &state
			return err
		case req.Apply != nil:
			return a.host.Apply(ctx, *req.Apply)
		case req.Stage != nil:
			t := &transfer{job: req, out: a.out, ctx: ctx}
			defer t.close()
			return a.host.Stage(ctx, *req.Stage, t)
		case req.Fetch != nil:
			return a.fetch(ctx, *req.Fetch)
		}
		return errors.New("an empty request: it is of another version of requorum")
	}()
	if err != nil {
		r.State, r.Error, r.None = nil, err.Error(), errors.Is(err, fs.ErrNotExist)
		r.Over = errors.Is(err, errUnheard) || errors.Is(context.Cause(ctx), errUnheard)
		if h, ok := errors.AsType[*restore.HostError](err); ok {
			r.Host = h
		}
	}
	return r
}

func (a *agent) fetch(ctx context.Context, req restore.FetchRequest) error {
	p, err := newPacker(func(piece []byte) error { return a.out.write(frameData, piece) })
	if err != nil {
		return err
	}
	defer p.encoder.Close()
	if err := a.host.Fetch(ctx, req, p); err != nil {
		return err
	}
	if err := p.flush(); err != nil {
		return err
	}
	return a.out.write(frameEnd, nil)
}

// A packer cuts what is written into pieces and packs each.
type packer struct {
	encoder *zstd.Encoder
	send    func(piece []byte) error
	buf     []byte
	packed  []byte
}

func newPacker(send func([]byte) error) (*packer, error) {
	encoder, err := newEncoder()
	return &packer{encoder: encoder, send: send, buf: make([]byte, 0, pieceSize)}, err
}

func (p *packer) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		take := min(len(b), pieceSize-len(p.buf))
		p.buf, b = append(p.buf, b[:take]...), b[take:]
		if len(p.buf) == pieceSize {
			if err := p.flush(); err != nil {
				return n - len(b), err
			}
		}
	}
	return n, nil
}

func (p *packer) flush() error {
	if len(p.buf) == 0 {
		return nil
	}
	p.packed = p.encoder.EncodeAll(p.buf, p.packed[:0])
	p.buf = p.buf[:0]
	return p.send(p.packed)
}

// A transfer is the database of a stage request as it arrives.
type transfer struct {
	job     *job
	out     *frames
	ctx     context.Context // of the request: a reader has no other way to end with it
	decoder *zstd.Decoder
	buf     []byte // the unpacked piece
	rest    []byte // what is left of it
	asked   bool
}

var _ restore.Transfer = (*transfer)(nil)

// Resume implements [restore.Transfer].
func (t *transfer) Resume(size int64, sum string) (int64, error) {
	t.asked = true
	if err := t.out.writeJSON(framePart, part{Size: size, Checksum: sum}); err != nil {
		return 0, err
	}
	select {
	case p := <-t.job.offset:
		return p.Size, nil
	case <-t.ctx.Done():
		return 0, context.Cause(t.ctx)
	}
}

// Read implements [io.Reader].
func (t *transfer) Read(b []byte) (int, error) {
	if !t.asked {
		if _, err := t.Resume(0, ""); err != nil {
			return 0, err
		}
	}
	if len(t.rest) == 0 {
		select {
		case piece, more := <-t.job.data:
			if !more {
				return 0, io.EOF
			}
			if err := t.unpack(piece); err != nil {
				return 0, err
			}
		case <-t.ctx.Done():
			return 0, context.Cause(t.ctx)
		}
	}
	n := copy(b, t.rest)
	t.rest = t.rest[n:]
	return n, nil
}

func (t *transfer) unpack(piece []byte) (err error) {
	if t.decoder == nil {
		if t.decoder, err = newDecoder(); err != nil {
			return err
		}
	}
	if t.buf, err = t.decoder.DecodeAll(piece, t.buf[:0]); err != nil {
		return fmt.Errorf("unpack the database: %w", err)
	}
	t.rest = t.buf
	return nil
}

func (t *transfer) close() {
	if t.decoder != nil {
		t.decoder.Close()
	}
}

// newEncoder packs as fast as it can, on the calling goroutine.
func newEncoder() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(pieceSize))
}

// newDecoder unpacks pieces, and nothing larger.
func newDecoder() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(4*pieceSize))
}

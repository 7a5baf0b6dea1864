package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
)

// DefaultIdle is how long a snapshot stream may deliver nothing before it is given up.
const DefaultIdle = 30 * time.Second

// A Stream is an etcd database file as it arrives from a member: the file, then the sha256 of it
// in 32 bytes. Read or WriteTo it to the end from one goroutine; io.EOF comes only after the whole.
type Stream struct {
	Size    int64  // bytes in all, with the 32 of the checksum
	Version string // storage version of the database; "" before 3.6

	endpoint *endpoint
	client   *Client
	asked    context.Context // the caller's, for telling its end from the watchdog's; the stream lives no longer
	rpc      grpc.ClientStream
	cancel   context.CancelCauseFunc
	idle     time.Duration
	watchdog *time.Timer
	chunk    chunk    // the last one received
	rest     [][]byte // what of it was not read yet
	left     uint64   // what the server says is still to come
	err      error
}

// Snapshot opens the stream of endpoint's database; it needs the root role where authentication is
// on. The member holds a read transaction meanwhile, so a stream that stands still makes its
// database grow and can block the member: read it at full speed into something that never waits,
// and Close it. When no bytes arrive for idle (0: [DefaultIdle]) the stream is cancelled and ends with
// [ErrStalled]; empty messages are no bytes. Time that the reader takes does not count.
//
// The revision is not known from the stream, only from the file.
func (c *Client) Snapshot(ctx context.Context, endpoint string, idle time.Duration) (*Stream, error) {
	e, err := c.endpoint(endpoint)
	if err != nil {
		return nil, err
	}
	if idle <= 0 {
		idle = DefaultIdle
	}
	var s *Stream
	err = c.call(ctx, e, opSnapshot, 0, func(context.Context) (err error) {
		s, err = c.open(ctx, e, idle)
		return err
	})
	return s, err
}

// open starts the call and waits for the first bytes, without which nothing is known: neither
// whether the server agrees nor how much there is.
func (c *Client) open(ctx context.Context, e *endpoint, idle time.Duration) (*Stream, error) {
	running, cancel := context.WithCancelCause(ctx)
	s := &Stream{endpoint: e, client: c, asked: ctx, cancel: cancel, idle: idle}
	s.watchdog = time.AfterFunc(idle, func() { cancel(ErrStalled) })
	fail := func(err error) (*Stream, error) {
		s.watchdog.Stop()
		if errors.Is(context.Cause(running), ErrStalled) {
			err = s.stalled()
		}
		cancel(nil)
		return nil, err
	}
	var err error
	if s.rpc, err = openSnapshot(running, e.conn); err != nil {
		return fail(err)
	}
	if err := s.receive(); err != nil {
		return fail(err)
	}
	s.watchdog.Stop()
	s.Version = s.chunk.version
	s.Size = int64(s.left) + checksumSize
	for _, b := range s.rest {
		s.Size += int64(len(b))
	}
	return s, nil
}

// checksumSize is the length of the sha256 after the database, which the server does not count
// among the remaining bytes.
const checksumSize = 32

func (s *Stream) stalled() error {
	return &Error{
		Op: opSnapshot, Endpoint: s.endpoint.name, Err: ErrStalled,
		What:   fmt.Sprintf("no bytes for %v", s.idle),
		Advice: "the stream was cancelled, because it holds a transaction open in the member: look at the member's disk and load",
	}
}

// next waits for the next bytes.
func (s *Stream) next() error {
	if s.err != nil {
		return s.err
	}
	s.watchdog.Reset(s.idle)
	err := s.receive()
	s.watchdog.Stop()
	if err != nil {
		s.err = s.ended(err)
		s.cancel(nil)
	}
	return s.err
}

// receive waits for a chunk with bytes in it. What was received before is gone then.
func (s *Stream) receive() error {
	s.rest = nil
	for len(s.rest) == 0 {
		if err := s.rpc.RecvMsg(&s.chunk); err != nil {
			s.chunk.free()
			return err
		}
		s.rest, s.left = s.chunk.blob, s.chunk.remaining
	}
	return nil
}

func (s *Stream) ended(err error) error {
	switch {
	case err == io.EOF && s.left == 0:
		return io.EOF
	case err == io.EOF:
		return &Error{Op: opSnapshot, Endpoint: s.endpoint.name, Err: io.ErrUnexpectedEOF, What: fmt.Sprintf("the stream ended with %d bytes missing", s.left)}
	case errors.Is(context.Cause(s.rpc.Context()), ErrStalled):
		return s.stalled()
	}
	return s.client.explain(s.asked, s.endpoint, opSnapshot, 0, err)
}

func (s *Stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(s.rest) == 0 {
		if err := s.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.rest[0])
	s.consume(n)
	return n, nil
}

// consume drops n bytes of the first piece.
func (s *Stream) consume(n int) {
	if s.rest[0] = s.rest[0][n:]; len(s.rest[0]) == 0 {
		s.rest = s.rest[1:]
	}
}

// writeSize is how much WriteTo writes at once. Pieces arrive in 16 KiB and less, and a file system takes far longer over many of them.
const writeSize = 256 << 10

// WriteTo implements io.WriterTo with writes of 256 KiB.
func (s *Stream) WriteTo(w io.Writer) (total int64, err error) {
	buffer := make([]byte, 0, writeSize)
	flush := func() error {
		n, err := w.Write(buffer)
		total += int64(n)
		buffer = buffer[:0]
		return err
	}
	for {
		if len(s.rest) == 0 {
			if err := s.next(); err != nil {
				if werr := flush(); werr != nil || err == io.EOF {
					return total, werr
				}
				return total, err
			}
		}
		n := copy(buffer[len(buffer):cap(buffer)], s.rest[0])
		buffer = buffer[:len(buffer)+n]
		s.consume(n)
		if len(buffer) == cap(buffer) {
			if err := flush(); err != nil {
				return total, err
			}
		}
	}
}

// Close ends the stream; the member lets go of its transaction.
func (s *Stream) Close() error {
	s.watchdog.Stop()
	s.cancel(nil)
	if s.err == nil {
		s.err = errors.New("the snapshot stream is closed")
	}
	return nil
}

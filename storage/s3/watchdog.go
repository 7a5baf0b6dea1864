package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	// stallAfter without a single byte moved, a request is given up and tried again. There is no other limit
	// on a transfer: a slow one may take as long as it moves.
	stallAfter = time.Minute

	// assembleWithin is how long a server may be silent over the request that completes an upload: some copy the parts
	// together then, byte by byte.
	assembleWithin = 15 * time.Minute
)

var errStalled = errors.New("the connection stalled")

// watchdog is an HTTP client that ends requests that stall.
type watchdog struct {
	client interface {
		Do(*http.Request) (*http.Response, error)
	}
	stall, assemble time.Duration
}

func (w *watchdog) Do(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	wait := w.stall
	switch r.Method {
	case http.MethodPut:
		wait = 2 * w.stall // a part is written to disk before the answer
	case http.MethodPost:
		wait = w.assemble
	}
	expire := func(d time.Duration, doing string) *time.Timer {
		return time.AfterFunc(d, func() { cancel(fmt.Errorf("%w: %s for %v", errStalled, doing, d)) })
	}
	answer := expire(wait, "no answer came")
	r = r.WithContext(ctx)
	var body *sent
	if r.Body != nil && r.Body != http.NoBody {
		answer.Stop()
		body = &sent{body: r.Body, stall: expire(w.stall, "no byte could be sent"), every: w.stall, answer: answer, wait: wait}
		r.Body = body
	}
	response, err := w.client.Do(r)
	if body != nil {
		body.shut()
	}
	answer.Stop()
	if err != nil {
		if cause := context.Cause(ctx); r.Context().Err() != nil && errors.Is(cause, errStalled) {
			err = cause
		}
		cancel(nil)
		return nil, err
	}
	response.Body = &received{ctx: ctx, body: response.Body, cancel: cancel, every: w.stall, expire: expire}
	return response, nil
}

// sent is the body of a request. The transport may go on reading it for a moment after Do returned with an
// error, when the buffer behind it is already used for something else: shut keeps it out.
type sent struct {
	mu     sync.Mutex
	body   io.ReadCloser
	closed bool

	stall  *time.Timer // runs while the body is sent
	every  time.Duration
	answer *time.Timer // runs from then on
	wait   time.Duration
}

func (b *sent) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.body.Read(p)
	if err != nil {
		b.stall.Stop()
		b.answer.Reset(b.wait)
	} else {
		b.stall.Reset(b.every)
	}
	return n, err
}

// Close is the transport's: all is sent, or will not be.
func (b *sent) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.stall.Stop()
		b.answer.Reset(b.wait)
	}
	b.closed = true
	return b.body.Close()
}

func (b *sent) shut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.stall.Stop()
	b.answer.Stop()
}

// received is the body of a response. Only the time spent waiting for bytes counts, not that of a slow reader.
type received struct {
	ctx    context.Context // of this one request
	body   io.ReadCloser
	cancel context.CancelCauseFunc
	every  time.Duration
	expire func(time.Duration, string) *time.Timer
}

func (b *received) Read(p []byte) (int, error) {
	timer := b.expire(b.every, "no byte came")
	n, err := b.body.Read(p)
	timer.Stop()
	if err != nil && err != io.EOF {
		if cause := context.Cause(b.ctx); errors.Is(cause, errStalled) {
			err = cause
		}
	}
	return n, err
}

func (b *received) Close() error {
	defer b.cancel(nil)
	return b.body.Close()
}

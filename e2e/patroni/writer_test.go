package patroni

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// writePause is between two rows: some 50 a second, which leaves a busy machine time for the rest.
const writePause = 20 * time.Millisecond

// A writer inserts one row after the other on whatever node leads, and remembers the acknowledged ones.
type writer struct {
	lab    *lab
	cancel context.CancelFunc
	done   chan struct{}

	mu    sync.Mutex
	acked []int64
	on    string // the node that acknowledged last
}

func newWriter(l *lab) *writer {
	ctx, cancel := context.WithCancel(context.Background())
	w := &writer{lab: l, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		w.run(ctx)
	}()
	l.t.Cleanup(func() { w.stop() })
	return w
}

// stop ends it and returns the acknowledged ids, sorted.
func (w *writer) stop() []int64 {
	w.cancel()
	<-w.done
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(slices.Values(w.acked))
}

// count is how many rows were acknowledged so far.
func (w *writer) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

// more waits until n more rows are acknowledged.
func (w *writer) more(n int) {
	w.lab.t.Helper()
	want := w.count() + n
	w.lab.until(fmt.Sprintf("%d more rows", n), func() bool { return w.count() >= want })
}

func (w *writer) run(ctx context.Context) {
	next := int64(1)
	for ctx.Err() == nil {
		if n := w.lab.primary(); n != nil {
			next = w.session(ctx, n, next)
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// session writes to one node until that fails. An id that was sent and not acknowledged is not used again.
func (w *writer) session(ctx context.Context, n *node, next int64) int64 {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(binDir, "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", n.conn()+" options='-c statement_timeout=3000'")
	in, err := cmd.StdinPipe()
	if err != nil {
		return next
	}
	out, err := cmd.StdoutPipe()
	if err != nil || cmd.Start() != nil {
		return next
	}
	defer func() {
		cancel()
		_, _ = io.Copy(io.Discard, out) // its end is all that counts
		_ = cmd.Wait()
	}()
	answers := bufio.NewScanner(out)
	for ; ctx.Err() == nil; next++ {
		if _, err := fmt.Fprintf(in, "INSERT INTO acked VALUES (%d) RETURNING id;\n", next); err != nil {
			return next + 1
		}
		if !answers.Scan() || strings.TrimSpace(answers.Text()) != fmt.Sprint(next) {
			return next + 1
		}
		w.mu.Lock()
		w.acked, w.on = append(w.acked, next), n.name
		w.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(writePause):
		}
	}
	return next
}

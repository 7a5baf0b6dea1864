package progress

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"
)

// Where stderr is a file, each stage is one line with bytes and detail, and no
// control characters reach a log.
func TestLines(t *testing.T) {
	var out bytes.Buffer
	r := New(&out, false)
	r.Start("stream", 0)
	r.Advance("stream", 1_500_000)
	r.Start("upload", 2_000_000)
	r.Advance("upload", 300_000)
	r.Done("stream", "from etcd2")
	r.Done("upload", "")
	r.Say("two copies")
	r.Close()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 3 {
		t.Fatalf("%d lines, want 3:\n%s", len(lines), out.String())
	}
	for i, want := range [][]string{{"stream", "1.5 MB", "from etcd2"}, {"upload", "300.0 kB"}, {"two copies"}} {
		for _, w := range want {
			if !strings.Contains(lines[i], w) {
				t.Errorf("line %d is %q, without %q", i, lines[i], w)
			}
		}
	}
	if strings.ContainsAny(out.String(), "\x1b\r") {
		t.Errorf("control characters in %q", out.String())
	}
}

// On a terminal a bar shows bytes on the way, and finished stages leave lines.
// Stages abandoned half-way must not make Close wait for ever.
func TestBars(t *testing.T) {
	var out lockedBuffer
	r := New(&out, true)
	r.Start("stream", 10_000_000)
	deadline := time.Now().Add(10 * time.Second)
	for !strings.Contains(out.String(), "10.0 MB") {
		if time.Now().After(deadline) {
			t.Fatalf("no bar with the total after 10 s: %q", out.String())
		}
		r.Advance("stream", 1000)
		time.Sleep(10 * time.Millisecond)
	}
	r.Done("stream", "from etcd2")
	r.Start("upload", 0)
	closed := make(chan struct{})
	go func() { r.Close(); close(closed) }()
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Fatal("Close hangs on an unfinished stage")
	}
	if !strings.Contains(out.String(), "from etcd2") {
		t.Errorf("the finished stage left no line: %q", out.String())
	}
}

// A nil Reporter is a valid one: libraries report without asking.
func TestNil(t *testing.T) {
	var r *Reporter
	r.Start("x", 1)
	r.Advance("x", 1)
	r.Done("x", "")
	r.Say("x")
	r.Close()
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

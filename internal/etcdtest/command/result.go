package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// The exit codes of requorum that users and their scripts rely on.
const (
	ExitOK        = 0
	ExitError     = 1
	ExitUsage     = 2
	ExitPartly    = 3
	ExitNothing   = 10
	ExitLocked    = 11
	ExitDecrypt   = 12
	ExitVerify    = 13
	ExitRefused   = 14
	ExitAgents    = 15
	ExitInterrupt = 130
	ExitTerminate = 143
)

// A Result is what a command that has ended has left.
type Result struct {
	Args           []string
	Code           int // -1: killed
	Stdout, Stderr string
}

func (r Result) String() string {
	return fmt.Sprintf("%s\nexit code %d\n--- stdout\n%s--- stderr\n%s", strings.Join(r.Args, " "), r.Code, r.Stdout, r.Stderr)
}

// Exits fails the test unless the command ended with the code and said each of the words, on either stream.
func (r Result) Exits(t testing.TB, code int, words ...string) Result {
	t.Helper()
	if r.Code != code {
		t.Fatalf("exit code %d, want %d:\n%s", r.Code, code, r)
	}
	for _, w := range words {
		if !strings.Contains(r.Stdout, w) && !strings.Contains(r.Stderr, w) {
			t.Errorf("it does not say %q:\n%s", w, r)
		}
	}
	if strings.Contains(r.Stderr, "panic:") || strings.Contains(r.Stderr, "goroutine 1 [") {
		t.Errorf("it panicked:\n%s", r)
	}
	return r
}

// Decode reads the JSON on stdout into v.
func (r Result) Decode(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.Stdout), v); err != nil {
		t.Fatalf("stdout is not the JSON that was asked for: %v\n%s", err, r)
	}
}

// An Output is what a command has written to one stream; it may be looked at while it grows.
type Output struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{} // closed when the text grows; nil: nobody waits
}

// Write implements [io.Writer].
func (o *Output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.more != nil {
		close(o.more)
		o.more = nil
	}
	return o.text.Write(b)
}

func (o *Output) String() string {
	text, _ := o.look()
	return text
}

// look is the text, and a channel that is closed when there is more.
func (o *Output) look() (text string, more <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.more == nil {
		o.more = make(chan struct{})
	}
	return o.text.String(), o.more
}

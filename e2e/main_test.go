package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/requorum/requorum/internal/etcdtest"
)

// program is the built requorum.
var program string

func TestMain(m *testing.M) {
	os.Exit(etcdtest.Main(m, func(built, _ string) { program = built }))
}

// The exit codes that users and their scripts rely on.
const (
	exitOK        = 0
	exitError     = 1
	exitUsage     = 2
	exitPartly    = 3
	exitNothing   = 10
	exitLocked    = 11
	exitDecrypt   = 12
	exitVerify    = 13
	exitRefused   = 14
	exitAgents    = 15
	exitInterrupt = 130
	exitTerminate = 143
)

// A command is requorum with arguments, perhaps still running.
type command struct {
	*exec.Cmd
	stdout, stderr output
	begun          time.Time
	cancel         context.CancelFunc
}

// A result is what a command that has ended has left.
type result struct {
	args           []string
	code           int // -1: killed
	stdout, stderr string
}

// An output may be looked at while it grows.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// start starts the program in dir. env is added to the environment.
func start(t *testing.T, dir string, env []string, args ...string) *command {
	t.Helper()
	return startProgram(t, dir, env, append([]string{program}, args...)...)
}

func startProgram(t *testing.T, dir string, env []string, args ...string) *command {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	c := &command{Cmd: exec.CommandContext(ctx, args[0], args[1:]...), begun: time.Now(), cancel: cancel}
	c.Dir, c.Stdout, c.Stderr = dir, &c.stdout, &c.stderr
	c.Env = append(os.Environ(), env...)
	c.WaitDelay = 10 * time.Second // for servers of its own that keep its output open
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cancel)
	return c
}

// wait waits for the end.
func (c *command) wait(t *testing.T) result {
	t.Helper()
	defer c.cancel()
	err := c.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v\n%s", strings.Join(c.Args, " "), err, c.stderr.String())
	}
	t.Logf("%5.1f s, exit code %d: %s", time.Since(c.begun).Seconds(), c.ProcessState.ExitCode(), strings.Join(c.Args, " "))
	return result{args: c.Args, code: c.ProcessState.ExitCode(), stdout: c.stdout.String(), stderr: c.stderr.String()}
}

// reaches waits until the command has finished a stage, as its lines on stderr tell.
func (c *command) reaches(t *testing.T, stage string) {
	t.Helper()
	until(t, stage+" of "+strings.Join(c.Args, " "), func() bool {
		return strings.Contains("\n"+c.stderr.String(), "\n"+stage+" ")
	})
}

// signal sends a signal; one that comes too late is no error.
func (c *command) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := c.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
}

func (r result) String() string {
	return fmt.Sprintf("%s\nexit code %d\n--- stdout\n%s--- stderr\n%s", strings.Join(r.args, " "), r.code, r.stdout, r.stderr)
}

// exits fails the test unless the command ended with the code and said each of the words, on either stream.
func (r result) exits(t *testing.T, code int, words ...string) result {
	t.Helper()
	if r.code != code {
		t.Fatalf("exit code %d, want %d:\n%s", r.code, code, r)
	}
	for _, w := range words {
		if !strings.Contains(r.stdout, w) && !strings.Contains(r.stderr, w) {
			t.Errorf("it does not say %q:\n%s", w, r)
		}
	}
	if strings.Contains(r.stderr, "panic:") || strings.Contains(r.stderr, "goroutine 1 [") {
		t.Errorf("it panicked:\n%s", r)
	}
	return r
}

// decode reads the JSON on stdout into v.
func (r result) decode(t *testing.T, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.stdout), v); err != nil {
		t.Fatalf("stdout is not the JSON that was asked for: %v\n%s", err, r)
	}
}

// tool runs another program, which must succeed, and returns what it wrote on stdout.
func tool(t *testing.T, args ...string) string {
	t.Helper()
	return startProgram(t, t.TempDir(), nil, args...).wait(t).exits(t, exitOK).stdout
}

// etcdutl is etcd's own tool for files.
func etcdutl(t *testing.T) string { return etcdtest.Binary(t, "etcdutl", etcdtest.Latest) }

// until polls until f says so.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	pause := 20 * time.Millisecond
	for deadline := time.Now().Add(2 * time.Minute); !f(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited two minutes for %s", what)
		}
		time.Sleep(pause)
		pause = min(pause*11/10, 200*time.Millisecond)
	}
}

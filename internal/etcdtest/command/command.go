package command

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience is how long a command may take, and how long anybody waits for what it says, on a machine that does much else.
const patience = 8 * time.Minute

// Options say where a command runs.
type Options struct {
	Dir string
	Env []string // comes after the test's own environment
	// Through is a command line that runs what follows it, such as one that enters a network namespace. It must become that process.
	Through []string
}

// A Command is a program with arguments, perhaps still running. It is killed when it takes too long, and at the end of the test.
type Command struct {
	Args           []string // the program's name first, without its directory
	Stdout, Stderr Output

	cmd   *exec.Cmd
	begun time.Time
	ended chan struct{} // closed when it was waited for
	took  time.Duration // what follows is read after that
	err   error         // of the wait, other than an exit code
}

// Start starts a program.
func Start(t testing.TB, o Options, args ...string) *Command {
	t.Helper()
	c := &Command{Args: append([]string{filepath.Base(args[0])}, args[1:]...), begun: time.Now(), ended: make(chan struct{})}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	all := append(append([]string(nil), o.Through...), args...)
	c.cmd = exec.CommandContext(ctx, all[0], all[1:]...)
	c.cmd.Dir, c.cmd.Env, c.cmd.Stdout, c.cmd.Stderr = o.Dir, append(os.Environ(), o.Env...), &c.Stdout, &c.Stderr
	c.cmd.WaitDelay = 10 * time.Second // for servers of its own that keep its output open
	if err := c.cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	go func() {
		defer close(c.ended)
		defer cancel()
		err := c.cmd.Wait()
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) {
			c.err = err
		}
		c.took = time.Since(c.begun)
	}()
	t.Cleanup(func() {
		cancel()
		<-c.ended
	})
	return c
}

// Run runs a program to its end.
func Run(t testing.TB, o Options, args ...string) Result {
	t.Helper()
	return Start(t, o, args...).Wait(t)
}

// String is the command as it would be typed.
func (c *Command) String() string { return strings.Join(c.Args, " ") }

// Ended is closed when the command has ended.
func (c *Command) Ended() <-chan struct{} { return c.ended }

// Wait waits for the end.
func (c *Command) Wait(t testing.TB) Result {
	t.Helper()
	<-c.ended
	code := c.cmd.ProcessState.ExitCode()
	t.Logf("%5.1f s, exit code %d: %s", c.took.Seconds(), code, c)
	r := Result{Args: c.Args, Code: code, Stdout: c.Stdout.String(), Stderr: c.Stderr.String()}
	if c.err != nil {
		t.Fatalf("%v:\n%s", c.err, r)
	}
	return r
}

// Reaches waits until the command has finished a stage, as a line on stderr tells, which begins with its name.
func (c *Command) Reaches(t testing.TB, stage string) {
	t.Helper()
	c.await(t, &c.Stderr, "\n"+stage+" ")
}

// Says waits until the command has said a text on stderr.
func (c *Command) Says(t testing.TB, text string) {
	t.Helper()
	c.await(t, &c.Stderr, text)
}

// Prints waits until the command has printed a text on stdout.
func (c *Command) Prints(t testing.TB, text string) {
	t.Helper()
	c.await(t, &c.Stdout, text)
}

func (c *Command) await(t testing.TB, o *Output, text string) {
	t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	for ended := false; ; {
		said, more := o.look()
		switch {
		case strings.Contains("\n"+said, text):
			return
		case ended:
			t.Fatalf("%s ended without %q:\n%s", c, text, said)
		}
		select {
		case <-more:
		case <-c.ended:
			ended = true
		case <-late.C:
			t.Fatalf("waited %v for %q of %s:\n%s", patience, text, c, said)
		}
	}
}

// Signal sends a signal; one that comes too late is no error.
func (c *Command) Signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
}

// Kill ends the command as a power cut does.
func (c *Command) Kill(t testing.TB) Result {
	t.Helper()
	c.Signal(t, syscall.SIGKILL)
	return c.Wait(t)
}

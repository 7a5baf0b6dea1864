package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/requorum/requorum/restore"
)

// command runs one of the service's commands and returns its exit code and the end of what it
// printed. It runs in a session of its own, so that an etcd which it starts outlives requorum and
// gets none of the terminal's signals; its output goes to a file, so that such an etcd does not keep us waiting. A command that
// does not end in time is killed with its process group; that, and one that cannot be run, is an error.
func (p *place) command(ctx context.Context, verb, text string) (code int, output string, err error) {
	timeout := p.patience()
	log, remove, err := p.commandLog(verb)
	if err != nil {
		return 0, "", fmt.Errorf("%s: %s: %w", p.member.Name, verb, err)
	}
	defer remove()
	defer log.Close()

	cmd := exec.Command("/bin/sh", "-c", text)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "REQUORUM_MEMBER="+p.member.Name, "REQUORUM_DATA_DIR="+p.member.DataDir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return 0, "", fmt.Errorf("%s: run the %s command: %w", p.member.Name, verb, err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	var cut error
	select {
	case err = <-done:
	case <-timer.C:
		cut = fmt.Errorf("it did not end within %s", timeout)
	case <-ctx.Done():
		cut = context.Cause(ctx)
	}
	if cut != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it may have ended just now
		<-done
		advice := "see whether it works by hand"
		if verb == "start" {
			advice = "it must return and leave etcd running in the background"
		}
		return 0, "", p.fault(restore.HostCommand, advice, "the %s command %q: %v%s", verb, text, cut, tail(log))
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, tail(log), nil
	case errors.As(err, &exit) && exit.Exited() && exit.ExitCode() != 126 && exit.ExitCode() != 127:
		return exit.ExitCode(), tail(log), nil
	default: // killed, not found or not executable
		return 0, "", p.fault(restore.HostCommand, "see whether it works by hand", "the %s command %q: %v%s", verb, text, err, tail(log))
	}
}

// must runs a command that has to succeed.
func (p *place) must(ctx context.Context, verb, text string) error {
	code, output, err := p.command(ctx, verb, text)
	if err != nil {
		return err
	}
	if code != 0 {
		return p.ended(verb, text, code, output)
	}
	return nil
}

func (p *place) ended(verb, text string, code int, output string) error {
	return p.fault(restore.HostCommand, "see whether it works by hand", "the %s command %q ended with code %d%s", verb, text, code, output)
}

// call runs a program of the system, such as systemctl, and returns its standard output. One that cannot be run or does not end
// in time is an error; what it printed on standard error is the text of an exit code's error.
func (p *place) call(ctx context.Context, timeout time.Duration, program string, args ...string) (string, error) {
	call := strings.Join(append([]string{program}, args...), " ")
	bounded, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("it did not end within %s", timeout))
	defer cancel()
	cmd := exec.CommandContext(bounded, program, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "SYSTEMD_COLORS=0", "SYSTEMD_PAGER=")
	cmd.Dir, cmd.WaitDelay = "/", time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err == nil {
		return stdout.String(), nil
	}
	if cause := context.Cause(bounded); cause != nil {
		err = cause
	} else if text := strings.TrimSpace(stderr.String()); text != "" {
		err = fmt.Errorf("%w: %s", err, strings.Join(strings.Split(text, "\n"), "; "))
	}
	return stdout.String(), p.fault(restore.HostCommand, "see whether it works by hand", "%s: %v", call, err)
}

// patience bounds each command of the service.
func (p *place) patience() time.Duration {
	if t := p.member.Service.Timeout; t > 0 {
		return t
	}
	return restore.DefaultCommandTimeout
}

// commandLog is kept in the state directory, if there is one, for a person to read.
func (p *place) commandLog(verb string) (f *os.File, remove func(), err error) {
	if _, err := os.Stat(p.state); err == nil && verb != "status" {
		f, err := os.OpenFile(filepath.Join(p.state, verb+".log"), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
		return f, func() {}, err
	}
	if f, err = os.CreateTemp("", "requorum-"+verb+"-*"); err != nil {
		return nil, nil, err
	}
	return f, func() { os.Remove(f.Name()) }, nil
}

// tail returns the last lines of a command's output, each on a line of its own.
func tail(f *os.File) string {
	const most = 2048
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil || size == 0 {
		return ""
	}
	buf := make([]byte, min(size, most))
	n, err := f.ReadAt(buf, size-int64(len(buf)))
	if err != nil && err != io.EOF {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(buf[:n])), "\n")
	if len(lines) > 8 {
		lines = lines[len(lines)-8:]
	}
	text := strings.TrimSpace(strings.Join(lines, "\n    "))
	if text == "" {
		return ""
	}
	return "; it printed:\n    " + text
}

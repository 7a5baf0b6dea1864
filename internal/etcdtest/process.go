package etcdtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// stopTimeout bounds the wait for a process that was told to end.
const stopTimeout = patience

// A spawner starts processes from one thread that lives until close: the parent-death signal
// follows the starting thread, not the process.
type spawner struct {
	requests chan func()
	done     chan struct{}
}

func newSpawner() *spawner {
	s := &spawner{requests: make(chan func()), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for f := range s.requests {
			f()
		}
	}()
	return s
}

func (s *spawner) start(cmd *exec.Cmd) error {
	err := make(chan error)
	s.requests <- func() { err <- cmd.Start() }
	return <-err
}

// close ends the thread, and with it, on Linux, every process that it started.
func (s *spawner) close() {
	close(s.requests)
	<-s.done
}

// A process is a program that can be started, stopped and started again.
type process struct {
	spawner *spawner
	log     string // what it writes is appended to this file

	mu   sync.Mutex
	cmd  *exec.Cmd     // nil before the first start
	done chan struct{} // closed when cmd was waited for
}

// start runs args. Starting a process that runs does nothing.
func (p *process) start(args []string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.runningLocked() {
		return nil
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = ProcAttr()
	if err := p.spawner.start(cmd); err != nil {
		return err
	}
	done := make(chan struct{})
	p.cmd, p.done = cmd, done
	go func() {
		_ = cmd.Wait() // tests look at the state that it leaves
		close(done)
	}()
	return nil
}

func (p *process) runningLocked() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

func (p *process) running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.runningLocked()
}

// pid is 0 when the process does not run.
func (p *process) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.runningLocked() {
		return 0
	}
	return p.cmd.Process.Pid
}

// exit says how the process last ended.
func (p *process) exit() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil || p.runningLocked() {
		return "not at all"
	}
	return p.cmd.ProcessState.String()
}

func (p *process) signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.runningLocked() {
		return errors.New("it does not run")
	}
	return p.cmd.Process.Signal(sig)
}

// end sends sig and waits for the exit. Ending a process that does not run does nothing.
func (p *process) end(sig syscall.Signal) error {
	p.mu.Lock()
	if !p.runningLocked() {
		p.mu.Unlock()
		return nil
	}
	done := p.done
	err := p.cmd.Process.Signal(sig)
	p.mu.Unlock()
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-done:
		return nil
	case <-time.After(stopTimeout):
		return fmt.Errorf("it still runs %v after %v", stopTimeout, sig)
	}
}

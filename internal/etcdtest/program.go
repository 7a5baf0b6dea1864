package etcdtest

import (
	"syscall"
	"testing"
)

// A Program is a server of another kind that lives, like the etcd servers here, no longer than the test that starts it: not
// even when the test is killed.
type Program struct{ *process }

// NewProgram prepares a program that writes to the file log. When t ends, it is killed.
func NewProgram(t testing.TB, log string) *Program {
	t.Helper()
	p := &Program{&process{spawner: newSpawner(), log: log}}
	t.Cleanup(func() {
		if err := p.end(syscall.SIGKILL); err != nil {
			t.Errorf("end the program that writes %s: %v", log, err)
		}
		p.spawner.close()
	})
	return p
}

// Start runs args, the program's name first, unless it runs already.
func (p *Program) Start(t testing.TB, args ...string) {
	t.Helper()
	if err := p.start(args); err != nil {
		t.Fatalf("start %s: %v", args[0], err)
	}
}

// End sends sig and waits for the exit; it does nothing when the program does not run.
func (p *Program) End(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := p.end(sig); err != nil {
		t.Fatal(err)
	}
}

// Running says whether the program's process exists.
func (p *Program) Running() bool { return p.running() }

// PID is the program's process, 0 when it does not run.
func (p *Program) PID() int { return p.pid() }

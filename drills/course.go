package drills

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/restore"
)

// A course records the steps of a drill as they are taken. It is the [restore.Progress] of the drill's restore, whose stages become
// steps, and passes all on to whoever watches.
type course struct {
	now   func() time.Time
	watch restore.Progress

	mu    sync.Mutex
	steps []Step
	open  bool // the last of steps is being taken
}

// describe says, for a person, what a step does, those of a restore by the names of its stages, and what it must find where the step
// itself says nothing closer.
func describe(step string) (does, expected string) {
	switch step {
	case "source":
		return "choose the backup", "a backup that exists and whose last verification did not fail"
	case "backup":
		return "take a backup now", "a backup of the cluster as it is now"
	case "sandbox":
		return "make a sandbox for as many members as the cluster has", "room and ports for the members"
	case "checks":
		return "look whether anything speaks against the restore", "nothing that a restore would be refused for"
	case "fetch":
		return "bring the backup from the store, decrypt it, compare every byte's checksum", "stored bytes with the size and sha256 of the manifest, and a key that decrypts them"
	case "check":
		return "check the database's structure and recompute its hashes", "a whole etcd database whose revision, HashKV, key count, leases and users are those of the manifest"
	case "edit":
		return "remove ghosts, raise the revision", "a database that can be edited"
	case "predict":
		return "start etcd once on the prepared database, to know what each member must serve", "an etcd that starts on the prepared database"
	case "prepare":
		return "fetch, check, edit and predict", "no error"
	case "stage":
		return "build every member's data dir", "data dirs on disk"
	case "stop":
		return "make sure that nothing runs", "no error"
	case "gate":
		return "ask the agents where they stand", "no error"
	case "exchange":
		return "put the new data dirs in place", "no error"
	case "allow":
		return "allow starts", "no error"
	case "start":
		return "start every member", "start commands that succeed"
	case "prove":
		return "prove identity, health, content and a write on every member", "every member healthy, of the new cluster, with the predicted hash and without alarms, and a write that all of them read"
	case "agents":
		return "let the agents register", "every agent registered anew"
	case "end":
		return "write the journal", "no error"
	case "failover":
		return "let the holder of an election die, and see another take over", "an election key that is free when its holder's lease ends, and is then taken once"
	case "untouched":
		return "start etcd on the untouched backup, and hash it", "an etcd on the backup that serves the hash of the manifest"
	case "content":
		return "compare the restored cluster with the untouched backup, key by key", "every key of the backup in the restored cluster, but for the registrations that were removed"
	case "access":
		return "compare authentication, users and roles", "the same users and roles"
	case "leases":
		return "compare leases", "the leases that were kept, and no other"
	case "compare":
		return "compare with the running cluster, reading only", "a cluster whose content at the backup's revision has the backup's hash"
	case "objective":
		return "compare with what is asked for", "no error"
	case "teardown":
		return "take the sandbox down", "nothing left behind"
	}
	return step, "no error"
}

// begin opens a step. One that is still open was cut off by it, which is no failure: whoever goes on after a failure does not come here.
func (c *course) begin(name string, ofRestore bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.close(true)
	what, _ := describe(name)
	c.steps = append(c.steps, Step{Name: name, Does: what, Started: c.now().UTC(), Restore: ofRestore})
	c.open = true
}

// close ends the open step.
func (c *course) close(ok bool) {
	if !c.open {
		return
	}
	s := &c.steps[len(c.steps)-1]
	s.OK, s.Seconds = ok, c.now().Sub(s.Started).Seconds()
	c.open = false
}

// say adds evidence to the last step.
func (c *course) say(lines ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.steps) == 0 {
		return
	}
	s := &c.steps[len(c.steps)-1]
	for _, line := range lines {
		if line = strings.TrimSpace(line); line != "" {
			s.Evidence = append(s.Evidence, line)
		}
	}
}

// sayOf adds evidence to the named step.
func (c *course) sayOf(name string, lines ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.steps {
		if c.steps[i].Name == name {
			c.steps[i].Evidence = append(c.steps[i].Evidence, lines...)
		}
	}
}

// take does one step of the drill's own.
func (c *course) take(name string, f func() (evidence []string, err error)) error {
	c.begin(name, false)
	c.watch.Start(name, 0)
	evidence, err := f()
	c.say(evidence...)
	if err != nil {
		c.say(err.Error())
	}
	c.mu.Lock()
	c.close(err == nil)
	c.mu.Unlock()
	if err != nil {
		return &stepError{name, err}
	}
	detail := ""
	if len(evidence) > 0 {
		detail = evidence[0]
	}
	c.watch.Done(name, detail)
	return nil
}

// failed closes the step that a restore was at when it ended with an error, and returns its name; "" if it was at none.
func (c *course) failed(err error) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.open {
		return ""
	}
	s := &c.steps[len(c.steps)-1]
	s.Evidence = append(s.Evidence, err.Error())
	c.close(false)
	return s.Name
}

// cut says at which step a restore ended with an error.
func (c *course) cut(err error, verdicts []agents.Verdict) error {
	step := c.failed(err)
	var stopped *restore.Stopped
	switch {
	case errors.As(err, &stopped):
		step = string(stopped.Step)
		if errors.Is(err, restore.ErrAgents) {
			break
		}
		err = stopped.Err
	case errors.Is(err, restore.ErrAgents):
		step = "agents"
		c.fault(step)
	}
	if errors.Is(err, restore.ErrAgents) {
		err = fmt.Errorf("%w:%s", err, missing(verdicts))
	}
	if step != "" {
		return &stepError{step, err}
	}
	return &stepError{"checks", err}
}

// fault marks a step that ended well as the one that failed.
func (c *course) fault(step string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.steps {
		if c.steps[i].Name == step {
			c.steps[i].OK = false
		}
	}
}

func missing(verdicts []agents.Verdict) string {
	var b strings.Builder
	for _, v := range verdicts {
		for _, c := range v.Checks {
			if !c.OK {
				fmt.Fprintf(&b, " %s: %s: %s;", v.Name, c.Name, c.Detail)
			}
		}
	}
	return strings.TrimSuffix(b.String(), ";")
}

// forget drops the steps of an attempt that is made again.
func (c *course) forget(ofRestore bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = false
	var kept []Step
	for _, s := range c.steps {
		if s.Restore != ofRestore {
			kept = append(kept, s)
		}
	}
	c.steps = kept
}

// Start implements [restore.Progress].
func (c *course) Start(stage string, total int64) {
	c.begin(stage, true)
	c.watch.Start(stage, total)
}

// Advance implements [restore.Progress].
func (c *course) Advance(stage string, n int64) { c.watch.Advance(stage, n) }

// Done implements [restore.Progress].
func (c *course) Done(stage, detail string) {
	c.say(detail)
	c.mu.Lock()
	c.close(true)
	c.mu.Unlock()
	c.watch.Done(stage, detail)
}

// Say implements [restore.Progress].
func (c *course) Say(format string, args ...any) {
	c.say(fmt.Sprintf(format, args...))
	c.watch.Say(format, args...)
}

// A stepError is what a step ended with.
type stepError struct {
	step string
	err  error
}

func (e *stepError) Error() string { return fmt.Sprintf("drill step %q: %v", e.step, e.err) }
func (e *stepError) Unwrap() error { return e.err }

// A finding is an error that says what was expected, what was found, and what to try.
type finding struct {
	expected, found, try string
	err                  error // its kind, for the exit code; may be nil
}

func (f *finding) Error() string {
	if f.err != nil {
		return fmt.Sprintf("%v: %s, expected %s", f.err, f.found, f.expected)
	}
	return fmt.Sprintf("%s, expected %s", f.found, f.expected)
}

func (f *finding) Unwrap() error { return f.err }

package restore

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/storage/catalog"
)

var (
	// ErrNothingToRestore says that no source was found; the message lists what was looked at.
	ErrNothingToRestore = catalog.ErrNothingToRestore
	// ErrLocked says that another run holds a member's lock. The error is a [*LockedError] where
	// the owner is known.
	ErrLocked = errors.New("another run holds the lock")
	// ErrAgents says that etcd is proven healthy but agents are not back. The [Report] returned
	// beside it has their verdicts.
	ErrAgents = errors.New("etcd is healthy, but not every agent is back")
	// ErrPartly says that the cluster is rebuilt and proven, but that something beside it was not done: members were left
	// out, or the first backup failed. The [Report] returned beside it has the details.
	ErrPartly = errors.New("partly done")
	// ErrDeclined says that the ordinary question was answered with no. Nothing was changed.
	ErrDeclined = errors.New("not confirmed")
)

// A Refusal is an operation not done because it could do harm, with the flag that allows it and what that risks.
// Several come joined; [agents.SplitRefusals] takes them apart.
type Refusal = agents.Refusal

// A ChecksError says which checks failed before anything was changed.
type ChecksError struct{ Checks []Check }

func (e *ChecksError) Error() string {
	var b strings.Builder
	b.WriteString("checks before the restore failed; nothing was changed:")
	for _, c := range e.Checks {
		if c.Status != CheckFailed {
			continue
		}
		b.WriteString("\n  " + c.String())
	}
	return b.String()
}

// A LockedError names the run that holds a member's lock.
type LockedError struct {
	Member string
	Lock   Lock
	Age    time.Duration // since its last heartbeat
	// Dead says that the owner is proven gone: its process does not exist on the host it ran on.
	Dead bool
}

func (e *LockedError) Error() string {
	state := fmt.Sprintf("last heard of %s ago", e.Age.Round(time.Second))
	if e.Dead {
		state = "its process is gone"
	}
	advice := "wait for it to end"
	if e.Dead || e.Age > StaleAfter {
		advice = fmt.Sprintf("if it is really dead, go on in its place with --take-over %s", e.Lock.Run)
	}
	return fmt.Sprintf("%s: run %s of %s on %s (pid %d, since %s) holds the lock of member %s; %s: %s",
		ErrLocked, e.Lock.Run, e.Lock.User, e.Lock.Host, e.Lock.PID, e.Lock.Since.Format(time.RFC3339), e.Member, state, advice)
}

// Is makes errors.Is(err, ErrLocked) true.
func (e *LockedError) Is(target error) bool { return target == ErrLocked }

// A Stopped error ends a run in the middle: what was being done, what stands on every member, and
// the commands that lead on from here.
type Stopped struct {
	Run     string
	Step    StepKind
	Err     error
	Members []Standing
	Next    []string // exact commands, each with a word on what it does
}

// A Standing is what a member's place holds, in words.
type Standing struct {
	Member string `json:"member"`
	Host   string `json:"host,omitempty"` // as configured
	State  string `json:"state"`
}

func (e *Stopped) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "run %s stopped at %q: %v", e.Run, e.Step, e.Err)
	for _, m := range e.Members {
		fmt.Fprintf(&b, "\n  %s%s: %s", m.Member, onHost(m.Host), m.State)
	}
	for i, n := range e.Next {
		word := "next"
		if i > 0 {
			word = "or"
		}
		fmt.Fprintf(&b, "\n  %s: %s", word, n)
	}
	return b.String()
}

// onHost says where a member is, if not here.
func onHost(host string) string {
	if host == "" || host == HostLocal {
		return ""
	}
	return " on " + host
}

func (e *Stopped) Unwrap() error { return e.Err }

// HostCode says what kind of obstacle a host met.
type HostCode string

// The obstacles that a coordinator treats apart. Everything else is an ordinary error.
const (
	HostLocked    HostCode = "locked"    // another run holds the lock, or took it over
	HostRunning   HostCode = "running"   // an etcd process uses the member's place
	HostChanged   HostCode = "changed"   // a directory is not what this run left there
	HostNotStaged HostCode = "unstaged"  // there is no complete staged member of this run
	HostInhibited HostCode = "inhibited" // another run forbids a start here
	HostCommand   HostCode = "command"   // a command of the service failed
)

// A HostError is an obstacle on a host, in a form that travels between machines.
type HostError struct {
	Code   HostCode `json:"code"`
	Member string   `json:"member"`
	What   string   `json:"what"`             // what was being done and found
	Advice string   `json:"advice,omitempty"` // what to try
	Lock   *Lock    `json:"lock,omitempty"`   // with HostLocked
	Dead   bool     `json:"dead,omitempty"`   // with HostLocked: see [LockedError]
}

func (e *HostError) Error() string {
	s := e.Member + ": " + e.What
	if e.Advice != "" {
		s += " (" + e.Advice + ")"
	}
	return s
}

func isHost(err error, code HostCode) bool {
	var h *HostError
	return errors.As(err, &h) && h.Code == code
}

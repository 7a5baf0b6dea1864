package health

import (
	"fmt"
	"slices"
	"time"
)

// window is how long what only successive observations show is remembered.
const window = time.Hour

// sudden problems are raised and dropped at once: they do not come and go by themselves.
var sudden = []string{NoSpace, Corrupt, Mixed, Certificate, Leaders, Rebuilt, Unasked}

// ofReach are the problems that can be judged when no member answers. The others stand as they are then.
var ofReach = []string{Quorum, Access, MemberDown, Leaders, Rebuilt, Certificate}

// A Tracker makes problems of observations that follow each other. The zero value is not usable; see [NewTracker]. It is for
// one goroutine.
type Tracker struct {
	name  string
	t     Thresholds
	known map[subject]*state
	order []subject // of known

	leader      string      // the last known
	changes     []time.Time // of the leader, within window
	clusterID   string
	rebuiltAt   time.Time
	rebuiltWhat string
	revision    int64
	term        uint64
	below       int // observations in a row below these
}

type subject struct{ name, of string }

type state struct {
	Problem
	raised bool
	streak int // observations in a row that speak against raised
}

// NewTracker tracks the cluster of that name.
func NewTracker(name string, t Thresholds) *Tracker {
	t.Streak = max(t.Streak, 1)
	return &Tracker{name: name, t: t, known: map[subject]*state{}}
}

// LeaderChanges is how often the leader changed within the last hour of observations.
func (k *Tracker) LeaderChanges() int { return len(k.changes) }

// Add takes one more observation and returns the problems that stand now, those that have stood longest first. The words of a problem that
// stands change only with its severity: values move all the time.
func (k *Tracker) Add(o Observation) []Problem {
	k.remember(o)
	found := judge(k.name, o, k.t, func(name, of string) Severity {
		if s := k.known[subject{name, of}]; s != nil && s.raised {
			return s.Severity
		}
		return ""
	})
	found = append(found, k.past()...)
	seen := map[subject]bool{}
	for _, p := range found {
		key := subject{p.Name, p.Subject}
		seen[key] = true
		k.present(key, p)
	}
	answered := o.Answered()
	var standing []Problem
	k.order = slices.DeleteFunc(k.order, func(key subject) bool {
		if !seen[key] && (answered || slices.Contains(ofReach, key.name)) {
			k.absent(key)
		}
		s := k.known[key]
		if s != nil && s.raised {
			standing = append(standing, s.Problem)
		}
		return s == nil
	})
	return standing
}

func (k *Tracker) present(key subject, p Problem) {
	s := k.known[key]
	if s == nil {
		s = &state{}
		k.known[key] = s
		k.order = append(k.order, key)
	}
	if s.raised {
		s.streak = 0
		if s.Severity != p.Severity {
			s.Problem = p
		}
		return
	}
	s.Problem = p
	if s.streak++; s.streak >= k.t.Streak || slices.Contains(sudden, key.name) {
		s.raised, s.streak = true, 0
	}
}

func (k *Tracker) absent(key subject) {
	s := k.known[key]
	if s.raised {
		s.streak++
	}
	if !s.raised || s.streak >= k.t.Streak || slices.Contains(sudden, key.name) {
		delete(k.known, key)
	}
}

// remember notes changes of the leader, and a cluster that is not the one that answered before or has gone back.
func (k *Tracker) remember(o Observation) {
	if o.LeaderID != "" {
		if k.leader != "" && k.leader != o.LeaderID {
			k.changes = append(k.changes, o.Time)
		}
		k.leader = o.LeaderID
	}
	k.changes = slices.DeleteFunc(k.changes, func(t time.Time) bool { return o.Time.Sub(t) >= window })
	if o.Time.Sub(k.rebuiltAt) >= window {
		k.rebuiltWhat = ""
	}
	if len(o.ClusterIDs) != 1 {
		return
	}
	id, what := o.ClusterIDs[0], ""
	switch {
	case k.clusterID == "":
	case k.clusterID != id:
		what = fmt.Sprintf("the cluster id changed from %s to %s", k.clusterID, id)
	case o.Healthy == 0: // a member alone may be behind
		return
	case o.Revision >= k.revision && o.RaftTerm >= k.term:
		k.below = 0
	case k.below == 0: // perhaps the member that was ahead did not answer this time
		k.below++
		return
	case o.Revision < k.revision:
		what = fmt.Sprintf("the revision went back from %d to %d", k.revision, o.Revision)
	default:
		what = fmt.Sprintf("the raft term went back from %d to %d", k.term, o.RaftTerm)
	}
	if what != "" {
		k.rebuiltAt, k.rebuiltWhat = o.Time, what
		k.revision, k.term, k.below = 0, 0, 0
	}
	k.clusterID, k.revision, k.term = id, max(k.revision, o.Revision), max(k.term, o.RaftTerm)
}

// past are the problems of what was remembered.
func (k *Tracker) past() []Problem {
	var out []Problem
	if n := len(k.changes); k.t.LeaderChanges > 0 && n >= k.t.LeaderChanges {
		out = append(out, Problem{Severity: Warning, Name: Leaders, What: fmt.Sprintf("the leader changed %d times within an hour", n),
			Advice: "look for slow disks, a slow network or starved machines in the members' logs"})
	}
	if k.rebuiltWhat != "" {
		out = append(out, Problem{Severity: Warning, Name: Rebuilt, What: k.rebuiltWhat + ": it was rebuilt, or another one answers",
			Advice: "if nobody restored it, look at the members before the next backup: requorum list " + k.name})
	}
	return out
}

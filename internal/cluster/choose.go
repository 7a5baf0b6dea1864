package cluster

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// MaxLag is how many raft entries behind the most advanced member a backup may be taken from.
const MaxLag = 100

// Alarm types.
const (
	AlarmNoSpace = "NOSPACE"
	AlarmCorrupt = "CORRUPT"
)

// Rejected is a member that a backup must not be taken from.
type Rejected struct {
	Name     string // or endpoint
	Endpoint string
	Why      string
	Err      error // why the endpoint did not answer; nil when it did
}

// Choose returns the members that a backup can be taken from, best first, and why the others are
// not among them. Wanted: an answer, no learner, a leader, no CORRUPT or NOSPACE alarm about the
// member, at most [MaxLag] entries behind; then those that are not behind at all, so that nothing
// is missing that was acknowledged before, then followers before the leader, because a
// snapshot costs its member time, then the smallest database. Endpoints of two clusters are all
// rejected. If the only thing against any member is NOSPACE, such members are returned after
// all: a full database is whole, and it is the one that most needs a backup.
func Choose(all []MemberStatus) (usable []MemberStatus, rejected []Rejected) {
	var full []MemberStatus
	mixed := clusters(all)
	for i, s := range all {
		why := unfit(s)
		if why == "" && mixed != "" {
			why = mixed
		}
		if why == "" {
			same := slices.IndexFunc(all[:i], func(o MemberStatus) bool { return o.Err == nil && o.MemberID == s.MemberID })
			if same >= 0 {
				why = "the same member as " + all[same].Endpoint
			}
		}
		switch {
		case why != "":
			rejected = append(rejected, Rejected{Name: s.Label(), Endpoint: s.Endpoint, Why: why, Err: s.Err})
		case s.HasAlarm(AlarmNoSpace):
			full = append(full, s)
		default:
			usable = append(usable, s)
		}
	}
	if len(usable) == 0 {
		usable, full = full, nil
	}
	for _, s := range full {
		rejected = append(rejected, Rejected{Name: s.Label(), Endpoint: s.Endpoint, Why: "it has a NOSPACE alarm"})
	}
	slices.SortStableFunc(usable, func(a, b MemberStatus) int {
		return cmp.Or(last(a.Lag > 0, b.Lag > 0), last(a.IsLeader(), b.IsLeader()), cmp.Compare(a.DBSize, b.DBSize))
	})
	return usable, rejected
}

// last orders what is so after what is not.
func last(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// HasAlarm tells whether an alarm of that type is about this member, or about none in particular.
func (s MemberStatus) HasAlarm(kind string) bool {
	return slices.ContainsFunc(s.Alarms, func(a Alarm) bool {
		return a.Type == kind && (a.MemberID == 0 || a.MemberID == s.MemberID)
	})
}

// unfit says what is wrong with a member by itself, NOSPACE aside.
func unfit(s MemberStatus) string {
	switch {
	case s.IsLearner:
		return "it is a learner, which may be far behind"
	case s.Err != nil:
		var e *Error
		if errors.As(s.Err, &e) {
			if e.Advice != "" {
				return e.What + " (" + e.Advice + ")"
			}
			return e.What
		}
		return s.Err.Error()
	case s.HasAlarm(AlarmCorrupt):
		return "it has a CORRUPT alarm"
	case s.Leader == 0:
		return "it has no leader, so its state may be old"
	case s.Lag > MaxLag:
		return fmt.Sprintf("it lags %d raft entries behind", s.Lag)
	}
	return ""
}

// clusters says what is wrong when the endpoints that answer belong to more than one cluster.
func clusters(all []MemberStatus) string {
	var first *MemberStatus
	for i, s := range all {
		switch {
		case s.Err != nil:
		case first == nil:
			first = &all[i]
		case s.ClusterID != first.ClusterID:
			return fmt.Sprintf("the endpoints belong to different clusters (%s to %016x, %s to %016x)", first.Endpoint, first.ClusterID, s.Endpoint, s.ClusterID)
		}
	}
	return ""
}

// Unusable is the error for a cluster in which [Choose] finds no member: every endpoint with what
// was found.
type Unusable struct{ Rejected []Rejected }

func (e *Unusable) Error() string {
	var b strings.Builder
	b.WriteString("no member of the cluster can be backed up:")
	for _, r := range e.Rejected {
		fmt.Fprintf(&b, "\n  %s", r.Endpoint)
		if r.Name != r.Endpoint {
			fmt.Fprintf(&b, " (%s)", r.Name)
		}
		fmt.Fprintf(&b, ": %s", r.Why)
	}
	b.WriteString("\ntry: etcdctl endpoint status --cluster -w table, with the same endpoints and credentials")
	return b.String()
}

// Unwrap gives the errors of the endpoints that did not answer.
func (e *Unusable) Unwrap() []error {
	var out []error
	for _, r := range e.Rejected {
		if r.Err != nil {
			out = append(out, r.Err)
		}
	}
	return out
}

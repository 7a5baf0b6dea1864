// Package health looks at a cluster and at its backups and says what is wrong with them, for requorum check and for serve alike.
//
// [Observe] asks every member once and gives plain facts; [Judge] makes problems of them, by thresholds. A [Tracker] does the same for
// observations that follow each other: it knows what only time shows, such as leaders that keep changing, and raises and drops
// problems only when several observations agree. [Stored] judges the backups. Everything but Observe is
// pure: no clock, no connection.
//
// What could not be measured makes no problem and is no zero: fields say when they are not known.
package health

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/requorum/requorum/internal/cluster"
)

// Severity of a problem, as requorum check says it.
type Severity string

// The severities. Unknown means that something could not be judged.
const (
	Warning  Severity = "warning"
	Unknown  Severity = "unknown"
	Critical Severity = "critical"
)

// Rank orders severities: critical outweighs unknown, and unknown outweighs a warning; "" is 0.
func (s Severity) Rank() int {
	switch s {
	case Warning:
		return 1
	case Unknown:
		return 2
	case Critical:
		return 3
	}
	return 0
}

// The names of problems: a closed set, fit for labels.
const (
	Quorum        = "quorum"         // members that may still fail, down to none that serves
	Access        = "access"         // the cluster does not let us in, so it cannot be judged
	MemberDown    = "member_down"    // one endpoint does not serve
	Unasked       = "unasked"        // voting members without an endpoint
	Mixed         = "mixed_clusters" // endpoints of several clusters
	NoSpace       = "no_space"       // a NOSPACE alarm
	Corrupt       = "corrupt"        // a CORRUPT alarm
	Database      = "database_size"  // against the quota
	Fragmentation = "fragmentation"  // of the database file
	Lag           = "lag"            // entries that a member has not applied
	Clock         = "clock_skew"     // of a member, against this machine
	Certificate   = "certificate"    // of a member or our own, near its end
	Leaders       = "leader_changes" // too many within an hour
	Rebuilt       = "rebuilt"        // another cluster or an older state answers than before
	RPO           = "rpo"            // no proven backup within the objective, or none at all
	BadBackup     = "bad_backup"     // a backup failed its verification, or in its latest drill
	Unverified    = "unverified"     // no backup was verified for too long
	DrillAge      = "drill_age"      // no drill within the objective
	Stores        = "stores"         // backups could not be listed everywhere
	Held          = "held"           // a restore is under way
	Agents        = "agents"         // those that keep leased state are not all there
)

// Names are all of them.
var Names = []string{
	Quorum, Access, MemberDown, Unasked, Mixed, NoSpace, Corrupt, Database, Fragmentation, Lag, Clock, Certificate, Leaders, Rebuilt,
	RPO, BadBackup, Unverified, DrillAge, Stores, Held, Agents,
}

// A Problem is something a person should know of.
type Problem struct {
	Severity Severity `json:"severity"`
	What     string   `json:"what"`
	Advice   string   `json:"advice,omitempty"`
	Name     string   `json:"name"`              // one of Names
	Subject  string   `json:"subject,omitempty"` // what of several it is about: an endpoint, a backup
}

// Worst is the severity that outweighs the others; "" without problems.
func Worst(problems []Problem) Severity {
	var worst Severity
	for _, p := range problems {
		if p.Severity.Rank() > worst.Rank() {
			worst = p.Severity
		}
	}
	return worst
}

// ByName makes one problem of all that have the same name, in the order of their first: the severity is the worst, the words of all follow
// each other, and the subject is empty unless there was only one.
func ByName(problems []Problem) []Problem {
	var out []Problem
	at := map[string]int{}
	for _, p := range problems {
		i, seen := at[p.Name]
		if !seen {
			at[p.Name] = len(out)
			out = append(out, p)
			continue
		}
		o := &out[i]
		o.Subject = ""
		o.What += "; " + p.What
		switch {
		case o.Advice == "":
			o.Advice = p.Advice
		case p.Advice != "" && !strings.Contains(o.Advice, p.Advice):
			o.Advice += "; " + p.Advice
		}
		if p.Severity.Rank() > o.Severity.Rank() {
			o.Severity = p.Severity
		}
	}
	return out
}

// Failure is the problem that err is, with the advice that it carries.
func Failure(severity Severity, name, what string, err error) Problem {
	p := Problem{Severity: severity, Name: name, What: fmt.Sprintf("%s: %v", what, err)}
	if e, ok := errors.AsType[*cluster.Error](err); ok {
		if !strings.HasSuffix(what, e.Endpoint) { // a member of unknown name is named after it
			what += ": " + e.Endpoint
		}
		p.What, p.Advice = what+": "+e.What, e.Advice
	}
	return p
}

// Thresholds say from where on a finding is a problem. A zero one is not judged.
type Thresholds struct {
	Margin int // so many more members should be able to fail; clusters of three and more

	DatabaseWarning, DatabaseCritical float64 // share of the quota
	Quota                             int64   // bytes, for servers before 3.6, which do not tell it; 0: unknown
	Fragmentation                     float64 // share of the file that is not in use, of files beyond fragmentedFrom

	Lag       int           // raft entries
	ClockSkew time.Duration // against this machine

	CertificateWarning, CertificateCritical time.Duration // before the end

	LeaderChanges int // within an hour

	// Streak is how many observations in a row must show a problem before a Tracker raises it, and how many must not before
	// it is over; 0 is 1.
	Streak int
}

// fragmentedFrom is the size from which on fragmentation is worth a word, in bytes.
const fragmentedFrom = 256 << 20

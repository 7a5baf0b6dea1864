package service

import (
	"context"
	"encoding/json"
	"time"

	"github.com/requorum/requorum/storage/catalog"
)

// Kind is what a run does.
type Kind string

// The kinds of runs: a closed set, fit for labels.
const (
	Snapshot Kind = "snapshot" // take a backup
	Expire   Kind = "expire"   // retention in each store, and the sweep of leftovers
	Copy     Kind = "copy"     // make up for copies that a store lacks
	Verify   Kind = "verify"   // read backups back
	Drill    Kind = "drill"    // rehearse a restore
)

// Kinds are all of them.
var Kinds = []Kind{Snapshot, Expire, Copy, Verify, Drill}

// Outcome is how a run, or one attempt of it, ended.
type Outcome string

// The outcomes: a closed set, fit for labels.
const (
	OK      Outcome = "ok"
	Partly  Outcome = "partly"  // done, but not in every store
	Failed  Outcome = "failed"  // nothing was achieved
	Skipped Outcome = "skipped" // not begun: a restore is under way
	Stopped Outcome = "stopped" // undone, because the service stops or its lease was lost
)

// Reason says why an outcome is not OK.
type Reason string

// The reasons: a closed set, fit for labels. The error beside them has the words.
const (
	NoReason     Reason = ""
	Unreachable  Reason = "unreachable"  // no member could be asked
	Denied       Reason = "denied"       // credentials of etcd or of a store
	StoreFailed  Reason = "store"        // a store did not answer, or is full
	Verification Reason = "verification" // what was checked is not what it must be
	Decryption   Reason = "decryption"   // no key that fits
	Held         Reason = "held"         // a restore is under way
	Deadline     Reason = "deadline"     // the run took too long
	Interrupted  Reason = "interrupted"  // the service stops, or the lease was lost
	Other        Reason = "other"
)

// Reasons are all but NoReason.
var Reasons = []Reason{Unreachable, Denied, StoreFailed, Verification, Decryption, Held, Deadline, Interrupted, Other}

// A Run is one attempt to do scheduled or demanded work.
type Run struct {
	Cluster string
	Kind    Kind
	Due     time.Time // when the schedule wanted it; the moment of demand where no schedule did
	Attempt int       // 1 for the first; further ones follow a failure within one deadline
	Started time.Time
}

// A Result is how a Run ended.
type Result struct {
	Ended   time.Time
	Outcome Outcome
	Reason  Reason
	Err     error  // for people; nil with OK
	Again   bool   // a further attempt follows
	RunID   string // of the record in the stores; "" where there is none

	// What Snapshot took; zero otherwise.
	Backup      string             // its id
	Time        time.Time          // that it shows
	Bytes       int64              // of the database
	StoredBytes int64              // after compression
	Keys        int64              // live ones
	Seconds     map[string]float64 // by stage: of the closed set of package backup

	News   string   // what people are told once of a run that went well
	Alerts []string // what a person should look at though the run succeeded: a shrunken backup, a foreign line
}

// Role is what a replica is to a cluster.
type Role string

// The roles: a closed set, fit for labels.
const (
	Leader   Role = "leader"   // it does the work; the only role where no election is configured
	Follower Role = "follower" // another replica does
	Orphan   Role = "orphan"   // the coordination etcd is gone: each replica works, and the records in the stores keep them apart
)

// State is what the service knows of a cluster.
type State struct {
	Cluster string
	Role    Role
	Held    bool               // a restore is under way
	Next    map[Kind]time.Time // the next due run of each scheduled kind, jitter included; none for a follower
	Stored  *Stored            // nil until the stores were listed
}

// Stored sums up the backups of a cluster, from listings alone.
type Stored struct {
	At       time.Time // of the listing
	Backups  []catalog.Snapshot
	StoreErr map[string]error // by name, nil for a store that was listed
	Err      error            // of the listing: Backups are a part then

	Drill    *LastDrill // the newest that proved a restore; nil: none is known
	DrillErr error      // why it is not known
}

// LastDrill is a drill that proved a restore, and what it measured.
type LastDrill struct {
	Time     time.Time
	RPO, RTO time.Duration
}

// Severity of a problem.
type Severity string

// The severities, as `requorum check` says them.
const (
	Warning  Severity = "warning"
	Critical Severity = "critical"
	Unknown  Severity = "unknown"
)

// The names of the problems that the service itself finds, beside those of watchers and of Cluster.Judge: a closed set, fit for labels. Each kind
// of run has two more: snapshot_failed, and snapshot_partly if it did not reach every store.
const (
	SuspiciousBackup = "suspicious_backup" // a backup was taken, and a person should look at it: shrunken, or of a foreign line
	NotSupported     = "not_supported"     // something configured is not done by this version
	ReloadRefused    = "reload_refused"    // a changed configuration has mistakes, the old one stays
	RestartNeeded    = "restart_needed"    // a changed configuration holds what only a new start applies
	Coordination     = "coordination"      // the coordination etcd cannot be used
)

// Names are all of those.
func Names() []string {
	names := []string{SuspiciousBackup, NotSupported, ReloadRefused, RestartNeeded, Coordination}
	for _, k := range Kinds {
		names = append(names, failedName(k), partlyName(k))
	}
	return names
}

func failedName(k Kind) string { return string(k) + "_failed" }
func partlyName(k Kind) string { return string(k) + "_partly" }

// A Problem is something a person should know of.
type Problem struct {
	Name     string   `json:"name"` // of a closed set, lower case with underscores, fit for labels
	Severity Severity `json:"severity"`
	What     string   `json:"what"`
	Advice   string   `json:"advice,omitempty"`
}

// An Alert says that a problem began, or that it is over. Until it is over it is not repeated, unless its words change.
type Alert struct {
	Problem
	Cluster string    `json:"cluster,omitempty"` // "" for the service itself
	Since   time.Time `json:"since"`
	Over    bool      `json:"over"`
}

// Events is told what happens: metrics and notifications hang on it. Calls come from several goroutines at once and must not
// block: what takes long is queued by the receiver.
type Events interface {
	// RunStarted and RunEnded come in pairs for each attempt.
	RunStarted(Run)
	RunEnded(Run, Result)
	// StateChanged comes whenever any part of a cluster's state changed, with the whole of it, and with an empty Role for a
	// cluster that the configuration no longer has.
	StateChanged(State)
	// Alerted comes when a problem begins, when its words change and when it is over.
	Alerted(Alert)
}

// Watcher observes one cluster. [Cluster.Watch] opens one.
type Watcher interface {
	// Observe asks all members once. It ends soon after ctx does, which has a deadline of one interval. A cluster that is down is an
	// observation and no error. Calls never overlap. Thresholds and hysteresis are the watcher's: the problems
	// are those that hold now.
	Observe(ctx context.Context) (Observation, error)
}

// An Observation is what a Watcher found.
type Observation struct {
	Seen     *catalog.Seen   // the highest revision and raft term of the members that answered; nil if none did
	Problems []Problem       // each Name at most once
	Detail   json.RawMessage // for the API, may be nil
	Tell     func()          // called if the observation counts: this replica still works for the cluster; may be nil
}

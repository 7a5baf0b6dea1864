package restore

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/requorum/requorum/agents"
)

// PlanFormat is the version of the saved form of [Plan] and [Journal]. A journal of a newer format is refused.
const PlanFormat = 1

// PlanKind tells the two kinds of plans apart.
type PlanKind string

// A rollback is planned as a restore, too, once a new member has run; until then it only puts the
// old dirs back, and Plan.Steps are those of a revert.
const (
	PlanRestore  PlanKind = "restore"
	PlanRollback PlanKind = "rollback"
	PlanReplace  PlanKind = "replace" // of one member of a cluster that serves on
)

// A Plan is everything that a run will do and has done, as data. It is complete before the
// first change on a host, and is saved there.
type Plan struct {
	Format  int      `json:"format"`
	Run     string   `json:"run"`
	Kind    PlanKind `json:"kind"`
	Of      string   `json:"of,omitempty"` // with a rollback: the run it undoes
	Cluster string   `json:"cluster"`
	// Elsewhere is the cluster whose backups are restored under Cluster's name; empty if that is its own.
	Elsewhere string    `json:"elsewhere,omitempty"`
	Started   time.Time `json:"started"`
	Request   Request   `json:"request"`

	Source  Source   `json:"source"`
	Members []Member `json:"members"`           // that the new cluster is made of
	Without []string `json:"without,omitempty"` // configured, but left out
	Checks  []Check  `json:"checks"`

	Token         string `json:"token"` // initial cluster token, fresh
	TargetVersion string `json:"target_version"`
	// Highest is the highest revision known from anywhere, and HighestFrom says where; TargetRevision is Bump above it.
	Highest        int64  `json:"highest"`
	HighestFrom    string `json:"highest_from"`
	Bump           int64  `json:"bump"`
	TargetRevision int64  `json:"target_revision"`

	LastServed Moment                     `json:"last_served"` // for the RPO
	Ghosts     []Ghost                    `json:"ghosts"`
	Kept       []Ghost                    `json:"kept,omitempty"` // leased keys that stay
	Edits      []EditNote                 `json:"edits,omitempty"`
	Notes      []string                   `json:"notes,omitempty"`
	Gate       map[string]agents.Baseline `json:"gate,omitempty"`
	Prepared   *Prepared                  `json:"prepared,omitempty"`
	// Abandoned says that a rollback of this run has begun: it is not gone on with.
	Abandoned bool `json:"abandoned,omitempty"`
	// Lost, with a rollback of this run, are members that could not be reached for it. They are still as the run left them; with a PlanRollback, as
	// the run Of did.
	Lost     []string  `json:"lost,omitempty"`
	Discards *Discards `json:"discards,omitempty"` // with a rollback of a started cluster
	Replace  *Replace  `json:"replace,omitempty"`  // with PlanReplace; Members is the one to be replaced

	Steps []Step `json:"steps"`
}

// A Request is what the operator asked for. A resumed run must ask for the same source.
type Request struct {
	At   string `json:"at,omitempty"`
	From string `json:"from,omitempty"`
}

// A Source is where the database comes from.
type Source struct {
	Kind     string    `json:"kind"`  // store, file, survivor: a member's own data, or before: the dirs that an earlier run kept
	ID       string    `json:"id"`    // of the backup; the member's name with survivor; of the run with before
	Where    string    `json:"where"` // for a person: the stores, or the path
	Line     string    `json:"line,omitempty"`
	Revision int64     `json:"revision"`
	Time     time.Time `json:"time"`
	Term     uint64    `json:"term,omitempty"`  // with survivor and before: of the last entry in its raft log
	Index    uint64    `json:"index,omitempty"` // the same
	Note     string    `json:"note,omitempty"`  // how it was chosen, and how far off it is
	// Candidates are all that were considered, the best first, with a word on each that was passed over.
	Candidates []Candidate `json:"candidates,omitempty"`
}

// A Candidate is a source that could have been chosen.
type Candidate struct {
	Kind     string    `json:"kind"`
	ID       string    `json:"id"`
	Where    string    `json:"where,omitempty"`
	Line     string    `json:"line,omitempty"`
	Term     uint64    `json:"term,omitempty"`  // of the last entry in its raft log
	Index    uint64    `json:"index,omitempty"` // the same
	Revision int64     `json:"revision"`        // of a survivor: at least
	Time     time.Time `json:"time"`
	Proven   string    `json:"proven,omitempty"` // what is known of its content, and from what
	Chosen   bool      `json:"chosen,omitempty"`
	Why      string    `json:"why,omitempty"`
}

// Table compares the candidates, one a line, for a person.
func (s Source) Table() []string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	for _, c := range s.Candidates {
		mark, log := " ", "-"
		if c.Chosen {
			mark = ">"
		}
		if c.Index > 0 {
			log = fmt.Sprintf("term %d, index %d", c.Term, c.Index)
		}
		fmt.Fprintf(w, "%s %s %s\t%s\trevision %d\t%s\t%s\t%s\t%s\n", mark, c.Kind, c.ID, c.Where, c.Revision, log, stamp(c.Time), c.Proven, c.Why)
	}
	_ = w.Flush() // into memory
	return strings.FieldsFunc(b.String(), func(r rune) bool { return r == '\n' })
}

// A Moment is a time with what it is known from.
type Moment struct {
	Time  time.Time `json:"time,omitzero"`
	Basis string    `json:"basis"`
}

// A Ghost is a group of leased keys under one prefix and what becomes of them.
type Ghost struct {
	Prefix string `json:"prefix"`
	Count  int    `json:"count"`
	Agent  string `json:"agent,omitempty"`
	Reason string `json:"reason"`
}

// An EditNote is one change of a key that an agent asked for.
type EditNote struct {
	Key    string `json:"key"`
	Action string `json:"action"` // remove, write, keep
	Agent  string `json:"agent"`
	Reason string `json:"reason"`
}

// Prepared is the prepared database and the prediction of what it must serve.
type Prepared struct {
	Checksum       string            `json:"checksum"` // see NewChecksum
	Size           int64             `json:"size"`
	Revision       int64             `json:"revision"`   // the opened one
	ClusterID      string            `json:"cluster_id"` // 16 hex digits
	MemberIDs      map[string]string `json:"member_ids"`
	Hash           uint32            `json:"hash"`                  // HashKV at Revision, once predicted
	HashCompactRev int64             `json:"hash_compact_revision"` // 0 until then
	Keys           int64             `json:"keys"`
	Leases         []int64           `json:"leases,omitempty"` // that are left in the file
}

// predicted says whether it is known what the database must serve.
func (p *Prepared) predicted() bool { return p.HashCompactRev != 0 }

// CheckStatus is the outcome of a [Check].
type CheckStatus string

// The outcomes. Only a failed check stops a restore; unknown means that nobody could tell.
const (
	CheckOK      CheckStatus = "ok"
	CheckWarning CheckStatus = "warning"
	CheckFailed  CheckStatus = "failed"
	CheckUnknown CheckStatus = "unknown"
)

// A Check is one thing looked at before anything is changed.
type Check struct {
	Name   string      `json:"name"`
	Member string      `json:"member,omitempty"`
	Status CheckStatus `json:"status"`
	Detail string      `json:"detail"`
}

func (c Check) String() string {
	s := c.Name
	if c.Member != "" {
		s = c.Member + ": " + s
	}
	return s + ": " + c.Detail
}

// StepKind names a step of a plan.
type StepKind string

// The steps. Each is a barrier: it is done on every member before the next one begins.
const (
	StepLock     StepKind = "lock"     // in no plan: what every command begins with
	StepPrepare  StepKind = "prepare"  // fetch, check, edit, predict
	StepStage    StepKind = "stage"    // build the new dirs beside the old ones
	StepStop     StepKind = "stop"     // starts forbidden, processes gone, ports closed
	StepGate     StepKind = "gate"     // ask the agents once more, for the baseline
	StepRemove   StepKind = "remove"   // replace: the cluster forgets the lost member
	StepAdd      StepKind = "add"      // replace: the cluster gets a learner in its place
	StepJoin     StepKind = "join"     // replace: its identity is staged
	StepPromote  StepKind = "promote"  // replace: it gets its vote when it has caught up
	StepExchange StepKind = "exchange" // the new dirs take the old ones' place
	StepAllow    StepKind = "allow"    // starts are allowed again
	StepStart    StepKind = "start"
	StepProve    StepKind = "prove"   // health, identity, hash, write and read
	StepResume   StepKind = "resume"  // with static pods: the control plane that was stopped with etcd comes back
	StepAgents   StepKind = "agents"  // each agent's own verdict
	StepBackup   StepKind = "backup"  // a first backup of the new line
	StepRevert   StepKind = "revert"  // rollback before the start: the old dirs return
	StepDiscard  StepKind = "discard" // rollback before the start: staged dirs are removed
	StepEnd      StepKind = "end"     // record, release holds and locks
)

// A Step is one of a plan's barriers and what became of it. Done is a record for the report; whether a step that changes hosts
// has to be done again is judged by the hosts' own state.
type Step struct {
	Kind    StepKind  `json:"kind"`
	Does    string    `json:"does"` // for a person
	Begun   time.Time `json:"begun,omitzero"`
	Done    time.Time `json:"done,omitzero"`
	Seconds float64   `json:"seconds"`         // of all attempts
	Notes   []string  `json:"notes,omitempty"` // what happened on the way
}

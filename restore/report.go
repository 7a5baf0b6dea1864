package restore

import (
	"time"

	"github.com/requorum/requorum/agents"
)

// A Report is what a run did and proved: the JSON contract of `restore` and `rollback`.
type Report struct {
	Run            string           `json:"run"`
	Kind           PlanKind         `json:"kind"`
	OK             bool             `json:"ok"`
	Resumed        bool             `json:"resumed"`
	Elsewhere      string           `json:"elsewhere,omitempty"` // the cluster that this one, under another name, is a copy of
	Source         ReportSource     `json:"source"`
	TargetRevision int64            `json:"target_revision"`
	Bump           int64            `json:"bump"`
	ClusterID      string           `json:"cluster_id"` // 16 hex digits
	Ghosts         []ReportGhost    `json:"ghosts_removed"`
	Edits          []EditNote       `json:"edits,omitempty"` // what agents decided about their keys, as in the plan
	RPOSeconds     float64          `json:"rpo_seconds"`
	RPOBasis       string           `json:"rpo_basis"`
	RTOSeconds     float64          `json:"rto_seconds"`     // from the command's start to agents proven, without Waiting
	HealthySeconds float64          `json:"healthy_seconds"` // from the command's start to etcd proven, without Waiting
	Waiting        Waiting          `json:"waiting"`
	Stages         []ReportStage    `json:"stages"`
	Members        []ReportMember   `json:"members"`
	Proof          []Check          `json:"proof"`
	Agents         []agents.Verdict `json:"agents"`
	Backup         string           `json:"backup,omitempty"` // id of the new line's first one
	Without        []string         `json:"without,omitempty"`
	Discarded      *Discards        `json:"discarded,omitempty"`
	Notes          []string         `json:"notes,omitempty"`
	Error          string           `json:"error,omitempty"`
	Started        time.Time        `json:"started"`
	Ended          time.Time        `json:"ended"`
}

// ReportSource is what was restored.
type ReportSource struct {
	Kind     string    `json:"kind"`
	ID       string    `json:"id"`
	Revision int64     `json:"revision"`
	Time     time.Time `json:"time"`
}

// ReportGhost is a group of leased keys that were removed.
type ReportGhost struct {
	Prefix string `json:"prefix"`
	Count  int    `json:"count"`
}

// Waiting is time that the restore itself did not take, in seconds.
type Waiting struct {
	Person float64 `json:"person_seconds"`
	Gate   float64 `json:"gate_seconds"`
	// Away is the time between attempts of a run that was interrupted.
	Away float64 `json:"away_seconds"`
}

// ReportStage is the time that one step took.
type ReportStage struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// ReportMember is a member as it was proven.
type ReportMember struct {
	Name     string `json:"name"`
	Healthy  bool   `json:"healthy"`
	Leader   bool   `json:"leader"`
	Revision int64  `json:"revision"`
	Hash     string `json:"hash"` // 8 hex digits at the opened revision, or "unknown"
	Detail   string `json:"detail,omitempty"`
}

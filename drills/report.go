package drills

import (
	"time"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/restore"
	"github.com/requorum/requorum/storage/catalog"
)

// Format is the version of [Report]'s JSON. Fields are added within a format, never renamed.
const Format = 1

// RecordKind is the kind of the records that drills leave among the runs of a cluster.
const RecordKind = catalog.DrillRecords

// Kind tells the two kinds of drills apart.
type Kind string

// The kinds.
const (
	Sandbox Kind = "sandbox" // on this machine, production untouched
	Live    Kind = "live"    // on the real members of a staging cluster
)

// Outcome is how a drill ended.
type Outcome string

// The outcomes, as records of runs have them.
const (
	Proven Outcome = "ok"
	Missed Outcome = "partly" // the restore is proven, an objective was missed
	Failed Outcome = catalog.DrillFailed
)

// Restored says whether the drill proved a restore, be it too slow.
func (o Outcome) Restored() bool { return o == Proven || o == Missed }

// A Report is the evidence of one drill: the JSON contract of `drill`. All times are UTC, all durations seconds.
type Report struct {
	Format  int       `json:"format"`
	ID      string    `json:"id"`
	Cluster string    `json:"cluster"`
	Kind    Kind      `json:"kind"`
	OK      bool      `json:"ok"` // everything was proven, and every objective met
	Outcome Outcome   `json:"outcome"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended"`
	Seconds float64   `json:"seconds"` // of the whole drill

	Source  Source   `json:"source"`
	Members []Member `json:"members"`

	RPOSeconds     float64     `json:"rpo_seconds"`
	RPOBasis       string      `json:"rpo_basis"`
	RTOSeconds     float64     `json:"rto_seconds"`     // from the start of the restore to agents proven; 0: not proven
	HealthySeconds float64     `json:"healthy_seconds"` // to etcd proven
	Objectives     []Objective `json:"objectives"`

	Steps   []Step           `json:"steps"`
	Failure *Failure         `json:"failure,omitempty"`
	Agents  []agents.Verdict `json:"agents"`
	// Questions are what a real restore of this backup would ask the operator; the drill answered them itself.
	Questions []agents.Refusal   `json:"questions"`
	Content   *Content           `json:"content,omitempty"`
	Restore   *restore.Report    `json:"restore,omitempty"`
	Compared  *Comparison        `json:"compared,omitempty"`
	Backup    *catalog.HashKV    `json:"backup_hash,omitempty"` // of the untouched backup, by the manifest
	Trend     []Past             `json:"trend"`                 // of the drills before this one, the oldest first
	Notes     []string           `json:"notes,omitempty"`
	Settings  Settings           `json:"settings"`
	By        Starter            `json:"by"`
	Versions  Versions           `json:"versions"`
	Report    string             `json:"report"` // key of the page in the stores, below the cluster's path; "" with a dry run
	HTML      string             `json:"html_sha256,omitempty"`
	SignedBy  string             `json:"signed_by,omitempty"` // the public key whose signature lies beside; "": not signed
	Answers   map[string]float64 `json:"probe_seconds,omitempty"`
}

// Source is the backup that was restored.
type Source struct {
	ID        string    `json:"id"`
	Line      string    `json:"line"`
	Revision  int64     `json:"revision"`
	Time      time.Time `json:"time"`
	Stores    []string  `json:"stores"`
	Bytes     int64     `json:"bytes"` // of the database
	Keys      int64     `json:"keys"`
	Encrypted bool      `json:"encrypted"`
	SHA256    string    `json:"sha256"` // of the database, by the manifest
	HashKV    string    `json:"hash_kv"`
	Etcd      string    `json:"etcd,omitempty"` // version of the server that it was taken from
	Verified  time.Time `json:"verified_at,omitzero"`
	Asked     string    `json:"asked,omitempty"` // --at
	Note      string    `json:"note,omitempty"`
}

// Member is one that was rebuilt.
type Member struct {
	Name      string `json:"name"`
	ClientURL string `json:"client_url"`
	Healthy   bool   `json:"healthy"`
	Leader    bool   `json:"leader"`
	Revision  int64  `json:"revision"`
	Hash      string `json:"hash"` // at the opened revision; "unknown"
}

// Objective is one thing asked for, and what was measured. A zero Asked is not asked for.
type Objective struct {
	Name     string  `json:"name"` // rpo, rto, drill_age
	Asked    float64 `json:"asked_seconds"`
	Measured float64 `json:"measured_seconds"`
	Met      bool    `json:"met"`
	Judged   bool    `json:"judged"` // false: nothing is asked for, or it cannot be told
	Detail   string  `json:"detail,omitempty"`
}

// Step is one thing that a drill did.
type Step struct {
	Name     string    `json:"name"`
	Does     string    `json:"does"` // for a person
	OK       bool      `json:"ok"`
	Started  time.Time `json:"started"`
	Seconds  float64   `json:"seconds"`
	Evidence []string  `json:"evidence"`
	Restore  bool      `json:"restore"` // its time belongs to the RTO
}

// Failure says precisely what went wrong.
type Failure struct {
	Step     string `json:"step"`
	Expected string `json:"expected"`
	Found    string `json:"found"`
	Try      string `json:"try"`
	Code     int    `json:"code"` // the exit code
}

// Content is the comparison of what the restored cluster serves with the untouched backup.
type Content struct {
	Compared  int64         `json:"compared"` // keys, each by its value, create and mod revision, version and lease
	Removed   int64         `json:"removed"`  // registrations and agents' edits, as planned
	Written   int64         `json:"written"`  // by agents' edits, as planned
	Different int64         `json:"different"`
	First     []string      `json:"first_different,omitempty"`
	Prefixes  []PrefixCount `json:"prefixes"`
	Leases    int           `json:"leases"` // that live in the restored cluster, all as planned
	Auth      bool          `json:"auth_enabled"`
	Users     int           `json:"users"`
	Roles     int           `json:"roles"`
}

// PrefixCount counts the keys below one prefix.
type PrefixCount struct {
	Prefix   string `json:"prefix"`
	Backup   int64  `json:"backup"`
	Restored int64  `json:"restored"`
}

// Comparison is what the running cluster has beside the restored one.
type Comparison struct {
	Endpoint string `json:"endpoint"` // that was asked for its hash
	Revision int64  `json:"revision"`
	Behind   int64  `json:"behind"` // revisions written since the backup
	Keys     int64  `json:"keys"`
	Restored int64  `json:"restored_keys"`
	Hash     string `json:"hash"` // equal, different, not comparable
	Why      string `json:"why"`
}

// Past is one earlier drill, as a trend needs it.
type Past struct {
	ID             string    `json:"id"`
	Started        time.Time `json:"started"`
	Kind           Kind      `json:"kind"`
	Outcome        Outcome   `json:"outcome"`
	RPOSeconds     float64   `json:"rpo_seconds"`
	RTOSeconds     float64   `json:"rto_seconds"`
	HealthySeconds float64   `json:"healthy_seconds"`
	Bytes          int64     `json:"bytes"`
	Keys           int64     `json:"keys"`
	Failed         string    `json:"failed_step,omitempty"`
}

// Settings are what the drill was configured with.
type Settings struct {
	SHA256  string `json:"sha256"`      // of the cluster's configuration without secrets
	Program string `json:"etcd"`        // embedded, or the path of etcd_binary
	Quota   int64  `json:"quota_bytes"` // of the members; 0: none was known, so none was set
	Members string `json:"members"`     // where names and number of the members come from
}

// Starter is who, or what, started the drill.
type Starter struct {
	User string `json:"user"`
	Host string `json:"host"`
	How  string `json:"how"` // "command", "schedule"
}

// Versions are those of the programs that took part.
type Versions struct {
	Requorum string `json:"requorum"`
	Commit   string `json:"commit,omitempty"`
	Etcd     string `json:"etcd"` // of the rebuilt members
	Platform string `json:"platform"`
}

// past is what later drills show of this one.
func (r *Report) past() Past {
	p := Past{ID: r.ID, Started: r.Started, Kind: r.Kind, Outcome: r.Outcome, RPOSeconds: r.RPOSeconds, RTOSeconds: r.RTOSeconds,
		HealthySeconds: r.HealthySeconds, Bytes: r.Source.Bytes, Keys: r.Source.Keys}
	if r.Failure != nil {
		p.Failed = r.Failure.Step
	}
	return p
}

// Step returns the step of a name, nil if the drill did not come to it.
func (r *Report) Step(name string) *Step {
	for i := range r.Steps {
		if r.Steps[i].Name == name {
			return &r.Steps[i]
		}
	}
	return nil
}

// settle gives every list of the JSON its brackets.
func (r *Report) settle() {
	listed(&r.Source.Stores)
	listed(&r.Members)
	listed(&r.Objectives)
	listed(&r.Steps)
	listed(&r.Agents)
	listed(&r.Questions)
	listed(&r.Trend)
	for i := range r.Steps {
		listed(&r.Steps[i].Evidence)
	}
	if r.Content != nil {
		listed(&r.Content.Prefixes)
	}
}

func listed[T any](list *[]T) {
	if *list == nil {
		*list = []T{}
	}
}

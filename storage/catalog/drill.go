package catalog

import (
	"fmt"
	"strings"
	"time"
)

// DrillsPrefix is where the reports of drills are.
const DrillsPrefix = "drills/"

// The files of a drill's report. The report exists when its JSON does, which is written last.
const (
	DrillJSON      = "json"
	DrillHTML      = "html"
	DrillSignature = "sig" // 64 bytes of ed25519 over the JSON
)

// DrillRecords is the kind of the records that drills leave among the runs of a cluster.
const DrillRecords = "drill"

// DrillFailed is the outcome that the record of a failed drill has.
const DrillFailed = "failed"

// Drill is a drill as the keys of its report tell it.
type Drill struct {
	ID   string
	Time time.Time // when it started, UTC; in keys in whole seconds
}

// Key returns the key of one file of the report.
func (d Drill) Key(file string) string {
	return DrillsPrefix + formatTime(d.Time) + "-" + d.ID + "." + file
}

// Check returns an error unless d makes valid keys.
func (d Drill) Check() error {
	if err := CheckID(KindDrill, d.ID); err != nil {
		return err
	}
	if got, _, ok := ParseDrillKey(d.Key(DrillJSON)); !ok || got.ID != d.ID {
		return fmt.Errorf("drill %s: %q is not a valid key", d.ID, d.Key(DrillJSON))
	}
	return nil
}

// ParseDrillKey takes a key below [DrillsPrefix] apart.
func ParseDrillKey(key string) (d Drill, file string, ok bool) {
	rest, found := strings.CutPrefix(key, DrillsPrefix)
	if !found || len(rest) <= len(TimeLayout) || rest[len(TimeLayout)] != '-' {
		return Drill{}, "", false
	}
	if d.Time, ok = parseTime(rest[:len(TimeLayout)]); !ok {
		return Drill{}, "", false
	}
	d.ID, file, ok = strings.Cut(rest[len(TimeLayout)+1:], ".")
	if !ok || CheckID(KindDrill, d.ID) != nil || file != DrillJSON && file != DrillHTML && file != DrillSignature {
		return Drill{}, "", false
	}
	return d, file, true
}

// FailureKey returns the key of the record of d as a drill that failed. The record says why.
func (d Drill) FailureKey() string {
	return RunKey(Run{ID: d.ID, Kind: DrillRecords, Outcome: DrillFailed, Started: d.Time})
}

// Rehearsal is what a drill found about the backup that it restored: that it restores, or that its data is not what it must be. A drill
// that failed for another reason, of the machine that it ran on, say, comes to no verdict about the backup and leaves none.
type Rehearsal struct {
	Drill  // the zero one: no drill
	Failed bool
}

// Known says whether there was a drill at all.
func (r Rehearsal) Known() bool { return r.ID != "" }

// newer is the later of the two; of one second, the one that failed.
func (r Rehearsal) newer(o Rehearsal) Rehearsal {
	if !r.Known() || o.Time.After(r.Time) || o.Time.Equal(r.Time) && o.Failed && o.Known() {
		return o
	}
	return r
}

package catalog

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Run is the record of one execution: backup, restore, drill, verify, expire, or what serve saw while it watched.
type Run struct {
	ID       string          `json:"run"`
	Kind     string          `json:"kind"`    // lower-case letters, digits, '_' and '-'
	Outcome  string          `json:"outcome"` // lower-case letters, digits and '_'
	Cluster  string          `json:"cluster"`
	Host     string          `json:"host,omitempty"`
	User     string          `json:"user,omitempty"`
	Version  string          `json:"version,omitempty"` // of requorum
	Started  time.Time       `json:"started"`           // UTC; in the key in whole seconds
	Ended    time.Time       `json:"ended,omitzero"`
	Seen     *Seen           `json:"seen,omitempty"`     // the highest seen in this run
	Snapshot string          `json:"snapshot,omitempty"` // the id of the backup it took or restored
	Error    string          `json:"error,omitempty"`
	Detail   json.RawMessage `json:"detail,omitempty"`
}

// routine are the kinds of runs that come by themselves all the time.
var routine = []string{"backup", "doubt", "expire", "verify", "watch"}

// Spent returns those of the runs, the oldest first, whose records have served their purpose once they are all old: those of routine kinds, but
// for the newest of each kind and outcome. Restores, rollbacks, drills and what else people begin stay for ever: they are few, and evidence.
func Spent(runs []Run) []Run {
	newest := map[[2]string]string{}
	for _, r := range runs {
		newest[[2]string{r.Kind, r.Outcome}] = r.ID
	}
	var spent []Run
	for _, r := range runs {
		if slices.Contains(routine, r.Kind) && newest[[2]string{r.Kind, r.Outcome}] != r.ID {
			spent = append(spent, r)
		}
	}
	return spent
}

const lowerCase = "abcdefghijklmnopqrstuvwxyz0123456789_"

func (r Run) check() error {
	switch {
	case checkRunID(r.ID) != nil:
		return checkRunID(r.ID)
	case r.Kind == "" || strings.Trim(r.Kind, lowerCase+"-") != "":
		return fmt.Errorf("run %s: kind %q: only lower-case letters, digits, '_' and '-'", r.ID, r.Kind)
	case r.Outcome == "" || strings.Trim(r.Outcome, lowerCase) != "":
		return fmt.Errorf("run %s: outcome %q: only lower-case letters, digits and '_'", r.ID, r.Outcome)
	}
	return nil
}

// checkRunID accepts runs and drills.
func checkRunID(id string) error {
	if CheckID(KindDrill, id) == nil {
		return nil
	}
	return CheckID(KindRun, id)
}

// Check returns an error unless r makes a valid key.
func (r Run) Check() error {
	if got, ok := ParseRunKey(RunKey(r)); !ok || got.ID != r.ID || got.Kind != r.Kind || got.Outcome != r.Outcome {
		if err := r.check(); err != nil {
			return err
		}
		return fmt.Errorf("run %s: %q is not a valid key", r.ID, RunKey(r))
	}
	return nil
}

// ParseRun reads the record at key, with which it must agree.
func ParseRun(key string, b []byte) (Run, error) {
	var r Run
	if err := json.Unmarshal(b, &r); err != nil {
		return Run{}, fmt.Errorf("%s: %w", key, err)
	}
	if err := r.check(); err != nil {
		return Run{}, fmt.Errorf("%s: %w", key, err)
	}
	if RunKey(r) != key {
		return Run{}, fmt.Errorf("%s: it does not agree with its key: it is %s", key, RunKey(r))
	}
	return r, nil
}

// Hold says that a restore is under way: nothing is expired.
type Hold struct {
	Run     string    `json:"run"`
	Cluster string    `json:"cluster"`
	Owner   string    `json:"owner"` // user, host and process, for people
	Started time.Time `json:"started"`
}

// ParseHold reads the hold at key, with which it must agree.
func ParseHold(key string, b []byte) (Hold, error) {
	var h Hold
	if err := json.Unmarshal(b, &h); err != nil {
		return Hold{}, fmt.Errorf("%s: %w", key, err)
	}
	if run, ok := ParseHoldKey(key); !ok || run != h.Run {
		return Hold{}, fmt.Errorf("%s: it does not agree with its key: it is of run %q", key, h.Run)
	}
	return h, nil
}

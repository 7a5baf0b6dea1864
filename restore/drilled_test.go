package restore

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/storage/catalog"
)

// explaining is a repository that knows why drills failed.
type explaining struct {
	Repository
	why string
	err error
}

func (e explaining) DrillFailure(context.Context, catalog.Drill) (string, error) { return e.why, e.err }

// The plan warns of a source whose latest drill found it wrong, whatever else there is, and names what a drill restored: of the same history if it can.
func TestDrillCheck(t *testing.T) {
	at := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	snap := func(id, line string, hours int, drilled string) catalog.Snapshot {
		s := catalog.Snapshot{ID: id, Line: line, Time: at.Add(time.Duration(hours) * time.Hour), Revision: int64(100 + hours)}
		if drilled != "" {
			s.Drilled = catalog.Rehearsal{Drill: catalog.Drill{ID: "d-" + id, Time: at.Add(24 * time.Hour)}, Failed: drilled == "failed"}
		}
		return s
	}
	none := snap("none", "l1", 1, "")
	failed := snap("failed", "l1", 5, "failed")
	passed := snap("passed", "l1", 2, "passed")
	older := snap("older", "l1", 0, "passed")
	foreign := snap("foreign", "l2", 4, "passed")
	damaged := snap("damaged", "l1", 4, "passed")
	damaged.FailedAt = at.Add(30 * time.Hour)
	for _, test := range []struct {
		name     string
		snaps    []catalog.Snapshot
		source   string
		status   CheckStatus
		says     string
		saysNot  string
		noRecord bool
	}{
		{"never drilled", []catalog.Snapshot{none, passed}, "none", "", "", "", false},
		{"restored", []catalog.Snapshot{passed}, "passed", CheckOK, "backup passed was restored in drill d-passed", "", false},
		{"failed alone", []catalog.Snapshot{none, failed}, "failed", CheckWarning, "failed: check: the HashKV differs; no other backup was restored", "", false},
		{"failed, others passed", []catalog.Snapshot{older, passed, failed}, "failed", CheckWarning, "--at passed", "older", false},
		{"failed, another history is newer", []catalog.Snapshot{older, foreign, failed}, "failed", CheckWarning, "--at older", "foreign", false},
		{"failed, only another history", []catalog.Snapshot{foreign, failed}, "failed", CheckWarning, "--at foreign", "", false},
		{"failed, what passed is damaged since", []catalog.Snapshot{older, damaged, failed}, "failed", CheckWarning, "--at older", "damaged", false},
		{"failed, and why cannot be read", []catalog.Snapshot{failed}, "failed", CheckWarning, "the record cannot be read: store away", "", true},
	} {
		repo := explaining{why: "check: the HashKV differs"}
		if test.noRecord {
			repo.err = errors.New("store away")
		}
		r := &Restorer{Options{Repository: repo}}
		checks := r.drillCheck(t.Context(), &known{snaps: test.snaps}, &source{Source: Source{Kind: "store", ID: test.source}})
		if test.status == "" {
			if len(checks) > 0 {
				t.Errorf("%s: %+v", test.name, checks)
			}
			continue
		}
		if len(checks) != 1 || checks[0].Status != test.status || !strings.Contains(checks[0].Detail, test.says) || test.saysNot != "" && strings.Contains(checks[0].Detail, test.saysNot) {
			t.Errorf("%s: %+v, want %s with %q and without %q", test.name, checks, test.status, test.says, test.saysNot)
		}
	}
	r := &Restorer{}
	if checks := r.drillCheck(t.Context(), &known{snaps: []catalog.Snapshot{failed}}, &source{Source: Source{Kind: "file", ID: "failed"}}); len(checks) > 0 {
		t.Errorf("of a file: %+v", checks)
	}
}

// A survivor that others are ahead of lost what they wrote since; the freshest lost nothing.
func TestRPOOfSurvivors(t *testing.T) {
	at := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	candidate := func(id string, term, index uint64, after time.Duration) Candidate {
		return Candidate{Kind: "survivor", ID: id, Term: term, Index: index, Time: at.Add(after)}
	}
	behind, same, ahead := candidate("behind", 2, 90, -time.Minute), candidate("same", 3, 100, time.Second), candidate("ahead", 3, 140, 40*time.Second)
	stored := Candidate{Kind: "store", ID: "b", Time: at.Add(time.Hour)}
	for _, test := range []struct {
		name   string
		others []Candidate
		rpo    float64
		basis  string
	}{
		{"the freshest", []Candidate{behind, same, stored}, 0, "the freshest member's own raft log"},
		{"one is ahead", []Candidate{behind, ahead, stored}, 40, "raft log of ahead"},
	} {
		x := &execution{Restorer: &Restorer{Options{Now: time.Now}}, plan: &Plan{Kind: PlanRestore, Started: at.Add(time.Hour), Source: Source{Kind: "survivor", ID: "chosen", Term: 3, Index: 100, Time: at, Candidates: test.others}}}
		if r := x.report(nil); r.RPOSeconds != test.rpo || !strings.Contains(r.RPOBasis, test.basis) {
			t.Errorf("%s: RPO %v s (%s), want %v (%s)", test.name, r.RPOSeconds, r.RPOBasis, test.rpo, test.basis)
		}
	}
}

package restore

import (
	"testing"
	"time"
)

// TestLatest says which run the hosts' journals make the latest, and whether it has ended.
func TestLatest(t *testing.T) {
	begun := time.Date(2026, 11, 22, 5, 0, 0, 0, time.UTC)
	journal := func(run string, after time.Duration, ended, abandoned bool, done int) State {
		j := &Journal{Run: run, Plan: Plan{Run: run, Started: begun.Add(after), Abandoned: abandoned}}
		for range done {
			j.Plan.Steps = append(j.Plan.Steps, Step{Done: begun})
		}
		if ended {
			j.Ended = begun.Add(time.Hour)
		}
		return State{Journal: j}
	}
	for _, test := range []struct {
		name             string
		states           map[string]State
		run              string
		ended, abandoned bool
		done             int
	}{
		{"none", map[string]State{"a": {}}, "", false, false, 0},
		{"one that ended", map[string]State{"a": journal("r1", 0, true, false, 3), "b": journal("r1", 0, true, false, 3)}, "r1", true, false, 3},
		{"the newer one", map[string]State{"a": journal("r1", 0, true, false, 3), "b": journal("r2", time.Minute, true, false, 3)}, "r2", true, false, 3},
		{"an unfinished one comes first", map[string]State{"a": journal("r2", time.Minute, true, false, 3), "b": journal("r1", 0, false, false, 1)}, "r1", false, false, 1},
		{"not ended everywhere", map[string]State{"a": journal("r1", 0, true, false, 3), "b": journal("r1", 0, false, false, 3)}, "r1", false, false, 3},
		{"the furthest plan", map[string]State{"a": journal("r1", 0, false, false, 1), "b": journal("r1", 0, false, false, 2), "c": journal("r1", 0, false, false, 1)}, "r1", false, false, 2},
		{"abandoned while one was lost", map[string]State{"a": journal("r1", 0, true, true, 1), "b": journal("r1", 0, true, true, 1), "c": journal("r1", 0, false, false, 5)}, "r1", false, true, 1},
		{"the same, in another order", map[string]State{"a": journal("r1", 0, false, false, 5), "b": journal("r1", 0, true, true, 1)}, "r1", false, true, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := latest(test.states)
			if test.run == "" {
				if got != nil {
					t.Errorf("found %+v", got)
				}
				return
			}
			if got == nil || got.Plan.Run != test.run || got.Ended != test.ended || got.Plan.Abandoned != test.abandoned || got.Plan.progress() != test.done {
				t.Errorf("found %+v", got)
			}
		})
	}
}

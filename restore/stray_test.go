package restore

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// Members that nobody could ask are a danger where they are a quorum of any cluster that was: the one that the data is of, and the one that is undone.
func TestUnfenced(t *testing.T) {
	five := []string{"a", "b", "c", "d", "e"}
	for _, test := range []struct {
		name   string
		asked  []string // members whose hosts answered
		fenced []string
		source *source
		flag   string
	}{
		{"nobody is missing", five, nil, nil, ""},
		{"a minority is missing", five[:3], nil, &source{undone: five}, ""},
		{"a majority is missing", five[:2], nil, &source{undone: five}, "--fenced c --fenced d --fenced e"},
		{"a majority is missing, and all of it is fenced", five[:2], five[2:], &source{undone: five}, ""},
		{"fenced but for a minority", five[:2], five[3:], &source{undone: five}, ""},
		{"a minority of all, which is a majority of the cluster that is undone", five[:1], five[3:], &source{undone: five[:3]}, "--fenced b --fenced c"},
		{"a minority of both", five[:2], five[3:], &source{undone: five[:3]}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := &Restorer{Options{Cluster: "dcs", Fenced: test.fenced}}
			for _, name := range five {
				r.Members = append(r.Members, Placed{Member: Member{Name: name}})
			}
			o := &observed{states: map[string]State{}}
			for _, name := range test.asked {
				o.states[name] = State{}
			}
			got := ""
			for _, refusal := range r.checkDown(o, test.source) {
				got += refusal.Flag
			}
			if got != test.flag {
				t.Errorf("refused with %q, want %q", got, test.flag)
			}
		})
	}
}

// TestLeftBy says whether a run has ended on some member because the others were rolled back without the rest.
func TestLeftBy(t *testing.T) {
	at := time.Date(2026, 11, 22, 5, 0, 0, 0, time.UTC)
	state := func(place Place, ended, abandoned bool) State {
		j := &Journal{Plan: Plan{Abandoned: abandoned}}
		if ended {
			j.Ended = at
		}
		return State{Place: place, Journal: j}
	}
	running := state(PlaceNew, false, false)
	for _, test := range []struct {
		name   string
		others []State
		want   bool
	}{
		{"all are in the middle", []State{running, running}, false},
		{"the last step was cut off", []State{state(PlaceNew, true, false), running}, false},
		{"put back without it", []State{state(PlaceOld, true, true), state(PlaceOld, true, true)}, false},
		{"restored without it", []State{state(PlaceUnknown, true, false), state(PlaceUnknown, true, false)}, true},
		{"restored without it, never exchanged", []State{state(PlaceOld, true, false)}, true},
		{"the others know nothing of it", []State{{Place: PlaceOld}}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			states := map[string]State{"a": running}
			for i, s := range test.others {
				states[string(rune('b'+i))] = s
			}
			if got := leftBy(states); (got != "") != test.want || got == "a" {
				t.Errorf("left by %q", got)
			}
		})
	}
}

// What is printed to be typed after a member was retired is the plain command: the others were left alone, not out.
func TestNextOfRetirement(t *testing.T) {
	r := &Restorer{Options{Cluster: "dcs", Command: "requorum", Without: []string{"a", "b"}}}
	x := &execution{Restorer: r, plan: &Plan{Kind: PlanRestore, Steps: []Step{{Kind: StepStop}, {Kind: StepRevert}, {Kind: StepDiscard}, {Kind: StepEnd}}}}
	if got := x.next(true); len(got) != 1 || strings.Contains(got[0], "--without") || !slices.Contains(strings.Fields(got[0]), "rollback") {
		t.Errorf("next %q", got)
	}
}

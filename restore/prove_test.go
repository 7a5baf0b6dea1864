package restore

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/requorum/requorum/internal/cluster"
)

// shown is a host that shows one state after the other, nil for no answer.
type shown struct {
	Host
	states []*State
}

func (h *shown) Inspect(context.Context, InspectRequest) (State, error) {
	s := h.states[0]
	h.states = h.states[1:]
	if s == nil {
		return State{}, errors.New("no route to host")
	}
	return *s, nil
}

// A member whose etcd ends again and again, or has ended for good, is not waited for until the deadline; one that stumbled at first is, also where nobody
// could look.
func TestEnded(t *testing.T) {
	runs := func(exits int) *State {
		return &State{Active: true, Exits: exits, StatusOutput: "etcd.service is looping"}
	}
	down := &State{StatusOutput: "etcd.service is failed"}
	for _, c := range []struct {
		name   string
		states []*State
		after  int // looks, 0: it goes on waiting
	}{
		{"it runs, and does not answer", []*State{runs(0), runs(0), runs(0), runs(0)}, 0},
		{"it stumbled once", []*State{runs(1), runs(1), runs(1), runs(1)}, 0},
		{"it stumbled often, and came up at last", []*State{runs(7), runs(7), runs(7), runs(7)}, 0},
		{"it ends again and again", []*State{runs(2), runs(4)}, 2},
		{"it ends again, slowly", []*State{runs(1), runs(1), runs(2), runs(2), runs(3)}, 5},
		{"it is down", []*State{down, down, down}, 3},
		{"it was down, and came up", []*State{down, down, runs(0), down, down}, 0},
		{"nobody could look", []*State{runs(1), nil, runs(5), nil, down, down}, 0},
	} {
		m := Placed{Member: Member{Name: "etcd2", Host: "ssh://h2"}, On: &shown{states: c.states}}
		x := &execution{plan: &Plan{Run: "r1"}}
		looks := map[string]look{}
		silent := []cluster.MemberStatus{{Err: errors.New("connection refused")}}
		for n := range c.states {
			err := x.ended(t.Context(), []Placed{m}, silent, looks)
			if (err != nil) != (n+1 == c.after) {
				t.Errorf("%s: after %d looks: %v", c.name, n+1, err)
			}
			var h *HostError
			if err != nil && (!errors.As(err, &h) || h.Code != HostCommand || !strings.Contains(err.Error(), "was started on ssh://h2, and has ended again: etcd.service is ")) {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	}
	// One that answers is not looked at, and its former looks do not count.
	h := &shown{states: []*State{runs(3), runs(4)}}
	m := Placed{Member: Member{Name: "etcd2"}, On: h}
	x, looks := &execution{plan: &Plan{Run: "r1"}}, map[string]look{}
	for _, failed := range []error{errors.New("refused"), nil, errors.New("refused")} {
		if err := x.ended(t.Context(), []Placed{m}, []cluster.MemberStatus{{Err: failed}}, looks); err != nil {
			t.Errorf("it answered in between: %v", err)
		}
	}
	if len(h.states) != 0 {
		t.Errorf("%d looks were not taken", len(h.states))
	}
}

package restore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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

// A proof goes on after an election or a lost answer, until the deadline; what it finds wrong ends it at once.
func TestProofGoesOn(t *testing.T) {
	noLeader := fmt.Errorf("write and read a key: %w", cluster.ErrNoLeader)
	away := &cluster.Error{Op: "hash", Err: cluster.ErrUnreachable}
	wrong := errors.New("etcd2 serves another hash")
	for _, c := range []struct {
		name     string
		found    []error // by one attempt after the other; the last one ever after
		want     error
		attempts int // 0: until the deadline
	}{
		{"all is well", []error{nil}, nil, 1},
		{"an election and a lost answer", []error{noLeader, away, nil}, nil, 3},
		{"something is wrong", []error{wrong}, wrong, 1},
		{"something is wrong after an election", []error{noLeader, wrong}, wrong, 2},
		{"never a leader", []error{noLeader}, cluster.ErrNoLeader, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			x := &execution{Restorer: &Restorer{Options{HealthDeadline: time.Minute, Log: slog.New(slog.DiscardHandler)}}}
			begun, attempts := time.Now(), 0
			err := x.provenWithin(t.Context(), func() error {
				attempts++
				return c.found[min(attempts, len(c.found))-1]
			})
			if !errors.Is(err, c.want) || c.attempts > 0 && attempts != c.attempts {
				t.Errorf("%s: %v after %d attempts", c.name, err, attempts)
			}
			if took := time.Since(begun); c.attempts == 0 && (took < time.Minute || took > 2*time.Minute) {
				t.Errorf("%s: it took %s, with a deadline of a minute", c.name, took)
			}
		})
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	x := &execution{Restorer: &Restorer{Options{HealthDeadline: time.Hour, Log: slog.New(slog.DiscardHandler)}}}
	stopped := errors.New("stopped by interrupt")
	if err := x.provenWithin(ctx, func() error { cancel(stopped); return noLeader }); !errors.Is(err, stopped) {
		t.Errorf("interrupted: %v", err)
	}
}

package agents_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/agents/agentstest"
)

var _ = flag.Bool("update", false, "write the golden files")

// fake is an agent with fixed edits.
type fake struct {
	edits []agents.Edit
	err   error
	sel   agents.Select
}

func (f fake) Observe(context.Context, agents.Reader) (json.RawMessage, error) { return nil, f.err }
func (f fake) Edits(agents.Reader, agents.Options) ([]agents.Edit, error)      { return f.edits, f.err }
func (f fake) Gate(context.Context, agents.Known) (agents.Baseline, error) {
	return agents.Baseline{}, f.err
}
func (f fake) Select() agents.Select { return f.sel }
func (f fake) Verify(context.Context, agents.Baseline, agents.Restored) (agents.Verdict, error) {
	return agents.Verdict{}, f.err
}

func TestGhosts(t *testing.T) {
	const hour = 3600
	locks := func(n int) *agentstest.Backup {
		b := agentstest.NewBackup()
		for i := range n {
			b.Grant(int64(i+1), 30).Put(fmt.Sprintf("/locks/%04d/owner", i), "x", int64(i+1))
		}
		return b
	}
	tests := []struct {
		name   string
		kv     *agentstest.Backup
		agents []agents.Configured
		opt    agents.Options
	}{
		{name: "empty", kv: agentstest.NewBackup()},
		{name: "short-leases-go", kv: agentstest.NewBackup().
			Grant(1, 30).Grant(2, hour-1).
			Put("/app/leader", "a", 1).Put("/app/members/a", "a", 1).Put("/app/data", "stays", 0).Put("/job", "b", 2)},
		{name: "long-leases-are-asked", kv: agentstest.NewBackup().
			Grant(1, hour).Grant(2, 24*hour).Grant(3, 30).
			Put("/cache/a", "", 1).Put("/cache/b", "", 2).Put("/cache/c", "", 3).Put("lock with ' space", "", 1)},
		{name: "offered-flags-keep-no-other-ghost", kv: agentstest.NewBackup().
			Grant(1, hour).Grant(2, 30).
			Put("/cache", "", 1).Put("/leader", "", 2).Put("/seed", "", 1)},
		{name: "offered-flags-warn-where-they-must", kv: agentstest.NewBackup().
			Grant(1, hour).Grant(2, 30).
			Put("/q/1", "", 1).Put("/q/2", "", 1).Put("/q/3", "", 1).Put("/q/4", "", 1).Put("/q/5", "", 1).Put("/q/6", "", 1).
			Put("/q/leader", "", 2).Put("/q/members/a", "", 2)},
		{name: "a-key-whose-lease-is-gone-is-asked", kv: agentstest.NewBackup().Put("/orphans/a", "", 77)},
		{name: "flags-answer", kv: agentstest.NewBackup().
			Grant(1, hour).Grant(2, hour).
			Put("/cache/a", "", 1).Put("/jobs/a", "", 2),
			opt: agents.Options{KeepLeased: []string{"/cache/"}, DropLeased: []string{"/jobs/", "/typo/"}}},
		{name: "kubernetes-events-stay", kv: agentstest.NewBackup().
			Grant(1, hour).Grant(2, 15).
			Put("/registry/events/default/a", "", 1).Put("/registry/events/kube-system/b", "", 1).
			Put("/registry/masterleases/10.0.0.1", "", 2)},
		{name: "keep-leased-replaces-the-default", kv: agentstest.NewBackup().
			Grant(1, hour).
			Put("/registry/events/default/a", "", 1).Put("/mine/a", "", 1),
			opt: agents.Options{KeepPrefixes: []string{"/mine/"}}},
		{name: "the-longest-prefix-decides", kv: agentstest.NewBackup().
			Grant(1, 60).Grant(2, 60).Grant(3, 60).
			Put("/a/x", "", 1).Put("/a/b/x", "", 2).Put("/a/b/c/x", "", 3),
			opt: agents.Options{KeepLeased: []string{"/a/", "/a/b/c/"}, DropLeased: []string{"/a/b/"}}},
		{name: "a-flag-beats-the-configuration", kv: agentstest.NewBackup().
			Grant(1, 60).Put("/registry/events/default/a", "", 1),
			opt: agents.Options{DropLeased: []string{"/registry/events/"}}},
		{name: "a-shared-lease-stays-with-its-kept-key", kv: agentstest.NewBackup().
			Grant(1, 60).Grant(2, 60).
			Put("/keep/a", "", 1).Put("/drop/a", "", 1).Put("/drop/b", "", 2),
			opt: agents.Options{KeepLeased: []string{"/keep/"}}},
		{name: "agents-decide-first", kv: agentstest.NewBackup().
			Grant(1, 24*hour).Grant(2, 24*hour).Grant(3, 60).
			Put("/svc/leader", "a", 1).Put("/svc/data", "a", 2).Put("/svc/other", "", 3).Put("/svc/failover", "{}", 0),
			agents: []agents.Configured{{Name: "one", Agent: fake{edits: []agents.Edit{
				{Key: "/svc/leader", Reason: "a ghost", Group: "/svc/"},
				{Key: "/svc/data", Keep: true, Reason: "data", Group: "/svc/"},
				{Key: "/svc/failover", Reason: "a request"},
				{Key: "/svc/config", Value: []byte("{}"), Reason: "settings"},
			}}}},
			opt: agents.Options{KeepLeased: []string{"/svc/leader"}}},
		{name: "two-agents-agree", kv: agentstest.NewBackup().Grant(1, 60).Put("/a", "", 1),
			agents: []agents.Configured{
				{Name: "one", Agent: fake{edits: []agents.Edit{{Key: "/a", Reason: "by one"}}}},
				{Name: "two", Agent: fake{edits: []agents.Edit{{Key: "/a", Reason: "by two"}}}},
			}},
		{name: "all-questions-at-once", kv: agentstest.NewBackup().Grant(1, hour).Put("/x/a", "", 1),
			agents: []agents.Configured{
				{Name: "one", Agent: fake{err: agents.Refusal{What: "one asks", Risk: "r", Flag: "--one"}}},
				{Name: "two", Agent: fake{err: errors.Join(agents.Refusal{What: "two asks", Risk: "r", Flag: "--two"}, agents.Refusal{What: "and again", Risk: "r", Flag: "--too"})}},
			}},
		{name: "crowded-directories-are-one-line", kv: locks(30).Grant(99, 5).Put("/locks/special", "", 99)},
		{name: "a-few-directories-are-not", kv: locks(3)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d, err := agents.Ghosts(test.kv, test.agents, test.opt)
			if err != nil {
				t.Fatal(err)
			}
			agentstest.Golden(t, test.name, agentstest.Plan(d))
			again, err := agents.Ghosts(test.kv, test.agents, test.opt)
			if err != nil || agentstest.Plan(again) != agentstest.Plan(d) {
				t.Errorf("the same backup and options gave another decision (%v)", err)
			}
		})
	}
}

// Every leased key must be decided exactly once, and a lease may only go when
// nothing that stays is under it.
func TestGhostsDecidesEveryLeasedKeyOnce(t *testing.T) {
	b := agentstest.NewBackup()
	for i := range int64(500) {
		if lease := i%37 + 1; lease != 5 {
			b.Grant(lease, lease*200)
		}
		b.Put(fmt.Sprintf("/%d/%d/%d", i%3, i%11, i), "", i%37+1)
	}
	d, err := agents.Ghosts(b, nil, agents.Options{KeepLeased: []string{"/0/"}, DropLeased: []string{"/1/"}})
	if err != nil {
		t.Fatal(err)
	}
	removed, staying := map[string]bool{}, map[int64]bool{}
	for _, e := range d.Edits {
		if removed[e.Key] {
			t.Errorf("%s is removed twice", e.Key)
		}
		removed[e.Key] = true
	}
	counted := 0
	for _, g := range slices.Concat(d.Removed, d.KeptLeased) {
		counted += g.Count
	}
	asked := 0
	for _, r := range d.Refusals {
		var n int
		if _, err := fmt.Sscanf(r.What, "%d leased", &n); err != nil {
			t.Errorf("%q does not begin with its count", r.What)
		}
		asked += n
	}
	if counted+asked != 500 {
		t.Errorf("%d keys are removed or kept and %d asked about, of 500", counted, asked)
	}
	for k := range b.Keys("") {
		if !removed[string(k.Key)] {
			staying[k.Lease] = true
		}
	}
	for _, id := range d.DropLeases {
		if staying[id] {
			t.Errorf("lease %x is dropped although a key stays under it", id)
		}
	}
}

func TestGhostsRefusesContradictions(t *testing.T) {
	kv := agentstest.NewBackup()
	edits := func(e ...agents.Edit) agents.Agent { return fake{edits: e} }
	tests := []struct {
		name   string
		agents []agents.Configured
		opt    agents.Options
		want   string
	}{
		{"keep and drop", nil, agents.Options{KeepLeased: []string{"/a/"}, DropLeased: []string{"/a/"}}, "contradict"},
		{"empty keep_leased", nil, agents.Options{KeepPrefixes: []string{""}}, "every ghost"},
		{"agents differ", []agents.Configured{
			{Name: "one", Agent: edits(agents.Edit{Key: "/k"})},
			{Name: "two", Agent: edits(agents.Edit{Key: "/k", Value: []byte("v")})},
		}, agents.Options{}, "overlap"},
		{"remove is not an empty value", []agents.Configured{
			{Name: "one", Agent: edits(agents.Edit{Key: "/k"})},
			{Name: "two", Agent: edits(agents.Edit{Key: "/k", Value: []byte{}})},
		}, agents.Options{}, "overlap"},
		{"agent fails", []agents.Configured{{Name: "one", Agent: fake{err: errors.New("broken")}}}, agents.Options{}, "agent one: broken"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if _, err := agents.Ghosts(kv, test.agents, test.opt); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
		})
	}
}

func TestRefusalsSurviveJoining(t *testing.T) {
	a, b, other := agents.Refusal{What: "a"}, agents.Refusal{What: "b"}, errors.New("other")
	refusals, rest := agents.SplitRefusals(errors.Join(a, errors.Join(other, b)))
	if len(refusals) != 2 || refusals[0] != a || refusals[1] != b || !errors.Is(rest, other) {
		t.Errorf("got %v and %v", refusals, rest)
	}
	if r, rest := agents.SplitRefusals(agents.JoinRefusals(nil)); r != nil || rest != nil {
		t.Errorf("no refusals became %v and %v", r, rest)
	}
	var found agents.Refusal
	if !errors.As(fmt.Errorf("restore: %w", agents.JoinRefusals([]agents.Refusal{a, b})), &found) || found != a {
		t.Error("errors.As does not find a refusal in a wrapped join: the exit code would be wrong")
	}
}

func TestSelection(t *testing.T) {
	got := agents.Selection([]agents.Configured{
		{Agent: fake{sel: agents.Select{Prefixes: []string{"/b/", "/a/"}, Suffixes: []string{"/leader"}}}},
		{Agent: fake{sel: agents.Select{Prefixes: []string{"/a/"}, Infixes: []string{"/members/"}}}},
	})
	if fmt.Sprint(got) != "{[/a/ /b/] [/leader] [/members/]}" {
		t.Errorf("the union is %v", got)
	}
}

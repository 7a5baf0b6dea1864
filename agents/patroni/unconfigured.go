package patroni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/requorum/requorum/agents"
)

// Unconfigured is the agent for all scopes that a key space turns out to hold
// and the configuration does not name. Their ghosts are as dangerous as those
// of any other, so they are removed all the same; but there is nobody to ask,
// so what depends on the answer is refused until the operator decides, and
// nothing is claimed about them afterwards.
type Unconfigured struct {
	configured []string
	patience   time.Duration
}

var (
	_ agents.Agent    = (*Unconfigured)(nil)
	_ agents.Selector = (*Unconfigured)(nil)
)

// NewUnconfigured leaves the given scopes to their own agents.
func NewUnconfigured(configured ...*Scope) *Unconfigured {
	u := &Unconfigured{patience: 5 * time.Second}
	for _, s := range configured {
		u.configured = append(u.configured, s.dir)
	}
	return u
}

// Select implements [agents.Selector].
func (u *Unconfigured) Select() agents.Select { return selected() }

func (u *Unconfigured) scopes(kv agents.Reader) []*scope {
	return slices.DeleteFunc(recognise(kv), func(s *scope) bool {
		return slices.Contains(u.configured, s.dir)
	})
}

// Observe describes every scope it recognises, as an array.
func (u *Unconfigured) Observe(_ context.Context, kv agents.Reader) (json.RawMessage, error) {
	return json.Marshal(factsOf(u.scopes(kv)))
}

// Edits treats every scope as the table says. A Citus cluster and a standby
// cluster are refused until --accept-unverified names them, a sync key that
// matters until --patroni-sync decides. With --open-paused all of them open
// paused, since nobody can tell whether their agents are there.
func (u *Unconfigured) Edits(kv agents.Reader, opt agents.Options) ([]agents.Edit, error) {
	if err := checkOptions(opt); err != nil {
		return nil, err
	}
	var edits []agents.Edit
	var asked []agents.Refusal
	citus := map[string]bool{}
	for _, s := range u.scopes(kv) {
		t := &treatment{scope: s, opt: opt, pause: opt.OpenPaused}
		t.decide()
		if s.config.standby() && !t.accepted() {
			t.ask("it is a standby cluster, which follows a primary elsewhere, and is not configured here",
				"restored unverified, its new leader may follow a primary that has moved or gone, and nobody checks",
				"--accept-unverified "+s.name())
		}
		if s.citus != "" && !citus[s.citus] {
			citus[s.citus] = true
			if whole := newScope(s.citus).name(); !accepts(opt, whole) {
				t.asked = append(t.asked, agents.Refusal{
					What: fmt.Sprintf("Patroni scope %s: it is a Citus cluster of several groups, and not all of them are configured, each as a scope of its own", whole),
					Risk: "restored unverified, its groups elect leaders each by itself, and the coordinator's record of the workers is not checked",
					Flag: "--accept-unverified " + whole,
				})
			}
		}
		edits = append(edits, t.edits...)
		asked = append(asked, t.asked...)
	}
	return edits, agents.JoinRefusals(asked)
}

// Gate has nobody to ask.
func (u *Unconfigured) Gate(context.Context, agents.Known) (agents.Baseline, error) {
	return agents.Baseline{}, nil
}

// Verify waits a few seconds for the leaders and members of the backup to
// register anew and says which did. The verdict is always UNKNOWN and never
// fails a restore: keys alone are no proof, and a scope that nobody configured
// may be long gone.
func (u *Unconfigured) Verify(ctx context.Context, _ agents.Baseline, done agents.Restored) (agents.Verdict, error) {
	if done.Backup == nil {
		return agents.Verdict{}, nil
	}
	scopes := u.scopes(done.Backup)
	if len(scopes) == 0 {
		return agents.Verdict{}, nil
	}
	waiting, cancel := context.WithTimeout(ctx, u.patience)
	defer cancel()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	checks := make([]agents.Check, len(scopes))
	for {
		all := true
		for i, s := range scopes {
			if !checks[i].OK {
				checks[i] = s.registered(waiting, done, checks[i])
			}
			all = all && checks[i].OK
		}
		if all {
			break
		}
		select {
		case <-tick.C:
			continue
		case <-waiting.Done():
		}
		break
	}
	if err := ctx.Err(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return agents.Verdict{}, err
	}
	return agents.Verdict{Verdict: agents.Unknown, OK: true, Checks: checks}, nil
}

// down names the members that do not say that PostgreSQL runs.
func (s *scope) down() []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(s.members)) {
		if m, _ := parseMember(s.members[name].Value); m.State != "running" && m.State != "streaming" {
			names = append(names, name)
		}
	}
	return names
}

// registered says which of the backup's agents are registered anew. A look
// that fails because the time is over leaves the last answer.
func (s *scope) registered(ctx context.Context, done agents.Restored, last agents.Check) agents.Check {
	c := agents.Check{Name: s.name() + " registered anew"}
	kvs, err := done.Live.Get(ctx, s.dir)
	switch {
	case err != nil && last.Name != "" && ctx.Err() != nil:
		return last
	case err != nil:
		c.Detail = fmt.Sprintf("get %s: %v", s.dir, err)
		return c
	}
	now := newScope(s.dir)
	for _, k := range kvs {
		now.add(k)
	}
	var missing []string
	for _, name := range slices.Sorted(maps.Keys(s.members)) {
		if _, ok := done.Anew(now.members[name]); !ok {
			missing = append(missing, name)
		}
	}
	leader := "no leader yet"
	_, led := done.Anew(now.keys["leader"])
	if led {
		leader = fmt.Sprintf("leader %s", now.value("leader"))
	}
	c.OK = led && len(missing) == 0
	c.Detail = fmt.Sprintf("%s, %d of the backup's %d members", leader, len(s.members)-len(missing), len(s.members))
	if len(missing) > 0 {
		c.Detail += fmt.Sprintf(" (not yet: %v)", missing)
	}
	c.Detail += "; the scope is not configured, so its agents were not asked"
	if now.config.paused() {
		c.Detail += "; it is paused: `patronictl resume` when every node it has is back and runs PostgreSQL"
		if down := now.down(); len(down) > 0 {
			c.Detail += fmt.Sprintf(", which these do not say yet: %s", strings.Join(down, ", "))
		}
	}
	if c.OK {
		c.Seconds = time.Since(done.HealthyAt).Seconds()
	}
	return c
}

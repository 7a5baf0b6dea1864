package patroni

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"strings"
	"sync"

	"github.com/requorum/requorum/agents"
)

// position is a place in the WAL. A higher timeline is further, whatever the
// LSN.
type position struct {
	Timeline int64  `json:"timeline"`
	LSN      uint64 `json:"lsn"`
}

func (p position) known() bool { return p.Timeline > 0 && p.LSN > 0 }

func (p position) less(q position) bool {
	return p.Timeline < q.Timeline || p.Timeline == q.Timeline && p.LSN < q.LSN
}

func (p position) String() string {
	return fmt.Sprintf("timeline %d, LSN %s", p.Timeline, formatLSN(p.LSN))
}

// standing is where one agent stood at the gate.
type standing struct {
	URL      string   `json:"url"`
	Name     string   `json:"name,omitempty"` // if it says it
	Role     string   `json:"role"`
	State    string   `json:"state"`
	Position position `json:"position"`
	SystemID string   `json:"system_identifier,omitempty"`
	Paused   bool     `json:"paused"`
}

func (s standing) who() string {
	if s.Name != "" {
		return s.Name
	}
	return s.URL
}

// baseline is the Data of the scope's Baseline.
type baseline struct {
	Asked  []string   `json:"asked"` // the REST URLs of all expected agents
	Agents []standing `json:"agents"`
	// Furthest is the greatest position that any of them had; nothing may be
	// below it afterwards.
	Furthest position `json:"furthest"`
	// Complete says that every expected agent told its position. Otherwise one
	// of the others may have been further.
	Complete bool `json:"complete"`
	// Settings are what the agents went by, nil if none of them said.
	Settings settings `json:"settings,omitempty"`
}

func parseBaseline(b agents.Baseline) (baseline, error) {
	var known baseline
	if len(b.Data) == 0 {
		return known, nil
	}
	if err := json.Unmarshal(b.Data, &known); err != nil {
		return known, fmt.Errorf("read the gate's answers: %w", err)
	}
	return known, nil
}

// answer is what one agent said, or why it did not.
type answer struct {
	*endpoint
	status
	err error
}

// settings asks all agents at once for the dynamic settings that they go by. The
// first that says is enough: they have them from one key.
func (a *Scope) settings(ctx context.Context) settings {
	said := make([]settings, len(a.rest))
	var wait sync.WaitGroup
	for i, e := range a.rest {
		wait.Go(func() { said[i] = a.client.settings(ctx, e) })
	}
	wait.Wait()
	for _, s := range said {
		if s != nil {
			return s
		}
	}
	return nil
}

// ask puts the question to all agents at once.
func (a *Scope) ask(ctx context.Context) []answer {
	answers := make([]answer, len(a.rest))
	var wait sync.WaitGroup
	for i, e := range a.rest {
		wait.Go(func() {
			s, err := a.client.status(ctx, e)
			if err == nil && s.Patroni.Scope != "" && !a.isCalled(s.Patroni.Scope) {
				err = fmt.Errorf("%s answers for scope %s, not for %s: check rest", e.base, s.Patroni.Scope, a.dir)
			}
			answers[i] = answer{endpoint: e, status: s, err: err}
		})
	}
	wait.Wait()
	return answers
}

// isCalled says whether agents of this scope call it so. Those of a Citus group
// give the name of the whole.
func (a *Scope) isCalled(name string) bool {
	return path.Base(a.dir) == name || citusOf(a.dir) != "" && path.Base(citusOf(a.dir)) == name
}

// Gate asks every agent where it stands. The greatest position is the baseline
// for loss. An agent that answers with PostgreSQL stopped is there, but the
// baseline stays incomplete. Agents whose URLs are not configured are those of
// an earlier gate of the run, or else of the backup's keys.
func (a *Scope) Gate(ctx context.Context, where agents.Known) (agents.Baseline, error) {
	var before baseline
	switch {
	case where.Before != nil:
		var err error
		if before, err = parseBaseline(*where.Before); err != nil {
			return agents.Baseline{}, err
		}
		a = a.asking(before.Asked)
	case where.Keys != nil && len(a.rest) == 0:
		s := newScope(a.dir)
		for k := range where.Keys(a.dir) {
			s.add(k)
		}
		a = a.asking(s.discover())
	}
	if len(a.rest) == 0 {
		return agents.Baseline{Detail: "no rest is configured and no member was registered: nobody to ask, so loss stays unknown"}, nil
	}
	var base agents.Baseline
	known := baseline{Complete: true, Settings: before.Settings}
	var wait sync.WaitGroup
	if where.Before == nil { // later nobody knows more
		wait.Go(func() { known.Settings = a.settings(ctx) })
	}
	var said []string
	for _, e := range a.rest {
		known.Asked = append(known.Asked, e.base)
	}
	answers := a.ask(ctx)
	wait.Wait()
	for _, w := range answers {
		if w.err != nil {
			base.Missing = append(base.Missing, w.base)
			said = append(said, fmt.Sprintf("%s did not answer (%v)", w.base, w.err))
			known.Complete = false
			continue
		}
		one := standing{
			URL: w.base, Name: w.Patroni.Name, Role: w.Role, State: w.State,
			Position: position{Timeline: w.Timeline, LSN: w.lsn()}, SystemID: w.SystemID, Paused: w.Pause,
		}
		known.Agents = append(known.Agents, one)
		if !one.Position.known() {
			known.Complete = false
			said = append(said, fmt.Sprintf("%s: %s, %s, does not say how far it is", one.who(), one.Role, one.State))
			continue
		}
		if known.Furthest.less(one.Position) {
			known.Furthest = one.Position
		}
		said = append(said, fmt.Sprintf("%s: %s, %s, %s", one.who(), one.Role, one.State, one.Position))
	}
	if err := ctx.Err(); err != nil {
		return agents.Baseline{}, err
	}
	base.Detail = strings.Join(said, "; ")
	data, err := json.Marshal(known)
	if err != nil {
		return agents.Baseline{}, err
	}
	base.Data = data
	return base, nil
}

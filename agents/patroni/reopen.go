package patroni

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/requorum/requorum/agents"
)

// A scope that was opened paused is opened again when every expected agent is
// back: "pause" is taken out of config, as `patronictl resume` does it.
//
// That alone is right only where PostgreSQL runs everywhere. A paused Patroni
// does not start a PostgreSQL that is down - after a cold start that is every
// one - and once it is resumed, the agents race: one that started sooner takes
// those that still start for unreachable, and elects itself however far it lags
// behind. A crashed primary, which recovers first, is always late. So where
// PostgreSQL is down the scope is first held: not paused any more, but with a
// sync key that names nobody and synchronous mode on, under which every
// PostgreSQL starts as a replica and none may be promoted. When all of them say
// how far they are, config and sync are put back as they were, and Patroni's own
// election compares positions that are all known. They also complete the
// baseline of the gate.

// hold is the value of sync while a scope is held. Patroni reads the first two
// fields only; the third is what to put back.
type hold struct {
	Leader   string    `json:"leader"`
	Standby  *string   `json:"sync_standby"`
	Requorum *heldKeys `json:"requorum"`
}

// heldKeys are the values of config, without pause, and sync, before the hold.
type heldKeys struct {
	Config json.RawMessage `json:"config"`
	Sync   json.RawMessage `json:"sync"` // null: there was none
}

// holder is whom the sync key of a held scope names. No node is called so.
const holder = "(nobody: requorum waits until PostgreSQL runs on every node)"

// held returns what a held scope is put back to, nil for one that is not held.
func (s *scope) held() *heldKeys {
	var h hold
	if json.Unmarshal(s.value("sync"), &h) != nil || h.Leader != holder || h.Requorum == nil || parseConfig(h.Requorum.Config) == nil {
		return nil
	}
	return h.Requorum
}

// reopen takes the next step towards a scope that is neither paused nor held, if
// the sample allows one. It sets p.waits.
func (p *proof) reopen(ctx context.Context, s *sample) {
	if !p.reopens || s == nil {
		return
	}
	held := s.scope.held()
	if held == nil && !s.scope.config.paused() {
		p.waits = ""
		return
	}
	absent, down := p.standings(s)
	var changes []agents.Change
	switch {
	case len(absent) > 0:
		p.waits = "waits for " + strings.Join(absent, ", ")
		return
	case held != nil && len(down) > 0:
		p.waits = "held until PostgreSQL runs on " + strings.Join(down, ", ")
		return
	case held != nil:
		p.complete(s)
		p.waits = "all agents are back and run PostgreSQL: about to be opened"
		changes = s.scope.release(held, false)
	case len(down) > 0 && s.scope.keys["leader"] == nil:
		p.waits = "all agents are back: about to let PostgreSQL start on " + strings.Join(down, ", ")
		changes = s.scope.hold()
	default:
		if len(down) == 0 {
			p.complete(s)
		}
		p.waits = "all agents are back: about to be opened"
		changes = []agents.Change{s.scope.change("config", with(s.scope.value("config"), "pause", nil))}
	}
	if _, err := p.done.Change(ctx, changes...); err != nil {
		p.waits = fmt.Sprintf("%s, but that failed: %v", p.waits, err)
	} // a change that somebody else was faster than is seen at the next look
}

// abandon puts a held scope back to paused, for whoever goes on later.
func (p *proof) abandon(ctx context.Context) {
	if !p.reopens || p.now == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*askTimeout)
	defer cancel()
	kvs, err := p.done.Live.Get(ctx, p.dir)
	if err == nil {
		s := newScope(p.dir)
		for _, k := range kvs {
			s.add(k)
		}
		held := s.held()
		if held == nil {
			return
		}
		_, err = p.done.Change(ctx, s.release(held, true)...)
	}
	if err != nil {
		p.waits = fmt.Sprintf("%s; it could not be paused again: %v", p.waits, err)
	}
}

// standings names the expected agents that are not back, and those that are but
// do not say how far their PostgreSQL is.
func (p *proof) standings(s *sample) (absent, down []string) {
	for _, w := range s.answers {
		who := p.who(s, w)
		switch {
		case w.err != nil:
			absent = append(absent, fmt.Sprintf("%s, which does not answer (%v)", who, w.err))
		case w.lsn() == 0:
			down = append(down, who)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.scope.members)) {
		if why, ok := p.done.Anew(s.scope.members[name]); !ok {
			absent = append(absent, name+": "+why)
		}
	}
	if n := len(s.scope.members); n < len(p.rest) && len(absent) == 0 {
		absent = append(absent, fmt.Sprintf("%d members that are not registered%s", len(p.rest)-n, p.absent(s)))
	}
	return absent, down
}

// complete takes what all agents told before anyone could be promoted into the
// baseline.
func (p *proof) complete(s *sample) {
	complete := true
	for _, w := range s.answers {
		at := position{w.Timeline, w.lsn()}
		complete = complete && at.known()
		if at.known() && p.base.Furthest.less(at) {
			p.base.Furthest = at
		}
	}
	p.base.Complete = p.base.Complete || complete
}

// hold are the changes that let PostgreSQL start everywhere and nobody be
// promoted.
func (s *scope) hold() []agents.Change {
	open := with(s.value("config"), "pause", nil)
	keys := &heldKeys{Config: open, Sync: s.value("sync")}
	if keys.Sync == nil || !json.Valid(keys.Sync) {
		keys.Sync = json.RawMessage("null")
	}
	value, err := json.Marshal(hold{Leader: holder, Requorum: keys})
	if err != nil { // config and sync are valid JSON by now
		return nil
	}
	return []agents.Change{s.change("config", with(open, "synchronous_mode", []byte("true"))), s.change("sync", value)}
}

// release are the changes that put a held scope back.
func (s *scope) release(held *heldKeys, paused bool) []agents.Change {
	config := []byte(held.Config)
	if paused {
		config = with(config, "pause", []byte("true"))
	}
	sync := []byte(held.Sync)
	if string(sync) == "null" {
		sync = nil
	}
	return []agents.Change{s.change("config", config), s.change("sync", sync)}
}

func (s *scope) change(rel string, value []byte) agents.Change {
	c := agents.Change{Key: s.dir + rel, Value: value}
	if k := s.keys[rel]; k != nil {
		c.ModRevision = k.ModRevision
	}
	return c
}

// with sets a setting of a config that was parsed before; nil takes it out.
func with(config []byte, name string, value []byte) []byte {
	changed, err := withSetting(config, name, value)
	if err != nil {
		return config
	}
	return changed
}

// reopened is the check that a scope which was opened paused is open.
func (p *proof) reopened() agents.Check {
	c := agents.Check{Name: "opened again", OK: p.now != nil && p.waits == "", Detail: p.waits}
	if !c.OK {
		delete(p.first, c.Name)
		return c
	}
	if _, known := p.first[c.Name]; !known {
		p.first[c.Name] = time.Since(p.done.HealthyAt).Seconds()
	}
	c.Detail, c.Seconds = "no longer paused", p.first[c.Name]
	return c
}

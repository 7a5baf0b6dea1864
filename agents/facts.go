package agents

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/requorum/requorum/storage/catalog"
)

// valueBytes is how much of a leased key's value the facts repeat: it names
// the owner as a rule.
const valueBytes = 200

// Facts is what a backup remembers about agents: the leased keys of kv by
// prefix, with the agent that decides about them at a restore, and what each
// agent observes. An agent that fails costs its own observation and is named in
// the error beside the rest.
func Facts(ctx context.Context, kv Reader, configured []Configured) (catalog.Facts, error) {
	facts := catalog.Facts{Format: catalog.Format, Leased: []catalog.LeasedPrefix{}, Agents: []catalog.AgentFacts{}}
	var failed []error
	for _, c := range configured {
		data, err := c.Agent.Observe(ctx, kv)
		if err != nil {
			failed = append(failed, fmt.Errorf("observe agent %s: %w", c.Name, err))
			continue
		}
		facts.Agents = append(facts.Agents, catalog.AgentFacts{Name: c.Name, Kind: c.Kind, Data: data})
	}
	decided, err := new(Decision).ask(kv, configured, Options{})
	if err != nil {
		failed = append(failed, err)
	}
	all := newGrouping()
	for k := range kv.Keys("") {
		if k.Lease == 0 {
			continue
		}
		item := leasedKey{kv: k}
		item.ttl, _ = kv.Lease(k.Lease)
		if e, ok := decided[string(k.Key)]; ok {
			item.agent, item.group = e.Agent, e.Group
		}
		all.add(item)
	}
	for _, g := range all.groups() {
		p := catalog.LeasedPrefix{
			Prefix: g.Prefix, Count: g.Count, TTLMin: g.TTLMin, TTLMax: g.TTLMax,
			Truncated: g.Count - len(g.first), Agent: g.Agent,
		}
		for _, k := range g.first {
			p.Owners = append(p.Owners, catalog.LeasedKey{
				Key: string(k.kv.Key), Lease: fmt.Sprintf("%016x", k.kv.Lease), TTL: k.ttl,
				Value:          strings.ToValidUTF8(string(k.kv.Value[:min(len(k.kv.Value), valueBytes)]), "\uFFFD"),
				CreateRevision: k.kv.CreateRevision, ModRevision: k.kv.ModRevision,
			})
		}
		facts.Leased = append(facts.Leased, p)
	}
	return facts, errors.Join(failed...)
}

package agents

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// AskTTL is the granted TTL, in seconds, from which a leased key that belongs
// to no agent is asked about instead of removed: so long a lease may carry
// data rather than a registration.
const AskTTL = 3600

// Decision is what becomes of the keys of a backup when it is restored.
type Decision struct {
	Edits      []Edit    // what to change in the file, in key order; none has Keep set
	DropLeases []int64   // the leases that go with their keys, ascending
	Kept       []Edit    // keys that agents leave in place on purpose, in key order
	Removed    []Group   // the leased keys that are removed, by prefix
	KeptLeased []Group   // the leased keys that stay, by prefix
	Refusals   []Refusal // questions to answer first; while there are any, nothing may be changed
	Notes      []string  // what a person should know beside
}

// Ghosts decides about every leased key of a backup, and collects what the
// configured agents want with their keys:
//
//   - what an agent decides about its keys is done;
//   - leased keys under a keep_leased prefix stay, with their leases;
//   - of the rest, those with a granted TTL of [AskTTL] or more are asked
//     about, unless --keep-leased or --drop-leased answers: the longest
//     prefix decides;
//   - all others are removed.
//
// A lease goes when every key under it goes; one that also holds a key that
// stays, stays. Ghosts is pure. Questions are all collected in
// Decision.Refusals; the error is for what is wrong with the options or among
// the agents.
func Ghosts(kv Reader, configured []Configured, opt Options) (Decision, error) {
	rules, err := opt.rules()
	if err != nil {
		return Decision{}, err
	}
	var d Decision
	decided, err := d.ask(kv, configured, opt)
	if err != nil {
		return Decision{}, err
	}

	gone := map[int64]bool{}    // leases of removed keys
	staying := map[int64]bool{} // leases of keys that stay, or may
	removed, kept, asked := newGrouping(), newGrouping(), newGrouping()
	var short []string // removed by the general rule alone
	for k := range kv.Keys("") {
		if k.Lease == 0 {
			continue
		}
		key := string(k.Key)
		ttl, granted := kv.Lease(k.Lease)
		item := leasedKey{kv: k, ttl: ttl}
		rule := rules.match(key)

		if edit, ok := decided[key]; ok {
			item.agent, item.group, item.reason = edit.Agent, edit.Group, edit.Reason
			switch {
			case edit.Keep:
				staying[k.Lease] = true
				kept.add(item)
				continue
			case edit.Value == nil:
				removed.add(item)
			}
			gone[k.Lease] = true
			if rule.keep {
				rule.used = true
				d.note("%s covers keys of %s: those are registrations and are removed all the same", rule.source, edit.Agent)
			}
			continue
		}

		switch {
		case rule.keep:
			rule.used = true
			item.group, item.reason = rule.prefix, rule.source
			staying[k.Lease] = true
			kept.add(item)
		case rule.flag || granted && ttl < AskTTL:
			item.reason = "leased; its owner registers anew if it still lives"
			if rule.flag {
				rule.used = true
				item.reason = rule.source
			} else {
				short = append(short, key)
			}
			gone[k.Lease] = true
			d.Edits = append(d.Edits, Edit{Key: key, Reason: item.reason, Group: Directory(key)})
			removed.add(item)
		default:
			staying[k.Lease] = true
			asked.add(item)
		}
	}

	for id := range gone {
		if _, inFile := kv.Lease(id); inFile && !staying[id] {
			d.DropLeases = append(d.DropLeases, id)
		}
	}
	slices.Sort(d.DropLeases)
	slices.SortStableFunc(d.Edits, byKey)
	slices.SortStableFunc(d.Kept, byKey)
	d.Removed, d.KeptLeased = plain(removed.groups()), plain(kept.groups())
	for _, g := range asked.groups() {
		d.Refusals = append(d.Refusals, g.question(short))
	}
	for _, r := range rules {
		if r.flag && !r.used {
			d.note("%s matches no leased key that is open to decide", r.source)
		}
	}
	return d, nil
}

// ask collects the edits of all agents into d and returns them by key.
func (d *Decision) ask(kv Reader, configured []Configured, opt Options) (map[string]Edit, error) {
	decided := map[string]Edit{}
	for _, c := range configured {
		own := opt
		if b, asked := opt.Baselines[c.Name]; asked {
			own.Baseline = &b
		}
		edits, err := c.Agent.Edits(kv, own)
		refusals, err := SplitRefusals(err)
		if err != nil {
			return nil, fmt.Errorf("what to restore of agent %s: %w", c.Name, err)
		}
		d.Refusals = append(d.Refusals, refusals...)
		for _, e := range edits {
			e.Agent = c.Name
			if e.Group == "" {
				e.Group = Directory(e.Key)
			}
			if other, taken := decided[e.Key]; taken {
				if !other.same(e) {
					return nil, fmt.Errorf("agents %s and %s both decide about key %s, and differently: configure them so that their prefixes do not overlap",
						other.Agent, e.Agent, e.Key)
				}
				continue
			}
			decided[e.Key] = e
			if e.Keep {
				d.Kept = append(d.Kept, e)
			} else {
				d.Edits = append(d.Edits, e)
			}
		}
	}
	return decided, nil
}

// same says whether two edits of one key do the same.
func (e Edit) same(o Edit) bool {
	return e.Keep == o.Keep && (e.Value == nil) == (o.Value == nil) && bytes.Equal(e.Value, o.Value)
}

func (d *Decision) note(format string, args ...any) {
	n := fmt.Sprintf(format, args...)
	if !slices.Contains(d.Notes, n) {
		d.Notes = append(d.Notes, n)
	}
}

func byKey(a, b Edit) int { return strings.Compare(a.Key, b.Key) }

// Keeps returns the prefix of keep_leased or --keep-leased that decides about
// key, if one does. Kinds whose keys are found by prefix ask it, so that a
// more specific keep_leased holds within their prefix.
func (o Options) Keeps(key string) (prefix string, ok bool) {
	rules, err := o.rules()
	if err != nil {
		return "", false
	}
	r := rules.match(key)
	return r.prefix, r.keep
}

// rule is one prefix with what becomes of the leased keys under it.
type rule struct {
	prefix string
	keep   bool
	flag   bool   // given for this restore, not by the configuration
	source string // how a person knows it
	used   bool
}

// rules are ordered so that the first match decides: longest prefix first,
// and at the same length a flag before the configuration.
type rules []*rule

func (o Options) rules() (rules, error) {
	keep := o.KeepPrefixes
	if keep == nil {
		keep = DefaultKeepPrefixes()
	}
	var rs rules
	var errs []error
	for _, p := range keep {
		if p == "" {
			errs = append(errs, errors.New("keep_leased: an empty prefix would keep every ghost; name a prefix"))
		}
		rs = append(rs, &rule{prefix: p, keep: true, source: "keep_leased " + quote(p)})
	}
	for _, p := range o.KeepLeased {
		if slices.Contains(o.DropLeased, p) {
			errs = append(errs, fmt.Errorf("--keep-leased %s and --drop-leased %[1]s contradict each other: give one of them", quote(p)))
		}
		rs = append(rs, &rule{prefix: p, keep: true, flag: true, source: "--keep-leased " + quote(p)})
	}
	for _, p := range o.DropLeased {
		rs = append(rs, &rule{prefix: p, flag: true, source: "--drop-leased " + quote(p)})
	}
	slices.SortStableFunc(rs, func(a, b *rule) int {
		if c := cmp.Compare(len(b.prefix), len(a.prefix)); c != 0 {
			return c
		}
		switch {
		case a.flag == b.flag:
			return 0
		case a.flag:
			return -1
		default:
			return 1
		}
	})
	return rs, errors.Join(errs...)
}

// match returns the rule that decides about key; one that neither keeps nor is
// a flag decides nothing.
func (rs rules) match(key string) *rule {
	for _, r := range rs {
		if strings.HasPrefix(key, r.prefix) {
			return r
		}
	}
	return &rule{}
}

func union(a, b []string) []string {
	set := map[string]bool{}
	for _, s := range slices.Concat(a, b) {
		set[s] = true
	}
	return slices.Sorted(maps.Keys(set))
}

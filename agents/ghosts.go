package agents

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
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
	for k := range kv.Keys("") {
		if k.Lease == 0 {
			continue
		}
		key := string(k.Key)
		ttl, granted := kv.Lease(k.Lease)
		item := leasedKey{key: key, ttl: ttl}

		if edit, ok := decided[key]; ok {
			item.agent, item.group, item.reason = edit.Agent, edit.Group, edit.Reason
			switch {
			case edit.Keep:
				staying[k.Lease] = true
				kept.add(item)
			default:
				gone[k.Lease] = true
				if edit.Value == nil {
					removed.add(item)
				}
				if r, ok := rules.match(key); ok && r.keep {
					d.note("%s covers %s, but that is a registration of %s and is removed", r.source, key, edit.Agent)
				}
			}
			continue
		}

		rule, ruled := rules.match(key)
		switch {
		case ruled && rule.keep:
			rule.used = true
			staying[k.Lease] = true
			item.group, item.reason = rule.prefix, rule.source
			kept.add(item)
		case ruled:
			rule.used = true
			item.reason = rule.source
		case !granted:
			staying[k.Lease] = true
			item.reason = "its lease is not in the backup, so it would stay for ever"
			asked.add(item)
		case ttl >= AskTTL:
			staying[k.Lease] = true
			asked.add(item)
		}
		if (ruled && !rule.keep) || (!ruled && granted && ttl < AskTTL) {
			gone[k.Lease] = true
			if item.reason == "" {
				item.reason = "leased; its owner registers anew if it still lives"
			}
			d.Edits = append(d.Edits, Edit{Key: key, Reason: item.reason, Group: directory(key)})
			removed.add(item)
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
	d.Removed, d.KeptLeased = removed.groups(), kept.groups()
	for _, g := range asked.groups() {
		d.Refusals = append(d.Refusals, g.question())
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
		edits, err := c.Agent.Edits(kv, opt)
		refusals, err := SplitRefusals(err)
		if err != nil {
			return nil, fmt.Errorf("what to restore of agent %s: %w", c.Name, err)
		}
		d.Refusals = append(d.Refusals, refusals...)
		for _, e := range edits {
			e.Agent = c.Name
			if e.Group == "" {
				e.Group = directory(e.Key)
			}
			if other, taken := decided[e.Key]; taken {
				if other.Keep != e.Keep || string(other.Value) != string(e.Value) {
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

func (d *Decision) note(format string, args ...any) {
	n := fmt.Sprintf(format, args...)
	if !slices.Contains(d.Notes, n) {
		d.Notes = append(d.Notes, n)
	}
}

func byKey(a, b Edit) int { return strings.Compare(a.Key, b.Key) }

// question asks what to do with a group of leased keys.
func (g Group) question() Refusal {
	keys := "leased keys"
	if g.Count == 1 {
		keys = "leased key"
	}
	life := fmt.Sprintf("their leases were granted for %s", seconds(g.TTLMin))
	switch {
	case g.TTLMax == 0:
		life = "the backup holds no lease of theirs"
	case g.TTLMin == 0:
		life = fmt.Sprintf("their leases were granted for up to %s or are not in the backup", seconds(g.TTLMax))
	case g.TTLMin != g.TTLMax:
		life = fmt.Sprintf("their leases were granted for %s to %s", seconds(g.TTLMin), seconds(g.TTLMax))
	}
	return Refusal{
		What: fmt.Sprintf("%d %s under %s: no configured agent owns them, and %s", g.Count, keys, quote(g.Prefix), life),
		Risk: "kept, a registration of a program that is long gone is believed for that whole time; dropped, data that is no registration is lost",
		Flag: fmt.Sprintf("--keep-leased %s or --drop-leased %[1]s", quote(g.Prefix)),
	}
}

// Keeps returns the prefix of keep_leased or --keep-leased that decides about
// key, if one does. Kinds whose keys are found by prefix ask it, so that a
// more specific keep_leased holds within their prefix.
func (o Options) Keeps(key string) (prefix string, ok bool) {
	rules, err := o.rules()
	if err != nil {
		return "", false
	}
	r, ok := rules.match(key)
	if !ok || !r.keep {
		return "", false
	}
	return r.prefix, true
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

func (rs rules) match(key string) (*rule, bool) {
	for _, r := range rs {
		if strings.HasPrefix(key, r.prefix) {
			return r, true
		}
	}
	return nil, false
}

// seconds writes a TTL for a person.
func seconds(ttl int64) string {
	const most = int64(1<<63-1) / int64(time.Second)
	if ttl > most {
		return fmt.Sprintf("%d seconds", ttl)
	}
	return (time.Duration(ttl) * time.Second).String()
}

// quote writes a prefix so that a shell takes it as one word.
func quote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-:@=+,%", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func union(a, b []string) []string {
	set := map[string]bool{}
	for _, s := range slices.Concat(a, b) {
		set[s] = true
	}
	return slices.Sorted(maps.Keys(set))
}

package agents

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// Group is a number of leased keys under one prefix.
type Group struct {
	Prefix string `json:"prefix"`
	Count  int    `json:"count"`
	Agent  string `json:"agent,omitempty"`  // Configured.Name, "" for none
	Reason string `json:"reason,omitempty"` // a sentence for the plan
	// TTLMin and TTLMax bound the granted TTLs in seconds. 0 stands for a
	// lease that the backup does not hold.
	TTLMin int64 `json:"ttl_min"`
	TTLMax int64 `json:"ttl_max"`
}

// manySiblings is how many groups one directory may hold before they are
// reported as one: ten thousand locks in directories of their own are one line
// for a person.
const manySiblings = 20

// Directory is the part of a key up to its last slash, or the whole key when
// there is none: the prefix that a person would name it by.
func Directory(key string) string {
	if i := strings.LastIndexByte(key, '/'); i >= 0 {
		return key[:i+1]
	}
	return key
}

// parent is the directory above a directory, "" at the top.
func parent(dir string) string {
	i := strings.LastIndexByte(strings.TrimSuffix(dir, "/"), '/')
	return dir[:i+1]
}

type leasedKey struct {
	kv     *mvccpb.KeyValue
	ttl    int64
	agent  string
	group  string // "" to group it by its directory
	reason string
}

// group is a Group with its first keys.
type group struct {
	Group
	first []leasedKey
}

// listedKeys is how many keys of a group are remembered one by one.
const listedKeys = 20

// grouping counts leased keys by prefix.
type grouping struct {
	named map[string]*group // by agents and rules, as they said, under agent and prefix
	free  map[string]*group // by directory
}

func newGrouping() *grouping {
	return &grouping{named: map[string]*group{}, free: map[string]*group{}}
}

func (g *grouping) add(k leasedKey) {
	one := &group{
		Group: Group{Prefix: k.group, Count: 1, Agent: k.agent, Reason: k.reason, TTLMin: k.ttl, TTLMax: k.ttl},
		first: []leasedKey{k},
	}
	if k.group != "" {
		merge(g.named, k.agent+"\x00"+k.group, one)
		return
	}
	one.Prefix = Directory(string(k.kv.Key))
	merge(g.free, one.Prefix, one)
}

func merge(into map[string]*group, at string, one *group) {
	have, ok := into[at]
	if !ok {
		into[at] = one
		return
	}
	have.Count += one.Count
	have.TTLMin, have.TTLMax = min(have.TTLMin, one.TTLMin), max(have.TTLMax, one.TTLMax)
	have.first = append(have.first, one.first[:min(len(one.first), listedKeys-len(have.first))]...)
	if have.Reason != one.Reason {
		have.Reason = "" // each key's own reason stands in its edit
	}
}

// groups returns the groups in order of their prefixes, crowded directories
// folded into one.
func (g *grouping) groups() []*group {
	deepest := 0
	for p := range g.free {
		deepest = max(deepest, strings.Count(p, "/"))
	}
	for depth := deepest; depth > 0; depth-- {
		children := map[string][]string{}
		for _, p := range slices.Sorted(maps.Keys(g.free)) {
			if strings.Count(p, "/") == depth && parent(p) != "" {
				children[parent(p)] = append(children[parent(p)], p)
			}
		}
		for dir, prefixes := range children {
			if len(prefixes) <= manySiblings {
				continue
			}
			for _, p := range prefixes {
				one := g.free[p]
				delete(g.free, p)
				one.Prefix = dir
				merge(g.free, dir, one)
			}
		}
	}
	all := slices.Concat(slices.Collect(maps.Values(g.named)), slices.Collect(maps.Values(g.free)))
	slices.SortFunc(all, func(a, b *group) int {
		return cmp.Or(strings.Compare(a.Prefix, b.Prefix), strings.Compare(a.Agent, b.Agent))
	})
	return all
}

// plain is what a decision tells of groups.
func plain(groups []*group) []Group {
	out := make([]Group, len(groups))
	for i, g := range groups {
		out[i] = g.Group
	}
	return out
}

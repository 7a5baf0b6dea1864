package drills

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/repository"
)

// Contents is what a cluster serves.
type Contents interface {
	// Keys yields all keys in key order, as they stood at a revision. After an error nothing follows.
	Keys(ctx context.Context, revision int64) iter.Seq2[Key, error]
	// Leases are the ids of all leases, ascending.
	Leases(ctx context.Context) ([]int64, error)
	// Access is who may do what.
	Access(ctx context.Context) (Access, error)
}

// A Key is one key with all that etcd knows of it.
type Key struct {
	Name                         string
	Create, Mod, Version, Leased int64
	Sum                          uint64 // of the value; equal in both clusters that are compared for equal values
}

// Access is a cluster's authentication: users with their roles, roles with their permissions, each as a text.
type Access struct {
	Enabled      bool
	Users, Roles map[string]string
}

// An Untouched backup is served by an etcd of its own, beside the restored cluster.
type Untouched interface {
	Contents
	// Hash is what that etcd computes at a revision.
	Hash(ctx context.Context, revision int64) (catalog.HashKV, error)
	// Close ends the etcd.
	Close() error
}

// shown is how many differences are named one by one.
const shown = 10

// planned is what a restore said it would change.
type planned struct {
	before int64                 // the backup's revision
	opened int64                 // the revision that the restored cluster opened at
	edits  map[string]string     // action by key, of agents' edits
	leased func(key string) bool // whether a leased key goes
}

// compare walks both key spaces side by side. Every key of the backup must be in the restored cluster as it was, or must have been
// removed as planned: a registration, or by an edit. The other way round, only edits and nothing else may have written a key.
func compare(ctx context.Context, backup, restored Contents, plan planned) (*Content, error) {
	c := &Content{}
	counts := newCounts()
	next, stop := iter.Pull2(restored.Keys(ctx, plan.opened))
	defer stop()
	have, err, more := next()
	differ := func(format string, args ...any) {
		c.Different++
		if len(c.First) < shown {
			c.First = append(c.First, fmt.Sprintf(format, args...))
		}
	}
	extra := func() {
		counts.add(have.Name, 0, 1)
		if plan.edits[have.Name] == "write" {
			c.Written++
		} else {
			differ("%q is in the restored cluster, and not in the backup", have.Name)
		}
		have, err, more = next()
	}
	for want, wantErr := range backup.Keys(ctx, plan.before) {
		if wantErr != nil {
			return nil, fmt.Errorf("keys of the untouched backup: %w", wantErr)
		}
		for more && err == nil && have.Name < want.Name {
			extra()
		}
		if err != nil {
			break
		}
		c.Compared++
		if !more || have.Name != want.Name {
			counts.add(want.Name, 1, 0)
			switch {
			case plan.edits[want.Name] == "remove", want.Leased != 0 && plan.leased(want.Name):
				c.Removed++
			default:
				differ("%q is in the backup, and not in the restored cluster", want.Name)
			}
			continue
		}
		counts.add(want.Name, 1, 1)
		switch {
		case have == want:
		case plan.edits[want.Name] == "write":
			c.Written++
		default:
			differ("%q is %+v in the backup and %+v in the restored cluster", want.Name, want, have)
		}
		have, err, more = next()
	}
	for more && err == nil {
		extra()
	}
	if err != nil {
		return nil, fmt.Errorf("keys of the restored cluster: %w", err)
	}
	c.Prefixes = counts.list()
	return c, nil
}

// judge says whether the comparison is evidence of a restore.
func (c *Content) judge() error {
	left := c.Compared - c.Removed
	switch {
	case c.Different > 0:
		return &finding{err: repository.ErrVerify, expected: "every key as in the backup, but for what was removed as planned",
			found: fmt.Sprintf("%d keys differ, first %s", c.Different, c.First[0]), try: "keep the report, and look at the restore's plan: a key that nobody planned to change was changed"}
	case left == 0:
		return &finding{err: catalog.ErrNothingToRestore, expected: "data beside registrations", found: fmt.Sprintf("all %d keys of the backup are registrations, which a restore removes: nothing would be left", c.Compared),
			try: "see whether the right cluster is backed up (requorum show), and whether these keys are data: then name them in keep_leased"}
	}
	return nil
}

// most prefixes that are counted apart; what is beyond them is counted as the rest.
const (
	mostPrefixes = 40
	rest         = "(others)"
)

// counts are keys by prefix: the first two directories of a key, or the first if that has too many.
type counts struct {
	two map[string]*PrefixCount
}

func newCounts() *counts { return &counts{two: map[string]*PrefixCount{}} }

// tooMany bounds what is remembered while counting.
const tooMany = 10_000

func (n *counts) add(key string, backup, restored int64) {
	prefix := head(key, 2)
	c := n.two[prefix]
	if c == nil {
		if len(n.two) >= tooMany {
			prefix = head(key, 1)
			c = n.two[prefix]
		}
		if c == nil {
			c = &PrefixCount{Prefix: prefix}
			n.two[prefix] = c
		}
	}
	c.Backup += backup
	c.Restored += restored
}

// head is the first n directories of a key; the whole key where it has fewer.
func head(key string, n int) string {
	at := 0
	if strings.HasPrefix(key, "/") {
		at = 1
	}
	for range n {
		i := strings.IndexByte(key[at:], '/')
		if i < 0 {
			break
		}
		at += i + 1
	}
	if at <= 1 {
		return "(top level)"
	}
	return key[:at]
}

// list folds crowded directories and returns the largest, in key order.
func (n *counts) list() []PrefixCount {
	fold := func(by func(string) string) []PrefixCount {
		sums := map[string]*PrefixCount{}
		for _, c := range n.two {
			p := by(c.Prefix)
			if sums[p] == nil {
				sums[p] = &PrefixCount{Prefix: p}
			}
			sums[p].Backup += c.Backup
			sums[p].Restored += c.Restored
		}
		var all []PrefixCount
		for _, p := range slices.Sorted(maps.Keys(sums)) {
			all = append(all, *sums[p])
		}
		return all
	}
	all := fold(func(p string) string { return p })
	if len(all) > mostPrefixes {
		all = fold(func(p string) string { return head(p, 1) })
	}
	if len(all) <= mostPrefixes {
		return all
	}
	bySize := slices.Clone(all)
	slices.SortStableFunc(bySize, func(a, b PrefixCount) int { return int(max(b.Backup, b.Restored) - max(a.Backup, a.Restored)) })
	least := PrefixCount{Prefix: rest}
	var kept []PrefixCount
	for i, c := range bySize {
		if i < mostPrefixes-1 {
			kept = append(kept, c)
			continue
		}
		least.Backup += c.Backup
		least.Restored += c.Restored
	}
	slices.SortFunc(kept, func(a, b PrefixCount) int { return strings.Compare(a.Prefix, b.Prefix) })
	return append(kept, least)
}

// compareAccess says how two clusters' authentication differs.
func compareAccess(backup, restored Access) []string {
	var found []string
	if backup.Enabled != restored.Enabled {
		found = append(found, fmt.Sprintf("authentication is %s in the backup and %s in the restored cluster", onOff(backup.Enabled), onOff(restored.Enabled)))
	}
	for what, both := range map[string][2]map[string]string{"user": {backup.Users, restored.Users}, "role": {backup.Roles, restored.Roles}} {
		for name, is := range both[0] {
			if now, ok := both[1][name]; !ok {
				found = append(found, fmt.Sprintf("%s %s is missing", what, name))
			} else if now != is {
				found = append(found, fmt.Sprintf("%s %s has %s instead of %s", what, name, now, is))
			}
		}
		for name := range both[1] {
			if _, ok := both[0][name]; !ok {
				found = append(found, fmt.Sprintf("%s %s is new", what, name))
			}
		}
	}
	slices.Sort(found)
	return found
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

package backup

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/storage/catalog"
)

// Agents is what a backup knows of the programs that keep leased state in the cluster, as functions
// of whoever configured them.
type Agents struct {
	// Select names the keys without a lease that Observe wants to see.
	Select dbfile.Select
	// Observe says what the agents find in the backup. Its failure costs the observations, not the backup.
	Observe func(ctx context.Context, kv KeyReader) ([]catalog.AgentFacts, error)
	// Owner names the agent that a leased key belongs to, "" for none; nil: no agents.
	Owner func(key string) string
	// KeepLeased are prefixes of leased data that is no registration and needs no warning.
	KeepLeased []string
}

// KeyReader is the key space of a backup: leased keys, those that Agents.Select names, and leases.
type KeyReader interface {
	Keys(prefix string) iter.Seq[*mvccpb.KeyValue]
	Lease(id int64) (ttl int64, ok bool)
	Revision() int64
}

// Bounds on what facts hold, whatever the cluster holds.
const (
	maxPrefixes   = 500
	maxOwners     = 20   // per prefix
	maxOwnerValue = 1024 // bytes
)

// askTTL is the granted TTL from which on leased keys of no agent are asked about at a restore. Facts show
// them early.
const askTTL = time.Hour

// leasedPrefixes groups the leased keys of a backup: those below a prefix of keep by that prefix, the others by their
// directories. When there are too many of those, by the directories' first parts.
func leasedPrefixes(kv KeyReader, owner func(string) string, keep []string) []catalog.LeasedPrefix {
	if owner == nil {
		owner = func(string) string { return "" }
	}
	deepest := 0
	for pair := range kv.Keys("") {
		if pair.Lease != 0 {
			deepest = max(deepest, strings.Count(string(pair.Key), "/"))
		}
	}
	for depth := deepest; ; depth-- {
		if groups, fit := groupLeased(kv, owner, keep, depth); fit || depth == 0 {
			return groups
		}
	}
}

// groupLeased groups by the first depth parts of the directory, and by agent. It gives up when there are too many
// groups, except at depth 0.
func groupLeased(kv KeyReader, owner func(string) string, keep []string, depth int) (groups []catalog.LeasedPrefix, fit bool) {
	type name struct{ prefix, agent string }
	at := map[name]int{}
	for pair := range kv.Keys("") {
		if pair.Lease == 0 {
			continue
		}
		key := string(pair.Key)
		n := name{directory(key, depth), owner(key)}
		if i := slices.IndexFunc(keep, func(k string) bool { return k != "" && strings.HasPrefix(key, k) }); i >= 0 {
			n.prefix = keep[i]
		}
		i, seen := at[n]
		if !seen {
			if len(groups) == maxPrefixes && depth > 0 {
				return nil, false
			}
			i = len(groups)
			at[n] = i
			groups = append(groups, catalog.LeasedPrefix{Prefix: n.prefix, Agent: n.agent})
		}
		addLeased(&groups[i], kv, pair)
	}
	slices.SortStableFunc(groups, func(a, b catalog.LeasedPrefix) int { return strings.Compare(a.Prefix, b.Prefix) })
	return groups, true
}

func addLeased(g *catalog.LeasedPrefix, kv KeyReader, pair *mvccpb.KeyValue) {
	ttl, _ := kv.Lease(pair.Lease) // an orphan, whose lease is gone, never ends: 0
	if g.Count == 0 || ttl < g.TTLMin {
		g.TTLMin = ttl
	}
	g.TTLMax = max(g.TTLMax, ttl)
	g.Count++
	if len(g.Owners) == maxOwners {
		g.Truncated++
		return
	}
	value := pair.Value[:min(len(pair.Value), maxOwnerValue)]
	g.Owners = append(g.Owners, catalog.LeasedKey{
		Key: string(pair.Key), Value: strings.ToValidUTF8(string(value), "\uFFFD"), Lease: strconv.FormatInt(pair.Lease, 16), TTL: ttl,
		CreateRevision: pair.CreateRevision, ModRevision: pair.ModRevision,
	})
}

// directory is the first depth parts of the key, each with its slash, at most up to its last one. A key without a slash
// in them is its own.
func directory(key string, depth int) string {
	end := 0
	for range depth {
		i := strings.IndexByte(key[end:], '/')
		if i < 0 {
			break
		}
		end += i + 1
	}
	if end == 0 && depth > 0 {
		return key
	}
	return key[:end]
}

// leasedWarnings says early what a restore would ask about.
func leasedWarnings(prefixes []catalog.LeasedPrefix, keep []string) (warnings []string) {
	for _, p := range prefixes {
		if p.Agent != "" || slices.Contains(keep, p.Prefix) || time.Duration(p.TTLMax)*time.Second < askTTL {
			continue
		}
		warnings = append(warnings, fmt.Sprintf(
			"%d leased keys below %q belong to no configured agent and have a TTL of up to %s: a restore will ask whether to keep or drop them (agents or keep_leased of the configuration answer that now)",
			p.Count, p.Prefix, catalog.Age(time.Duration(p.TTLMax)*time.Second)))
	}
	return warnings
}

// makeFacts reads the facts out of a checked file.
func (a Agents) makeFacts(ctx context.Context, kv KeyReader) (facts catalog.Facts, warnings []string) {
	facts = catalog.Facts{Format: catalog.Format, Leased: leasedPrefixes(kv, a.Owner, a.KeepLeased)}
	warnings = leasedWarnings(facts.Leased, a.KeepLeased)
	if a.Observe == nil {
		return facts, warnings
	}
	observed, err := a.Observe(ctx, kv)
	facts.Agents = observed
	if err != nil {
		warnings = append(warnings, fmt.Sprintf("agents: what they left in the backup could not be read in full: %v", err))
	}
	return facts, warnings
}

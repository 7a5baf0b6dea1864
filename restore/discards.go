package restore

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/storage/catalog"
)

// Discards says what a rollback gives up: what clients wrote to the new cluster.
type Discards struct {
	Revisions int64     `json:"revisions"`
	Known     bool      `json:"known"` // false: the new cluster could not be asked
	Changes   []Changed `json:"changes,omitempty"`
	Detail    string    `json:"detail"`
}

// Changed are the changes of keys in one directory.
type Changed struct {
	Prefix  string `json:"prefix"`            // their [agents.Directory]; "" for what is not listed by itself
	Leased  int    `json:"leased,omitempty"`  // written under a lease, as registrations are
	Plain   int    `json:"plain,omitempty"`   // written without one
	Deleted int    `json:"deleted,omitempty"` // deleted, or gone with their leases
}

func (c Changed) count() int { return c.Leased + c.Plain + c.Deleted }

func (c Changed) String() string {
	var parts []string
	for _, p := range []struct {
		n    int
		what string
	}{{c.Plain, "written"}, {c.Leased, "written under leases"}, {c.Deleted, "deleted"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	where := fmt.Sprintf("%q", c.Prefix)
	if c.Prefix == "" {
		where = "other keys"
	}
	return fmt.Sprintf("%s (%s)", where, strings.Join(parts, ", "))
}

// discards asks the cluster that a run made what its clients wrote. A member remembers that until it is compacted; then only
// the number of revisions is known, in which the run's own probe counts.
func (r *Restorer) discards(ctx context.Context, of Plan, o *observed) (*Discards, error) {
	d := &Discards{Detail: "how much was written since the cluster was opened is unknown: none of its members answers"}
	endpoint, last := "", int64(0)
	for _, s := range o.statuses {
		if s.Err == nil && of.Prepared != nil && hexID(s.ClusterID) == of.Prepared.ClusterID && s.Revision > last {
			endpoint, last = s.Endpoint, s.Revision
		}
	}
	if endpoint == "" {
		return d, nil
	}
	d.Known = true
	c, err := r.Connect([]string{endpoint})
	if err != nil {
		return nil, fmt.Errorf("connect to cluster %s: %w", r.Cluster, err)
	}
	defer func() { _ = c.Close() }() // what was asked has been answered
	var counted changes
	err = c.Changes(ctx, endpoint, of.Prepared.Revision+1, last, counted.add)
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	d.Revisions, d.Changes = counted.revisions, counted.most()
	if err != nil {
		d.Revisions, d.Changes = last-of.Prepared.Revision, nil
		r.Log.Warn("what was written since the cluster was opened cannot be told", "run", of.Run, "error", err)
	}
	d.Detail = catalog.Count(d.Revisions, "revision") + " written since the cluster was opened"
	var where []string
	for _, one := range d.Changes {
		where = append(where, one.String())
	}
	if len(where) > 0 {
		d.Detail += ": " + strings.Join(where, ", ")
	}
	return d, nil
}

const (
	countedDirs = 1000 // of which changes are counted apart
	listedDirs  = 5    // that a person is told
)

// changes counts what it is told, in their order.
type changes struct {
	revisions, last int64
	dirs            map[string]*Changed
}

func (c *changes) add(e *mvccpb.Event) {
	if e.Kv.ModRevision != c.last {
		c.revisions, c.last = c.revisions+1, e.Kv.ModRevision
	}
	one := Changed{Prefix: agents.Directory(string(e.Kv.Key))}
	switch {
	case e.Type == mvccpb.DELETE:
		one.Deleted++
	case e.Kv.Lease != 0:
		one.Leased++
	default:
		one.Plain++
	}
	c.merge(one)
}

func (c *changes) merge(one Changed) {
	if c.dirs == nil {
		c.dirs = map[string]*Changed{}
	}
	at := c.dirs[one.Prefix]
	if at == nil && len(c.dirs) >= countedDirs {
		one.Prefix = ""
		at = c.dirs[""]
	}
	if at == nil {
		c.dirs[one.Prefix] = &one
		return
	}
	at.Leased, at.Plain, at.Deleted = at.Leased+one.Leased, at.Plain+one.Plain, at.Deleted+one.Deleted
}

// most are the directories with the most changes, and then those of all others.
func (c *changes) most() []Changed {
	var all []Changed
	for _, dir := range slices.Sorted(maps.Keys(c.dirs)) {
		if dir != "" {
			all = append(all, *c.dirs[dir])
		}
	}
	slices.SortStableFunc(all, func(a, b Changed) int { return cmp.Compare(b.count(), a.count()) })
	var rest changes
	for _, one := range all[min(listedDirs, len(all)):] {
		one.Prefix = ""
		rest.merge(one)
	}
	if other := c.dirs[""]; other != nil {
		rest.merge(*other)
	}
	all = all[:min(listedDirs, len(all))]
	if other := rest.dirs[""]; other != nil {
		all = append(all, *other)
	}
	return all
}

func (r *Restorer) askDiscard(d *Discards, of Plan) error {
	if r.DiscardWrites || d.Known && d.Revisions == 0 {
		return nil
	}
	return agents.Refusal{
		What: fmt.Sprintf("rolling back run %s discards what clients wrote to the new cluster: %s", of.Run, d.Detail),
		Risk: "these writes are lost, registrations that agents made anew among them; agents will register once more",
		Flag: "--discard-writes",
	}
}

// Package agents says what becomes of the programs that keep leased state in
// etcd - leaders, members, locks - when a cluster is restored from the past.
//
// A leased key means "its owner was alive then". Restored, it is a ghost: a lie
// that lives for a whole TTL. [Ghosts] decides, as a pure function over the key
// space of a backup, which keys are removed in the file before any client can
// connect; an [Agent] knows one kind of program well enough to say more about
// its keys, to ask the programs themselves, and to prove that they are back.
//
// Kinds live in packages of their own, which only the command imports. A new
// kind is one package that implements [Agent] and one line that constructs it.
package agents

import (
	"context"
	"encoding/json"
	"iter"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// Agent is one kind of agent, configured for one cluster. Its methods may be
// called at once from several goroutines.
//
// A kind may also implement [Selector].
type Agent interface {
	// Observe describes, as one JSON value, what kv holds for this agent: what
	// a backup remembers of it. It reads kv only. An agent without keys is
	// described as such, not an error.
	Observe(ctx context.Context, kv Reader) (json.RawMessage, error)

	// Edits says what to change in the file, each with its reason, in key
	// order, and which keys stay on purpose (Edit.Keep). It is pure: the
	// same arguments give the same edits. Where an operator must decide, the
	// error holds a [Refusal] for each open question (joined; see
	// [SplitRefusals]) and the edits are complete but for those.
	Edits(kv Reader, opt Options) ([]Edit, error)

	// Gate asks the programs themselves, while etcd is away, who is there and
	// how far they are. A program that does not answer stands in
	// Baseline.Missing and is no error. It only reads.
	Gate(ctx context.Context, known Known) (Baseline, error)

	// Verify polls the restored cluster and the programs until they are proven
	// back or ctx reaches its deadline, and says what it saw: that something
	// is not back, also at the deadline, is a Verdict and no error. A
	// cancelled ctx is an error. It only reads, but for finishing, through
	// done.Change, what an edit of its own began in the file (done.Written).
	Verify(ctx context.Context, base Baseline, done Restored) (Verdict, error)
}

// Selector is implemented by kinds that need to see keys without a lease.
type Selector interface {
	// Select names the keys that the kind reads beside the leased ones.
	Select() Select
}

// Configured is an agent as the configuration names it.
type Configured struct {
	Name  string // unique within the cluster: "patroni /service/main", "leased /myapp/locks/"
	Kind  string // "patroni", "leased", …
	Agent Agent
}

// Reader is the key space of a backup at its revision.
type Reader interface {
	// Keys yields in key order the keys that begin with prefix: all leased
	// ones, and those without a lease that a [Select] asked for. The yielded
	// values must not be changed.
	Keys(prefix string) iter.Seq[*mvccpb.KeyValue]
	// Lease returns the granted TTL of a lease in seconds; ok is false when the
	// backup holds no such lease.
	Lease(id int64) (ttl int64, ok bool)
	// Revision is the revision of the backup.
	Revision() int64
}

// Live is the restored cluster.
type Live interface {
	// Get returns the keys that begin with prefix, linearizable.
	Get(ctx context.Context, prefix string) ([]*mvccpb.KeyValue, error)
	// TimeToLive returns the remaining and the granted seconds of a lease; ttl
	// is -1 when there is no such lease.
	TimeToLive(ctx context.Context, lease int64) (ttl int64, granted int64, err error)
}

// Select names keys without a lease. It has the fields of dbfile.Select, so
// that one converts to the other.
type Select struct {
	Prefixes, Suffixes, Infixes []string
}

// Selection is the union of what the configured agents need to see.
func Selection(configured []Configured) Select {
	var all Select
	for _, c := range configured {
		s, ok := c.Agent.(Selector)
		if !ok {
			continue
		}
		sel := s.Select()
		all.Prefixes = union(all.Prefixes, sel.Prefixes)
		all.Suffixes = union(all.Suffixes, sel.Suffixes)
		all.Infixes = union(all.Infixes, sel.Infixes)
	}
	return all
}

// Options are the operator's decisions for one restore.
type Options struct {
	// KeepPrefixes is keep_leased of the configuration: leased data that is
	// no registration. Nil means [DefaultKeepPrefixes].
	KeepPrefixes []string
	// KeepLeased and DropLeased are the prefixes of the flags of that name.
	KeepLeased, DropLeased []string
	// PatroniSync is "", PatroniSyncRemove or PatroniSyncKeep.
	PatroniSync string
	// OpenPaused opens scopes whose agents are not all there with
	// "pause: true" in their config.
	OpenPaused bool
	// AcceptUnverified names the scopes that are restored although nobody can
	// tell whether that is safe for them.
	AcceptUnverified []string
	// Baselines are the answers of the gate by Configured.Name, as [Gate]
	// returns them; nil before it was asked.
	Baselines map[string]Baseline
	// Baseline is the one of the agent whose Edits are asked for, nil if there
	// is none. [Ghosts] sets it.
	Baseline *Baseline
}

// Values of Options.PatroniSync.
const (
	PatroniSyncRemove = "remove"
	PatroniSyncKeep   = "keep"
)

// DefaultKeepPrefixes is keep_leased where the configuration says nothing:
// Kubernetes events, which are data under leases of an hour.
func DefaultKeepPrefixes() []string { return []string{"/registry/events/"} }

// Edit is one decision about one key of the file.
type Edit struct {
	Key    string
	Value  []byte // what to write, without a lease; nil removes the key
	Keep   bool   // the key stays as it is; the edit only says why
	Reason string // a sentence for the plan, without a full stop
	Agent  string // Configured.Name of who decided; "" the general rule
	Group  string // the prefix it is reported under; "" the key's directory
}

// Known helps a gate to find programs whose addresses are not configured.
type Known struct {
	// Keys is the key space in which they registered, that of the backup; nil
	// when it is not at hand.
	Keys func(prefix string) iter.Seq[*mvccpb.KeyValue]
	// Before is what this agent answered at an earlier gate of the same run;
	// nil at the first.
	Before *Baseline
}

// Baseline is what the gate learned about one agent.
type Baseline struct {
	Agent   string          `json:"agent"`             // Configured.Name; [Gate] sets it
	Missing []string        `json:"missing,omitempty"` // expected programs that did not answer
	Detail  string          `json:"detail,omitempty"`  // a sentence for a person; "" nothing to say
	Data    json.RawMessage `json:"data,omitempty"`    // what the kind remembers for Verify
}

// Restored is the cluster after a restore, as Verify needs it.
type Restored struct {
	Revision  int64          // the opened revision: everything above it was written since
	Leases    map[int64]bool // the leases in the prepared file
	HealthyAt time.Time      // when etcd was proven healthy
	Live      Live
	Backup    Reader // the key space that was restored, before the edits; nil when it is not at hand

	// Written are the keys that agents' edits wrote into the file.
	Written map[string]bool
	// Change writes to the restored cluster: all of the changes, or none and ok
	// false because a key is not at its revision any more. Nil where nothing
	// may be written.
	Change func(ctx context.Context, changes ...Change) (ok bool, err error)
	// Tell is told the verdict so far after every look, from several
	// goroutines; nil when nobody watches.
	Tell func(Verdict)
}

// Change is one write to a running cluster, without a lease.
type Change struct {
	Key         string
	Value       []byte // nil removes the key
	ModRevision int64  // the one that the key must still have; 0: it must be absent
}

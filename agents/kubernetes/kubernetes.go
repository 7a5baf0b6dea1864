// Package kubernetes is the kind of agent for a Kubernetes control plane: the
// API servers, whose registrations are leased keys, and everyone who holds a
// Lease object - leaders of controllers, and nodes, whose heartbeats they are.
//
// Lease objects are data that etcd gives no lease: a restore keeps them, and
// their holders must be seen renewing them. What is stored is read without
// Kubernetes' own modules, which weigh more than all of requorum: five fields
// of one object are needed (see storage.go). Objects that are encrypted at
// rest, or in a form that is not known, are told as such, and nothing is
// claimed about them.
package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/requorum/requorum/agents"
)

// Options configure one control plane.
type Options struct {
	Prefix string // --etcd-prefix of the API servers; "" means /registry/
	// Nodes is the share of the nodes that must be seen renewing their heartbeat,
	// above 0 and up to 1; 0 means 1, all of them.
	Nodes float64
	Poll  time.Duration // between two looks at the cluster; 0 means 1 s
}

// Agent is one control plane.
type Agent struct {
	servers, leases string // where registrations and Lease objects are
	nodes           float64
	poll            time.Duration
}

var (
	_ agents.Agent    = (*Agent)(nil)
	_ agents.Selector = (*Agent)(nil)
)

// New checks the options. Its errors name the setting as the configuration
// calls it.
func New(opt Options) (*Agent, error) {
	if opt.Prefix == "" {
		opt.Prefix = "/registry/"
	}
	if opt.Nodes == 0 {
		opt.Nodes = 1
	}
	if opt.Poll == 0 {
		opt.Poll = time.Second
	}
	prefix := strings.TrimSuffix(opt.Prefix, "/") + "/"
	if prefix == "/" {
		return nil, errors.New("kubernetes: prefix is the root: give --etcd-prefix of the API server, such as /registry")
	}
	if opt.Nodes < 0 || opt.Nodes > 1 {
		return nil, fmt.Errorf("kubernetes %s: nodes is %g: give a share above 0 %% and up to 100 %%", opt.Prefix, opt.Nodes)
	}
	return &Agent{servers: prefix + "masterleases/", leases: prefix + "leases/", nodes: opt.Nodes, poll: opt.Poll}, nil
}

// Select implements [agents.Selector]: Lease objects have no lease of etcd.
func (a *Agent) Select() agents.Select { return agents.Select{Prefixes: []string{a.leases}} }

// Observe describes who was registered and who held what.
func (a *Agent) Observe(_ context.Context, kv agents.Reader) (json.RawMessage, error) {
	return json.Marshal(a.read(kv.Keys).facts())
}

// Edits removes the registrations of API servers, but for those that a
// keep_leased at least as specific holds. Lease objects stay; those that were
// being renewed are told, but for nodes'.
func (a *Agent) Edits(kv agents.Reader, opt agents.Options) ([]agents.Edit, error) {
	var edits []agents.Edit
	there := a.read(kv.Keys)
	held := there.expected().Leases
	for _, l := range there.sorted() {
		if _, active := held[l.name]; active && l.held() && !l.node() {
			edits = append(edits, agents.Edit{Key: l.key, Keep: true, Reason: fmt.Sprintf("data: %s held it then; who holds it now renews it, or another takes it when %d s have passed", l.Holder, l.Seconds)})
		}
	}
	for k := range kv.Keys(a.servers) {
		if k.Lease == 0 {
			continue
		}
		e := agents.Edit{Key: string(k.Key), Reason: "registration of an API server: it registers anew within seconds if it still lives", Group: a.servers}
		if prefix, ok := opt.Keeps(e.Key); ok && len(prefix) >= len(a.servers) {
			e = agents.Edit{Key: e.Key, Keep: true, Reason: "leased data by keep_leased " + prefix, Group: prefix}
		}
		edits = append(edits, e)
	}
	return edits, nil
}

// Gate has nobody to ask, since holders of leases have no address that could
// be asked without their API server. It remembers who was there in the
// backup: these are expected afterwards.
func (a *Agent) Gate(_ context.Context, known agents.Known) (agents.Baseline, error) {
	if known.Before != nil {
		return *known.Before, nil
	}
	if known.Keys == nil {
		return agents.Baseline{}, nil
	}
	s := a.read(known.Keys)
	data, err := json.Marshal(s.expected())
	if err != nil {
		return agents.Baseline{}, fmt.Errorf("remember who is expected under %s: %w", a.leases, err)
	}
	return agents.Baseline{Detail: s.sentence() + "; nothing to ask: what they write afterwards is their proof", Data: data}, nil
}

// lease reads one Lease object.
func (a *Agent) lease(k *mvccpb.KeyValue) lease {
	l := lease{key: string(k.Key), name: strings.TrimPrefix(string(k.Key), a.leases), mod: k.ModRevision}
	l.spec, l.err = decodeLease(k.Value)
	return l
}

// read takes what a key space holds.
func (a *Agent) read(keys func(prefix string) iter.Seq[*mvccpb.KeyValue]) state {
	s := state{servers: map[string]*mvccpb.KeyValue{}, leases: map[string]lease{}}
	for k := range keys(a.servers) {
		if k.Lease != 0 {
			s.servers[strings.TrimPrefix(string(k.Key), a.servers)] = k
		}
	}
	for k := range keys(a.leases) {
		l := a.lease(k)
		s.leases[l.name] = l
	}
	return s
}

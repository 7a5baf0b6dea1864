package kubernetes

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// recently is how long before the newest renewal of all a lease may have been
// renewed and still counts as one that was being renewed: nodes do it every 10
// seconds and leaders every 2, if nobody configured anything else. What
// was silent for longer - a program that is gone, a node that was down - is not
// waited for.
const recently = 5 * time.Minute

// heartbeats is the namespace of the leases that nodes renew.
const heartbeats = "kube-node-lease/"

// state is what a key space holds of a control plane.
type state struct {
	servers map[string]*mvccpb.KeyValue // registered API servers by their address
	leases  map[string]lease            // Lease objects by namespace/name
}

// lease is one Lease object.
type lease struct {
	key, name string
	mod       int64
	spec
	err error // why the rest is not known
}

// node says whether it is the heartbeat of a node.
func (l lease) node() bool { return strings.HasPrefix(l.name, heartbeats) }

// held says whether somebody is named as its holder.
func (l lease) held() bool { return l.err == nil && l.Holder != "" && !l.Renewed.IsZero() }

// host is what one machine's holders have in common: leaders append an id of
// their own to the host's name.
func (l lease) host() string {
	host, _, _ := strings.Cut(l.Holder, "_")
	return host
}

// sorted are the leases in order of their names.
func (s state) sorted() []lease {
	all := make([]lease, 0, len(s.leases))
	for _, name := range slices.Sorted(maps.Keys(s.leases)) {
		all = append(all, s.leases[name])
	}
	return all
}

// newest is the newest renewal that another host confirms to within recently:
// one clock that is ahead must not make all others look silent. Without any
// such pair it is the newest of all.
func (s state) newest() time.Time {
	var held []lease
	for _, l := range s.leases {
		if l.held() {
			held = append(held, l)
		}
	}
	slices.SortFunc(held, func(a, b lease) int { return b.Renewed.Compare(a.Renewed) })
	for i, l := range held {
		for _, other := range held[i+1:] {
			if l.Renewed.Sub(other.Renewed) > recently {
				break
			}
			if other.host() != l.host() {
				return l.Renewed
			}
		}
	}
	if len(held) == 0 {
		return time.Time{}
	}
	return held[0].Renewed
}

// expected are those who were there at some time, and so should be there later.
type expected struct {
	Servers map[string]int64 `json:"api_servers"` // address → mod revision
	Leases  map[string]known `json:"leases"`      // by namespace/name: those that were being renewed, and those that nobody can read
}

// known is what was known of a lease.
type known struct {
	Mod     int64     `json:"mod_revision"`
	Holder  string    `json:"holder,omitempty"`
	Renewed time.Time `json:"renewed,omitzero"`
	Unread  string    `json:"unread,omitempty"` // why the rest is not known
}

func (s state) expected() expected {
	e := expected{Servers: map[string]int64{}, Leases: map[string]known{}}
	for address, k := range s.servers {
		e.Servers[address] = k.ModRevision
	}
	newest := s.newest()
	for name, l := range s.leases {
		switch {
		case l.err != nil:
			e.Leases[name] = known{Mod: l.mod, Unread: l.err.Error()}
		case l.held() && newest.Sub(l.Renewed) <= recently:
			e.Leases[name] = known{Mod: l.mod, Holder: l.Holder, Renewed: l.Renewed}
		}
	}
	return e
}

// facts is what a backup remembers of a control plane.
type facts struct {
	Servers   []string       `json:"api_servers"` // addresses
	Leases    []leaseFact    `json:"leases"`      // but for nodes' heartbeats
	Truncated int            `json:"truncated,omitempty"`
	Nodes     nodeFacts      `json:"nodes"`
	Unread    map[string]int `json:"unreadable,omitempty"` // why → how many
}

type leaseFact struct {
	Name    string    `json:"name"`
	Holder  string    `json:"holder"`
	Seconds int64     `json:"seconds"`
	Renewed time.Time `json:"renewed,omitzero"`
	Silent  bool      `json:"silent,omitempty"` // it was not being renewed, so it is not waited for
}

type nodeFacts struct {
	Count  int      `json:"count"`
	Silent []string `json:"silent,omitempty"` // the first of those that were not being renewed
}

// listedLeases is how many leases, and silent nodes, facts list one by one.
const listedLeases = 100

func (s state) facts() facts {
	f := facts{Servers: slices.Sorted(maps.Keys(s.servers)), Leases: []leaseFact{}, Unread: map[string]int{}}
	if f.Servers == nil {
		f.Servers = []string{}
	}
	expected := s.expected()
	for _, l := range s.sorted() {
		_, active := expected.Leases[l.name]
		switch {
		case l.err != nil:
			f.Unread[l.err.Error()]++
		case l.node():
			f.Nodes.Count++
			if !active && len(f.Nodes.Silent) < listedLeases {
				f.Nodes.Silent = append(f.Nodes.Silent, strings.TrimPrefix(l.name, heartbeats))
			}
		case len(f.Leases) == listedLeases:
			f.Truncated++
		default:
			f.Leases = append(f.Leases, leaseFact{Name: l.name, Holder: l.Holder, Seconds: l.Seconds, Renewed: l.Renewed, Silent: !active})
		}
	}
	return f
}

// sentence says who was there.
func (s state) sentence() string {
	nodes, leases, unread := 0, 0, 0
	for name, k := range s.expected().Leases {
		switch {
		case k.Unread != "":
			unread++
		case s.leases[name].node():
			nodes++
		default:
			leases++
		}
	}
	text := fmt.Sprintf("in the backup %d API servers, %d leases being renewed and %d nodes", len(s.servers), leases, nodes)
	if unread > 0 {
		text += fmt.Sprintf(", and %d leases that cannot be read", unread)
	}
	return text
}

package config

import (
	"slices"
	"strings"
)

// Agent is one agent; exactly one field is set.
type Agent struct {
	Patroni    *Patroni    `key:"patroni"`
	Leased     *Leased     `key:"leased"`
	Kubernetes *Kubernetes `key:"kubernetes"`
}

// kinds are all kinds of agents under the keys that they are written with. A new one is a type with the methods of agentKind in a file
// like agent_leased.go, a field above and a line here.
func (a Agent) kinds() []writtenKind {
	return []writtenKind{
		{"patroni", a.Patroni, a.Patroni != nil},
		{"leased", a.Leased, a.Leased != nil},
		{"kubernetes", a.Kubernetes, a.Kubernetes != nil},
	}
}

// agentKind is what the configuration of an agent says of itself.
type agentKind interface {
	// name tells it from others of its kind; "" while it is not known.
	name() string
	// owns says where its registrations lie, and whether keep_leased of a prefix would keep them.
	owns(keep string) (where string, kept bool)
	check(k *checker, key string)
}

type writtenKind struct {
	key  string
	kind agentKind
	set  bool
}

// one is the kind that is set, the first if several are.
func (a Agent) one() (writtenKind, bool) {
	all := a.kinds()
	i := slices.IndexFunc(all, func(w writtenKind) bool { return w.set })
	if i < 0 {
		return writtenKind{}, false
	}
	return all[i], true
}

// Kind is the agent's kind as it is written: patroni, leased or kubernetes; "" when none is set.
func (a Agent) Kind() string {
	w, _ := a.one()
	return w.key
}

// Name tells agents of one kind apart: the scope with its namespace, or the prefix of the keys.
func (a Agent) Name() string {
	if w, ok := a.one(); ok {
		return w.kind.name()
	}
	return ""
}

func (k *checker) agents(key string, cl *Cluster) {
	names := make([]string, len(cl.Agents))
	for i, a := range cl.Agents {
		at := item(key + ".agents")(i)
		k.agent(at, a)
		w, ok := a.one()
		if !ok {
			continue
		}
		if name := w.kind.name(); name != "" {
			names[i] = w.key + " " + name
		}
		for j, keep := range cl.KeepLeased {
			owned, kept := w.kind.owns(string(keep))
			if owned == "" || keep == "" || !kept {
				continue
			}
			where := key + ".keep_leased"
			if k.written(where) {
				where = item(where)(j)
			}
			k.add(where, "it would keep the registrations of "+at+" ("+owned+") as ghosts", "keep_leased is for leased data that is no registration; write narrower prefixes")
		}
	}
	k.twice(names, item(key+".agents"), "the agent")
}

func (k *checker) agent(key string, a Agent) {
	var keys []string
	written := 0
	for _, w := range a.kinds() {
		keys = append(keys, w.key)
		if k.written(key + "." + w.key) {
			written++
		}
		if w.set {
			w.kind.check(k, key+"."+w.key)
		}
	}
	if written != 1 && (written > 1 || !k.faulty(key) && !k.reported(key)) {
		last := len(keys) - 1
		k.add(key, "an agent is of exactly one kind", "write "+strings.Join(keys[:last], ", ")+" or "+keys[last]+"; a second agent gets its own - line")
	}
}

package config

import "strings"

// Kubernetes is a Kubernetes control plane. Nodes is the share of nodes whose heartbeats must be renewed.
type Kubernetes struct {
	Prefix   KeyPrefix `key:"prefix" default:"/registry/"`
	Nodes    Percent   `key:"nodes" default:"100%"`
	Deadline Duration  `key:"deadline" default:"5m"`
}

func (c *Kubernetes) name() string { return string(c.Prefix) }

func (c *Kubernetes) owns(keep string) (where string, kept bool) {
	if c.Prefix == "" {
		return "", false
	}
	where = strings.TrimSuffix(string(c.Prefix), "/") + "/masterleases/"
	return where, strings.HasPrefix(where, keep)
}

func (c *Kubernetes) check(k *checker, key string) {
	if c.Nodes == 0 && !k.reported(key+".nodes") {
		k.add(key+".nodes", "no node at all would be enough", "write the share of the nodes that must be back, such as 90%")
	}
	k.positive(key+".deadline", c.Deadline)
}

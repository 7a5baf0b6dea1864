package config

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Elsewhere is the cluster that a restore of the cluster of builds under another name: as the configuration has it, if it does, else a
// copy of that cluster with a path of its own, the members in file, their client URLs as endpoints, and no agents: those of the old
// cluster go on there. file holds nothing but members:, in the form of a configuration. lookup is that of [Load].
func (c *Config) Elsewhere(of *Cluster, name, file string, lookup func(string) (string, bool)) (*Cluster, error) {
	if configured, ok := c.Clusters[name]; ok {
		switch {
		case name == of.Name:
			return nil, fmt.Errorf("--as %s: that is the cluster itself; without --as it is restored where it is configured", name)
		case file != "":
			return nil, fmt.Errorf("--as %s: that cluster is configured, with members of its own: leave --members away, or choose another name", name)
		case len(configured.Members) == 0:
			return nil, fmt.Errorf("--as %s: that cluster has no members in the configuration", name)
		}
		return configured, nil
	}
	if !nameForm.MatchString(name) {
		return nil, fmt.Errorf("--as %s is no name: %s", quote(name), nameAdvice)
	}
	if file == "" {
		return nil, fmt.Errorf("--as %s: no such cluster is configured: give its members with --members FILE", name)
	}
	for _, other := range c.Clusters {
		if inside(HostPath("/"+other.Path), HostPath("/"+name)) || inside(HostPath("/"+name), HostPath("/"+other.Path)) {
			return nil, fmt.Errorf("--as %s: its backups would lie in that path of the stores, where those of cluster %s are (%s): choose another name", name, other.Name, other.Path)
		}
	}
	members, err := loadMembers(file, lookup)
	if err != nil {
		return nil, err
	}
	to := *of
	to.Name, to.Path, to.Members, to.Agents, to.Endpoints = name, name, members, nil, nil
	for _, m := range members {
		to.Endpoints = append(to.Endpoints, m.ClientURL)
	}
	return &to, nil
}

// loadMembers reads a file with members. A non-nil error is [Problems].
func loadMembers(file string, lookup func(string) (string, bool)) ([]Member, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, Problems{unreadable(file, err)}
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, Problems{unreadable(file, err)}
	}
	root, p := document(file, data)
	if p != nil {
		return nil, Problems{*p}
	}
	dir, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return nil, Problems{unreadable(file, err)}
	}
	d := &decoder{file: file, dir: dir, lookup: lookup, at: map[string]position{}, bad: map[string]bool{}}
	var list struct {
		Members []Member `key:"members,required"`
	}
	d.value(root, root, "", valueOf(&list))
	k := &checker{Config: &Config{File: file, at: d.at, bad: d.bad}}
	k.members("members", list.Members)
	problems := append(d.problems, k.problems...)
	problems.Sort()
	return list.Members, problems.err()
}

package main

import (
	"regexp"
	"slices"
	"strings"
)

var serverVersion = regexp.MustCompile(`^\d+\.\d+\.\d+$`)

// answers refuses flags of a restore that name what there is not, before anything is fetched or asked.
func (t *target) answers(f restoreFlags) error {
	for flag, names := range map[string][]string{"--without": f.without, "--fenced": f.fenced} {
		for _, name := range names {
			if err := t.named(flag+" "+name, name); err != nil {
				return err
			}
		}
	}
	kind, name, named := strings.Cut(f.from, ":")
	switch {
	case f.from == "" || f.from == "store":
	case !named || name == "" || kind != "store" && kind != "survivor" && kind != "file":
		return usage("--from %s: expected store, store:NAME, survivor:MEMBER or file:PATH", f.from)
	case f.elsewhere != nil: // what is restored is another cluster's
	case kind == "survivor":
		if err := t.named("--from "+f.from, name); err != nil {
			return err
		}
	case kind == "store" && !slices.Contains(t.cluster.Stores, name):
		return usage("--from %s: cluster %s has no store of that name; it has %s", f.from, t.cluster.Name, strings.Join(t.cluster.Stores, ", "))
	}
	switch {
	case f.patroniSync != "" && f.patroniSync != "remove" && f.patroniSync != "keep":
		return usage("--patroni-sync %s: expected remove or keep", f.patroniSync)
	case f.targetVersion != "" && !serverVersion.MatchString(f.targetVersion):
		return usage("--target-version %s: expected all three numbers, such as 3.5.35", f.targetVersion)
	case f.agentDeadline < 0:
		return usage("--agent-deadline %s: it cannot be negative", f.agentDeadline)
	}
	return nil
}

// named refuses the name of a member that the cluster does not have; arg is where it stands on the command line.
func (t *target) named(arg, name string) error {
	var names []string
	for _, m := range t.cluster.Members {
		names = append(names, m.Name)
	}
	if !slices.Contains(names, name) {
		return usage("%s: cluster %s has no such member; it has %s", arg, t.cluster.Name, strings.Join(names, ", "))
	}
	return nil
}

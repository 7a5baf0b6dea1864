package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/restore"
)

// elsewhere is the cluster that --as names, with the one that the command line names as its source; without --as it is that one itself.
func (t *target) elsewhere(ctx context.Context, f *restoreFlags) (*target, error) {
	if f.as == "" {
		if f.members != "" {
			return nil, usage("--members is for a cluster built elsewhere: name it with --as")
		}
		return t, nil
	}
	to, err := t.cfg.Elsewhere(t.cluster, f.as, f.members, os.LookupEnv)
	if err != nil {
		return nil, usage("%v", err)
	}
	repo, err := t.repository(ctx)
	if err != nil {
		return nil, err
	}
	f.elsewhere = &restore.Elsewhere{Cluster: t.cluster.Name, Repository: repo, Flags: []string{"--as " + f.as},
		Connect: func() (*cluster.Client, error) { return t.dial() }, Members: t.placed}
	if name, ok := strings.CutPrefix(f.from, "survivor:"); ok && name != "" {
		if err := t.named("--from "+f.from, name); err != nil {
			return nil, err
		}
	}
	if f.members != "" {
		file := f.members
		if abs, err := filepath.Abs(file); err == nil {
			file = abs
		}
		f.elsewhere.Flags = append(f.elsewhere.Flags, "--members "+file)
	}
	return &target{app: t.app, cfg: t.cfg, cluster: to, stores: t.stores}, nil
}

// placed are the cluster's members on their hosts. Nothing is connected yet.
func (t *target) placed() ([]restore.Placed, error) {
	var all []restore.Placed
	for _, m := range t.cluster.Members {
		on, err := t.host(m, t.reporter)
		if err != nil {
			return nil, err
		}
		all = append(all, restore.Placed{On: on, Member: restoreMember(m)})
	}
	return all, nil
}

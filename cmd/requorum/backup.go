package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/requorum/requorum/backup"
	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/repository"
)

// takeFlags say how a backup is taken.
type takeFlags struct {
	prove bool
	held  bool   // refuse while a restore is under way
	run   string // the restore that this backup belongs to
	id    string // of this run; "" makes one
}

func newBackupCommand(a *app) *cobra.Command {
	var from sourceFlags
	var f takeFlags
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "backup CLUSTER",
		Short: "Take one backup now",
		Long: `Chooses a member, streams its database into the spool at full speed, compresses, encrypts and uploads it
meanwhile, checks every page and row of it, has the store confirm what it holds, and only then writes the
manifest that makes the backup exist.`,
		Args: maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.backup(cmd.Context(), from, strings.Join(args, ""), f, dryRun)
		},
	}
	from.addEndpoints(cmd)
	from.addStores(cmd)
	from.addSpool(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&f.prove, "prove", false, "compare with the HashKV of a running follower before the backup exists")
	flags.BoolVar(&f.held, "refuse-held", false, "take none while a restore of the cluster is under way (for schedules)")
	flags.BoolVar(&dryRun, "dry-run", false, "say which member would be asked and where the backup would go")
	return cmd
}

func (a *app) backup(ctx context.Context, from sourceFlags, name string, f takeFlags, dryRun bool) error {
	t, err := a.targetOr(&from, name)
	if err != nil {
		return err
	}
	if dryRun {
		return t.backupDryRun(ctx)
	}
	repo, err := t.repository(ctx)
	if err != nil {
		return err
	}
	result, err := t.take(ctx, repo, f, a.reporter)
	a.reporter.Close()
	return a.taken(result, err)
}

// taken shows the backup that a command has made.
func (a *app) taken(result backup.Result, err error) error {
	if result.ID == "" {
		return err
	}
	if a.json() {
		return a.outcome(result, err)
	}
	m := result.Manifest
	sealed := "not encrypted"
	if m.Sealed() {
		sealed = "encrypted to " + catalog.Count(len(m.Recipients), "recipient")
	}
	fmt.Fprintf(a.out, "%s: backup %s at revision %d: %s, %s, stored as %s in %s, %s\n", m.Cluster, m.ID, m.Revision, catalog.Count(m.Keys, "key"),
		catalog.Size(m.Data.Bytes), catalog.Size(m.Data.StoredBytes), strings.Join(result.Stores, ", "), sealed)
	return err
}

// take takes one backup of the cluster.
func (t *target) take(ctx context.Context, repo *repository.Repository, f takeFlags, reporter backup.Progress) (backup.Result, error) {
	client, err := t.dial()
	if err != nil {
		return backup.Result{}, err
	}
	defer client.Close()
	sanitized, err := t.sanitized()
	if err != nil {
		return backup.Result{}, err
	}
	facts, err := t.facts()
	if err != nil {
		return backup.Result{}, err
	}
	return backup.Take(ctx, backup.TakeOptions{
		Cluster: t.cluster.Name, Client: client, Repository: repo, Spool: t.spool(), Agents: facts,
		Prove: f.prove, Idle: time.Duration(t.cluster.Snapshot.StallTimeout), Config: sanitized, RefuseHeld: f.held, Run: f.run, ID: f.id,
		Version: version, Host: hostname(), User: username(), Progress: reporter, Log: t.log(),
	})
}

// sanitized is the cluster's configuration for its manifests; none for a cluster that was just built elsewhere and is not configured yet.
func (t *target) sanitized() (json.RawMessage, error) {
	if t.cfg.Clusters[t.cluster.Name] == nil {
		return nil, nil
	}
	text, err := t.cfg.Sanitized(t.cluster.Name)
	if err != nil {
		return nil, fmt.Errorf("keeping the configuration of %s in the manifest: %w", t.cluster.Name, err)
	}
	return text, nil
}

func (t *target) spool() backup.Spool {
	return backup.Spool{Dir: string(t.cfg.SpoolDir), AllowMemory: t.cfg.AllowTmpfsSpool}
}

func (t *target) backupDryRun(ctx context.Context) error {
	client, err := t.dial()
	if err != nil {
		return err
	}
	defer client.Close()
	all, err := client.Status(ctx)
	if err != nil {
		return err
	}
	usable, rejected := cluster.Choose(all)
	if len(usable) == 0 {
		return &cluster.Unusable{Rejected: rejected}
	}
	if t.json() {
		unfit := []map[string]string{}
		for _, r := range rejected {
			unfit = append(unfit, map[string]string{"name": r.Name, "endpoint": r.Endpoint, "why": r.Why})
		}
		return t.printJSON(map[string]any{"member": usable[0].Label(), "endpoint": usable[0].Endpoint, "db_bytes": usable[0].DBSize,
			"revision": usable[0].Revision, "stores": t.cluster.Stores, "encrypted": len(t.cluster.Recipients) > 0, "rejected": unfit})
	}
	fmt.Fprintf(t.out, "would back up %s at %s: %s, revision about %d, to %s\n", usable[0].Label(), usable[0].Endpoint, catalog.Size(usable[0].DBSize),
		usable[0].Revision, strings.Join(t.cluster.Stores, ", "))
	for _, m := range usable[1:] {
		t.say("  next would be %s at %s", m.Label(), m.Endpoint)
	}
	for _, r := range rejected {
		t.say("  not %s at %s: %s", r.Name, r.Endpoint, r.Why)
	}
	return nil
}

package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/requorum/requorum/backup"
	"github.com/requorum/requorum/storage/catalog"
)

func newExportCommand(a *app) *cobra.Command {
	var from sourceFlags
	var to string
	cmd := &cobra.Command{
		Use:   "export CLUSTER [ID] -f FILE",
		Short: "A plain etcd snapshot that etcdutl takes",
		Long: `Writes the database of a backup (default the newest), decrypted and checked, to a file that did not exist. It
holds every secret that the cluster holds. A plain restore of it brings ghosts back: see docs/without-requorum.md.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("CLUSTER is missing: %s", cmd.UseLine())
			}
			return maxArgs(2)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			ref := "latest"
			if len(args) == 2 {
				ref = args[1]
			}
			return a.export(cmd.Context(), from, args[0], ref, to)
		},
	}
	from.addStores(cmd)
	from.addIdentity(cmd)
	cmd.Flags().StringVarP(&to, "file", "f", "", "`FILE` to write")
	return cmd
}

func (a *app) export(ctx context.Context, from sourceFlags, name, ref, to string) error {
	if to == "" {
		return usage("-f is missing: the file to write")
	}
	t, err := a.targetOr(&from, name)
	if err != nil {
		return err
	}
	repo, err := t.repository(ctx)
	if err != nil {
		return err
	}
	snap, err := a.find(ctx, repo, ref)
	if err != nil {
		return err
	}
	err = backup.Export(ctx, snap, to, backup.ExportOptions{Repository: repo, Progress: a.reporter})
	a.reporter.Close()
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(map[string]any{"id": snap.ID, "revision": snap.Revision, "file": to})
	}
	fmt.Fprintf(a.out, "%s at revision %d is in %s\n", snap.ID, snap.Revision, to)
	return nil
}

func newImportCommand(a *app) *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "import CLUSTER FILE",
		Short: "A snapshot made by etcdctl, or a raw member/snap/db",
		Long: `Checks the file as a backup is checked and stores it on a line of its own, which no restore chooses unless it is
named. A raw member/snap/db must be a copy, or of a member that is stopped.`,
		Args: exactArgs("CLUSTER", "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.importFile(cmd.Context(), args[0], args[1], dryRun)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only check the file")
	return cmd
}

func (a *app) importFile(ctx context.Context, name, path string, dryRun bool) error {
	t, err := a.target(name)
	if err != nil {
		return err
	}
	repo, err := t.repository(ctx)
	if err != nil {
		return err
	}
	sanitized, err := t.sanitized()
	if err != nil {
		return err
	}
	facts, err := t.facts()
	if err != nil {
		return err
	}
	o := backup.TakeOptions{Cluster: t.cluster.Name, Repository: repo, Spool: t.spool(), Agents: facts, Config: sanitized,
		Version: version, Host: hostname(), User: username(), Progress: a.reporter, Log: a.log()}
	if dryRun {
		report, err := backup.Examine(ctx, path, o)
		a.reporter.Close()
		if err != nil {
			return err
		}
		if a.json() {
			return a.printJSON(map[string]any{"file": path, "revision": report.Revision, "keys": report.Keys, "trailer": report.Trailer, "hash": report.HashKV.Hash})
		}
		fmt.Fprintf(a.out, "%s is good: revision %d, %s; it would be stored in %s\n", path, report.Revision, catalog.Count(report.Keys, "key"), strings.Join(t.cluster.Stores, ", "))
		return nil
	}
	result, err := backup.Import(ctx, path, o)
	a.reporter.Close()
	return a.taken(result, err)
}

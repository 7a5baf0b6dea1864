package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/requorum/requorum/storage/catalog"
)

func newCopyCommand(a *app) *cobra.Command {
	var to string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "copy CLUSTER --to STORE",
		Short: "Bring every backup to another store",
		Long: `Copies the backups that STORE does not hold, the stored bytes as they are: checked against the manifest on the
way, never decrypted, the manifest last. Interrupted, the same command goes on.`,
		Args: exactArgs("CLUSTER"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.copy(cmd.Context(), args[0], to, dryRun) },
	}
	cmd.Flags().StringVar(&to, "to", "", "the `STORE`, by its name in the configuration")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be copied")
	return cmd
}

func (a *app) copy(ctx context.Context, name, to string, dryRun bool) error {
	t, err := a.target(name)
	if err != nil {
		return err
	}
	if !slices.Contains(t.cluster.Stores, to) {
		what := fmt.Sprintf("--to %s: there is no such store", to)
		if to == "" {
			what = "--to is missing: the store to copy to"
		}
		return usage("%s; cluster %s has %s", what, t.cluster.Name, strings.Join(t.cluster.Stores, ", "))
	}
	repo, err := t.repository(ctx)
	if err != nil {
		return err
	}
	snaps, err := repo.Snapshots(ctx)
	if err != nil {
		return err
	}
	missing := slices.DeleteFunc(snaps, func(s catalog.Snapshot) bool { return s.Failed() || slices.Contains(s.Stores, to) })
	copied := []string{}
	var failed []error
	for _, s := range missing {
		if dryRun {
			if !a.json() {
				fmt.Fprintf(a.out, "would copy %s of %s, %s, from %s\n", s.ID, s.Time.Format(time.RFC3339), catalog.Size(s.StoredBytes), strings.Join(s.Stores, ", "))
			}
			continue
		}
		a.reporter.Start(s.ID, s.StoredBytes)
		if err := repo.Copy(ctx, s, to, func(n int64) { a.reporter.Advance(s.ID, n) }); err != nil {
			a.reporter.Done(s.ID, "not copied")
			failed = append(failed, fmt.Errorf("copy %s to %s: %w", s.ID, to, err))
			if ctx.Err() != nil {
				break
			}
			continue
		}
		a.reporter.Done(s.ID, "copied to "+to)
		copied = append(copied, s.ID)
	}
	switch {
	case a.json():
		if err := a.printJSON(map[string]any{"to": to, "copied": copied, "missing": len(missing) - len(copied)}); err != nil {
			return err
		}
	case len(missing) == 0:
		fmt.Fprintf(a.out, "%s lacks no backup\n", to)
	case !dryRun:
		fmt.Fprintf(a.out, "copied to %s: %d of %s that it lacked\n", to, len(copied), catalog.Count(len(missing), "backup"))
	}
	err = errors.Join(failed...)
	if err != nil && len(copied) > 0 {
		fmt.Fprintf(a.err, "requorum: %v\n", err)
		return codeError{exitPartly}
	}
	return err
}

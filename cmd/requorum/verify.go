package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/requorum/requorum/backup"
	"github.com/requorum/requorum/storage/catalog"
)

func newVerifyCommand(a *app) *cobra.Command {
	var from sourceFlags
	var all, deep bool
	cmd := &cobra.Command{
		Use:   "verify CLUSTER [ID]",
		Short: "Read back, decrypt, check, hash; --deep starts etcd on it",
		Long: `Reads every stored byte of a backup (default the newest), in every store that holds it: sha256, decryption,
decompression, database structure, HashKV, all against the manifest. The verdict is recorded beside the backup; a
failed one neither counts for retention nor is it chosen by a restore. Without an identity only the stored bytes are
compared.`,
		Args: maxArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error { return a.verify(cmd.Context(), from, args, all, deep) },
	}
	from.addStores(cmd)
	from.addIdentity(cmd)
	from.addSpool(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "every backup, the newest first")
	cmd.Flags().BoolVar(&deep, "deep", false, "also start etcd on the restored file and compare what it serves")
	return cmd
}

func (a *app) verify(ctx context.Context, from sourceFlags, args []string, all, deep bool) error {
	if all && len(args) == 2 {
		return usage("either an ID or --all")
	}
	name := ""
	if len(args) > 0 {
		name = args[0]
	}
	t, err := a.targetOr(&from, name)
	if err != nil {
		return err
	}
	repo, err := t.repository(ctx)
	if err != nil {
		return err
	}
	var snaps []catalog.Snapshot
	var listErr error
	if all {
		if snaps, listErr = repo.Snapshots(ctx); listErr != nil && len(snaps) == 0 {
			return listErr
		}
	} else {
		ref := "latest"
		if len(args) == 2 {
			ref = args[1]
		}
		snap, err := a.find(ctx, repo, ref)
		if err != nil {
			return err
		}
		snaps = []catalog.Snapshot{snap}
	}
	o := backup.VerifyOptions{Repository: repo, Spool: t.spool(), Version: version, Host: hostname(), User: username(), Log: a.log(),
		Deep: func(ctx context.Context, db *os.File, m catalog.Manifest) (catalog.HashKV, error) {
			return t.serveBackup(ctx, db, m)
		}}
	errs := []error{listErr}
	results := []backup.Verification{}
	for i := len(snaps) - 1; i >= 0 && ctx.Err() == nil; i-- {
		snap := snaps[i]
		o.Scope = backup.ScopeFull
		if deep {
			o.Scope = backup.ScopeDeep
		} else if snap.Encrypted && t.cluster.IdentityFile == "" {
			o.Scope = backup.ScopeStored
			a.say("%s: encrypted, and there is no identity_file: only the stored bytes are compared", snap.ID)
		}
		o.Progress = a.reporter
		result, err := backup.Verify(ctx, snap, o)
		a.reporter.Close()
		if all && errors.Is(err, backup.ErrGone) {
			a.say("%v", err)
			continue
		}
		results = append(results, result)
		errs = append(errs, err)
		if !a.json() && ctx.Err() == nil { // half of one says nothing
			a.showVerification(result, err)
		}
	}
	err = errors.Join(errs...)
	switch {
	case len(results) == 0 && len(snaps) > 0:
		return context.Cause(ctx)
	case !a.json():
		return err
	case all:
		return a.outcome(results, err)
	}
	return a.outcome(results[0], err)
}

// serveBackup is what an etcd serves that is started on the database of a backup.
func (t *target) serveBackup(ctx context.Context, db *os.File, m catalog.Manifest) (catalog.HashKV, error) {
	if _, err := db.Seek(0, 0); err != nil {
		return catalog.HashKV{}, err
	}
	served, err := serveOnce(ctx, string(t.cfg.SpoolDir), db, m.Revision)
	return catalog.HashKV(served.Hash), err
}

func (a *app) showVerification(v backup.Verification, err error) {
	verdict := "ok"
	switch {
	case errors.Is(err, backup.ErrVerify):
		verdict = "NOT OK"
	case !v.OK: // a store that does not answer, a key that does not fit
		verdict = "UNKNOWN"
	}
	fmt.Fprintf(a.out, "%s: %s (%s)\n", v.ID, verdict, v.Scope)
	for _, c := range v.Checks {
		mark := "ok"
		if !c.OK {
			mark = "NO"
		}
		fmt.Fprintf(a.out, "  %s %s: %s\n", mark, c.Name, c.Detail)
	}
}

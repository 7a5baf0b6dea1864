package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/requorum/requorum/restore"
)

func newPruneCommand(a *app) *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "prune CLUSTER [RUN]",
		Short: "Remove the data dirs that proven restores kept",
		Long: `Removes DIR.before-RUN of a run (default the latest) on every member. Only a run that ended proven is pruned: until
then its old data dirs are the way back, and after this there is no rollback of it.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("CLUSTER is missing: %s", cmd.UseLine())
			}
			return maxArgs(2)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.prune(cmd.Context(), args[0], strings.Join(args[1:], ""), dryRun)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be removed")
	return cmd
}

func (a *app) prune(ctx context.Context, name, run string, dryRun bool) error {
	t, err := a.target(name)
	if err != nil {
		return err
	}
	r, err := t.restorer(ctx, restoreFlags{})
	if err != nil {
		return err
	}
	kept, err := r.Prune(ctx, run, dryRun)
	if a.json() && err == nil {
		if kept == nil {
			kept = []restore.Kept{}
		}
		return a.printJSON(kept)
	}
	verb := "removed"
	if dryRun {
		verb = "would remove"
	}
	for _, k := range kept {
		fmt.Fprintf(a.out, "%s: %s %s\n", k.Member, verb, k.Dir)
	}
	if len(kept) == 0 && err == nil {
		a.say("nothing is kept")
	}
	return err
}

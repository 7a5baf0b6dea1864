package main

import (
	"context"

	"github.com/spf13/cobra"
)

func newReplaceMemberCommand(a *app) *cobra.Command {
	var f restoreFlags
	cmd := &cobra.Command{
		Use:   "replace-member CLUSTER NAME",
		Short: "Replace one lost member while the others serve on",
		Long: `For a cluster that has its quorum: it forgets the lost member and gets a learner in its place, which begins with nothing but
its identity, catches up, and then gets its vote. The old data dir is kept as DIR.before-RUN. What the member's service
says about the initial cluster does not matter.

It is refused (exit code 14) for a member that serves. Interrupted at any point, the same command goes on.`,
		Args: exactArgs("CLUSTER", "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.replaceMember(cmd.Context(), args[0], args[1], f)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.plan, "plan", false, "show what would be done and change nothing")
	flags.BoolVar(&f.plan, "dry-run", false, "the same as --plan")
	flags.BoolVar(&f.yes, "yes", false, "do not ask the ordinary question")
	flags.BoolVar(&f.resume, "resume", false, "go on with an unfinished run, and begin none")
	flags.StringVar(&f.takeOver, "take-over", "", "go on in place of `RUN`, whose process is dead")
	flags.StringVar(&f.replaceHealthy, "replace-healthy", "", "replace the member `NAME` although it serves")
	return cmd
}

func (a *app) replaceMember(ctx context.Context, name, member string, f restoreFlags) error {
	t, err := a.target(name)
	if err != nil {
		return err
	}
	if err := t.named(member, member); err != nil {
		return err
	}
	if f.replaceHealthy != "" && f.replaceHealthy != member {
		return usage("--replace-healthy %s: the member to replace is %s", f.replaceHealthy, member)
	}
	healthy := f.replaceHealthy
	f.replaceHealthy = "" // of a restore it is the cluster's name
	r, err := t.restorer(ctx, f)
	if err != nil {
		return err
	}
	r.ReplaceHealthy = healthy
	if f.plan {
		plan, err := r.PlanReplace(ctx, member)
		return t.planned(plan, err)
	}
	report, err := r.ReplaceMember(ctx, member)
	return t.restored(report, err)
}

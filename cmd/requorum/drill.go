package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/drills"
	"github.com/requorum/requorum/storage/catalog"
)

// drillFlags are what a drill is asked to do.
type drillFlags struct {
	at      string
	compare bool
	live    bool
	confirm string
	dryRun  bool
	page    string
}

func newDrillCommand(a *app) *cobra.Command {
	var f drillFlags
	cmd := &cobra.Command{
		Use:   "drill CLUSTER",
		Short: "Rehearse a restore, write the report",
		Long: `Takes the newest good backup and rebuilds the cluster in a sandbox on this machine, with as many members as it has,
by the same code that a restore runs; lets probes register as the agents would; compares every key with the untouched backup;
measures RPO and RTO against the objectives; takes everything down again. The running cluster is not contacted, unless
--compare asks for a look at it. The report is stored beside the backups, as JSON and as one page of HTML, signed where
drill_signing_key_file is configured.

With --live the same is done on the real members of a staging cluster marked "live_drills: allowed": a backup is taken, etcd is stopped,
the cluster is rebuilt from that backup, and the real agents must come back. What clients write between the backup and the stop is lost;
the old data dirs are kept, and "requorum rollback" goes back to them.`,
		Args: exactArgs("CLUSTER"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.drill(cmd.Context(), args[0], f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.at, "at", "", "`WHAT` to restore: an id, a revision, or a moment such as \"2h ago\" (default the newest backup of the current line)")
	flags.BoolVar(&f.compare, "compare", false, "also compare with the running cluster, reading only: counts, revision, HashKV of a follower")
	flags.BoolVar(&f.live, "live", false, "on the real members: a game day for staging")
	flags.StringVar(&f.confirm, "confirm", "", "with --live: the cluster's `NAME`, instead of being asked to type it")
	flags.BoolVar(&f.dryRun, "dry-run", false, "say what would be done and do nothing")
	flags.StringVar(&f.page, "html", "", "also write the page to `FILE`")
	return cmd
}

func (a *app) drill(ctx context.Context, name string, f drillFlags) error {
	switch {
	case f.live && (f.at != "" || f.compare):
		return usage("--live takes a backup of its own and restores that: without --at and --compare")
	case f.confirm != "" && !f.live:
		return usage("--confirm belongs to --live")
	}
	t, err := a.target(name)
	if err != nil {
		return err
	}
	if err := t.drillable(); err != nil {
		return err
	}
	if f.live {
		return t.drillLive(ctx, f)
	}
	o, err := t.drillOptions(ctx, f, "command", catalogID(""))
	if err != nil {
		return err
	}
	if f.dryRun {
		report, err := drills.Plan(ctx, o)
		return t.drillPlanned(report, err)
	}
	if err := t.spool().Ready(0); err != nil {
		return err
	}
	o.Progress = t.reporter
	report, err := drills.Run(ctx, o)
	t.reporter.Close()
	return t.drilled(report, err, f.page)
}

// drillable refuses what could only fail.
func (t *target) drillable() error {
	if len(t.cluster.Recipients) > 0 && t.cluster.IdentityFile == "" {
		return usage("cluster %s: backups are encrypted and there is no identity_file, so a drill cannot read them: add it, or drill where the identity is", t.cluster.Name)
	}
	return nil
}

// drillLive asks, and drills on the real members.
func (t *target) drillLive(ctx context.Context, f drillFlags) error {
	if !t.cluster.LiveDrills {
		return agents.Refusal{
			What: fmt.Sprintf("cluster %s is not marked for live drills", t.cluster.Name),
			Risk: "a live drill stops etcd on every member and rebuilds the cluster from a backup: every client sees the outage, and what was written after the backup is lost",
			Flag: "live_drills: allowed in the configuration of a staging cluster",
		}
	}
	if f.dryRun {
		fmt.Fprintf(t.out, "would take a backup of %s, stop etcd on its %s, rebuild them from that backup, wait for the agents, and keep the old data dirs\n", t.cluster.Name, catalog.Count(len(t.cluster.Members), "member"))
		return nil
	}
	if err := t.spool().Ready(0); err != nil {
		return err
	}
	if err := t.confirmLive(ctx, f.confirm); err != nil {
		return err
	}
	o, err := t.liveOptions(ctx, t.reporter)
	if err != nil {
		return err
	}
	report, err := drills.RunLive(ctx, o)
	t.reporter.Close()
	return t.drilled(report, err, f.page)
}

// confirmLive has the cluster's name typed; --yes does not answer this.
func (t *target) confirmLive(ctx context.Context, given string) error {
	name := t.cluster.Name
	if given == "" {
		if !isTerminal(t.in) {
			return usage("a live drill stops etcd on every member of %s and must be confirmed: there is no terminal to ask on, so give --confirm %s", name, name)
		}
		fmt.Fprintf(t.err, "A live drill of %s takes a backup, stops etcd on all its members, and rebuilds them from that backup.\nWhat clients write after the backup is lost.\n", name)
		var err error
		if given, err = t.ask(ctx, "Type the name of the cluster to go on: "); err != nil {
			return err
		}
	}
	if given != name {
		return agents.Refusal{What: fmt.Sprintf("the name %q is not that of the cluster, %s", given, name), Risk: "nothing was done", Flag: "--confirm " + name}
	}
	return nil
}

// drillPlanned shows what a drill would do.
func (t *target) drillPlanned(r drills.Report, err error) error {
	if t.json() {
		if err != nil {
			return err
		}
		return t.printJSON(r)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(t.out, "would restore backup %s of %s (revision %d, %d keys, %s) in a sandbox below %s: etcd %s, %s\n", r.Source.ID, r.Source.Time.Format(time.RFC3339),
		r.Source.Revision, r.Source.Keys, catalog.Size(r.Source.Bytes), t.cfg.SpoolDir, r.Versions.Etcd, r.Settings.Program)
	for _, s := range r.Steps {
		for _, e := range s.Evidence {
			t.say("  %s", e)
		}
	}
	return nil
}

// drilled shows a report, also of a drill that failed.
func (t *target) drilled(r drills.Report, err error, page string) error {
	if r.Ended.IsZero() { // interrupted
		return err
	}
	if page != "" {
		text, pageErr := r.Page()
		if pageErr == nil {
			pageErr = os.WriteFile(page, text, 0o600)
		}
		err = errors.Join(err, pageErr)
	}
	var kept *drills.StoreFailure
	lost := errors.As(err, &kept)
	if t.json() {
		if printErr := t.printJSON(r); printErr != nil {
			return printErr
		}
	} else {
		t.showDrill(r)
	}
	switch {
	case err == nil:
		return nil
	case r.Failure == nil:
	case lost:
		err = kept
	default: // shown in full
		return codeError{r.Failure.Code}
	}
	fmt.Fprintf(t.err, "requorum: %v\n", err)
	if r.Failure != nil {
		return codeError{r.Failure.Code}
	}
	return codeError{exitCode(err, 0)}
}

func (t *target) showDrill(r drills.Report) {
	w := func(format string, args ...any) { fmt.Fprintf(t.out, format+"\n", args...) }
	verdict := map[drills.Outcome]string{drills.Proven: "restore proven", drills.Missed: "restore proven, AN OBJECTIVE WAS MISSED", drills.Failed: "FAILED"}[r.Outcome]
	w("drill %s of %s: %s", r.ID, r.Cluster, verdict)
	if r.Source.ID != "" {
		w("  source    %s of %s, revision %d, %d keys, %s", r.Source.ID, r.Source.Time.Format(time.RFC3339), r.Source.Revision, r.Source.Keys, catalog.Size(r.Source.Bytes))
	}
	for _, s := range r.Steps {
		mark := "ok"
		if !s.OK {
			mark = "FAILED"
		}
		detail := ""
		if len(s.Evidence) > 0 {
			detail = shorten(s.Evidence[0], 110)
		}
		w("  %-6s %-9s %6.2f s  %s", mark, s.Name, s.Seconds, detail)
	}
	for _, v := range r.Agents {
		w("  agent     %s: %s", v.Name, v.Verdict)
	}
	for _, q := range r.Questions {
		w("  question  a restore will ask: %s; %s (%s)", q.What, q.Risk, q.Flag)
	}
	for _, o := range r.Objectives {
		switch {
		case o.Measured == 0:
			w("  %-9s not measured", o.Name)
		case !o.Judged:
			w("  %-9s %.1f s", o.Name, o.Measured)
		case o.Met:
			w("  %-9s %.1f s, met (%.0f s asked for)", o.Name, o.Measured, o.Asked)
		default:
			w("  %-9s %.1f s, MISSED (%.0f s asked for)", o.Name, o.Measured, o.Asked)
		}
	}
	if f := r.Failure; f != nil {
		w("  failed    step %s (exit code %d)", f.Step, f.Code)
		w("  expected  %s", f.Expected)
		w("  found     %s", f.Found)
		w("  try       %s", f.Try)
	}
	for _, n := range r.Notes {
		w("  note      %s", n)
	}
	if r.Kind == drills.Live && r.Restore != nil {
		w("  rollback  %s rollback %s %s", t.command(), r.Cluster, r.Restore.Run)
	}
	signed := "not signed"
	if r.SignedBy != "" {
		signed = "signed"
	}
	w("  report    %s/%s, %s", t.cluster.Path, r.Report, signed)
}

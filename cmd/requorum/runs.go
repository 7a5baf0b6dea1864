package main

import (
	"context"
	"encoding/json"
	"time"

	"github.com/spf13/cobra"

	"github.com/requorum/requorum/restore"
	"github.com/requorum/requorum/storage/catalog"
)

// runsOf is what runs says of one cluster.
type runsOf struct {
	Cluster    string           `json:"cluster"`
	Unfinished *restore.HostRun `json:"unfinished"` // as the hosts remember it
	Runs       []catalog.Run    `json:"runs"`       // as the stores remember them, oldest first
}

func newRunsCommand(a *app) *cobra.Command {
	var since string
	var last int
	cmd := &cobra.Command{
		Use:   "runs [CLUSTER]",
		Short: "Past and unfinished runs",
		Args:  maxArgs(1),
		RunE:  func(cmd *cobra.Command, args []string) error { return a.runs(cmd.Context(), args, since, last) },
	}
	cmd.AddCommand(newPruneCommand(a))
	cmd.Flags().IntVar(&last, "last", 50, "how many to show of each cluster, 0 for all")
	cmd.Flags().StringVar(&since, "since", "30d ago", "a `MOMENT`: RFC 3339 with zone, or such as 2h ago")
	return cmd
}

func (a *app) runs(ctx context.Context, args []string, since string, last int) error {
	from, err := catalog.ParseMoment(since, time.Now())
	if err != nil {
		return usage("--since: %v", err)
	}
	if last < 0 {
		return usage("--last %d: it cannot be negative", last)
	}
	targets, err := a.targets(&sourceFlags{}, args)
	if err != nil {
		return err
	}
	all := []runsOf{}
	for _, t := range targets {
		repo, err := t.repository(ctx)
		if err != nil {
			return err
		}
		of := runsOf{Cluster: t.cluster.Name}
		if of.Runs, err = repo.Runs(ctx, from); err != nil {
			a.say("warning: runs of %s: %v", t.cluster.Name, err)
		}
		if of.Runs == nil {
			of.Runs = []catalog.Run{}
		}
		if left := len(of.Runs) - last; last > 0 && left > 0 {
			of.Runs = of.Runs[left:]
			a.say("%s: %s since %s not shown: --last 0 shows all", t.cluster.Name, catalog.Count(left, "earlier run"), from.Format(time.RFC3339))
		}
		if t.restorable() {
			r, err := t.restorer(ctx, restoreFlags{})
			if err != nil {
				return err
			}
			last, err := r.Latest(ctx)
			if err != nil {
				a.say("warning: what the hosts of %s remember: %v", t.cluster.Name, err)
			}
			if last != nil && !last.Ended {
				of.Unfinished = last
			}
		}
		all = append(all, of)
	}
	if a.json() {
		return a.printJSON(all)
	}
	var rows [][]string
	for _, of := range all {
		for _, r := range of.Runs {
			took := "-"
			if !r.Ended.IsZero() {
				took = r.Ended.Sub(r.Started).Round(100 * time.Millisecond).String()
			}
			rows = append(rows, []string{of.Cluster, r.ID, r.Kind, r.Outcome, r.Started.Format(time.RFC3339), took, r.Host, about(r)})
		}
		if u := of.Unfinished; u != nil {
			rows = append(rows, []string{of.Cluster, u.Plan.Run, string(u.Plan.Kind), "UNFINISHED", u.Plan.Started.Format(time.RFC3339), "-", u.Plan.Members[0].Host, sourceWords(u.Plan.Source.Kind, u.Plan.Source.ID)})
		}
	}
	if len(rows) == 0 {
		a.say("no runs since %s", from.Format(time.RFC3339))
	}
	return a.table([]string{"CLUSTER", "RUN", "KIND", "OUTCOME", "STARTED", "TOOK", "HOST", "WHAT"}, rows)
}

// about is what a run worked on, or what it failed with.
func about(r catalog.Run) string {
	var detail struct {
		Source  restore.ReportSource `json:"source"`
		Members []struct {
			Name string `json:"name"`
		} `json:"members"`
	}
	switch {
	case r.Error != "":
		return shorten(r.Error, 80)
	case r.Snapshot != "":
		return r.Snapshot
	case json.Unmarshal(r.Detail, &detail) != nil: // not one of a restore
		return ""
	case r.Kind == string(restore.PlanReplace) && len(detail.Members) > 0:
		return "member " + detail.Members[0].Name
	}
	return sourceWords(detail.Source.Kind, detail.Source.ID)
}

// sourceWords names what a restore was made of.
func sourceWords(kind, id string) string {
	switch kind {
	case "before":
		return "the dirs before " + id
	case "survivor", "file", "cluster":
		return kind + " " + id
	}
	return id
}

package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/requorum/requorum/backup"
	"github.com/requorum/requorum/storage/catalog"
)

func newExpireCommand(a *app) *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "expire CLUSTER",
		Short: "Apply retention now, sweep leftovers",
		Long: `Deletes the backups that the cluster's retention does not keep, in each store by itself, and sweeps what killed runs
left behind. Nothing is decided on a part: a store that cannot be listed ends it before the first deletion.

It also removes what backups, verifications, expiries and watching have recorded more than 90 days ago, but for the newest
record of each kind and outcome, and for all since the newest backup. Records of restores and drills stay.`,
		Args: maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.expire(cmd.Context(), strings.Join(args, ""), dryRun)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "explain each verdict and delete nothing")
	return cmd
}

// expired is what expire says of one backup in one store.
type expired struct {
	Store    string    `json:"store"`
	ID       string    `json:"id"`
	Line     string    `json:"line"`
	Revision int64     `json:"revision"`
	Time     time.Time `json:"time"`
	Keep     bool      `json:"keep"`
	Reasons  []string  `json:"reasons"`
	Deleted  bool      `json:"deleted"`
	Locked   bool      `json:"locked"`
	Error    string    `json:"error,omitempty"`
}

// swept is a leftover of a run that never finished.
type swept struct {
	Store      string  `json:"store"`
	Key        string  `json:"key"`
	Bytes      int64   `json:"bytes"`
	AgeSeconds float64 `json:"age_seconds"`
	Error      string  `json:"error,omitempty"`
}

// spentRecords is what expire says of the old records of one kind in one store.
type spentRecords struct {
	Store   string    `json:"store"`
	Kind    string    `json:"kind"`
	Count   int       `json:"count"`
	Removed int       `json:"removed"`
	Oldest  time.Time `json:"oldest"`
	Newest  time.Time `json:"newest"`
	Error   string    `json:"error,omitempty"`
}

// byKind sums records up.
func byKind(all []backup.Records) []spentRecords {
	rows := []spentRecords{}
	for _, in := range all {
		of := map[string]*spentRecords{}
		for _, r := range in.Runs {
			row := of[r.Kind]
			if row == nil {
				row = &spentRecords{Store: in.Store, Kind: r.Kind, Oldest: r.Started}
				of[r.Kind] = row
				if in.Err != nil {
					row.Error = in.Err.Error()
				}
			}
			row.Count++
			row.Newest = r.Started
		}
		for _, r := range in.Removed {
			of[r.Kind].Removed++
		}
		for _, kind := range slices.Sorted(maps.Keys(of)) {
			rows = append(rows, *of[kind])
		}
	}
	return rows
}

func (a *app) expire(ctx context.Context, name string, dryRun bool) error {
	t, err := a.target(name)
	if err != nil {
		return err
	}
	repo, err := t.repository(ctx)
	if err != nil {
		return err
	}
	policy, configured := t.policy()
	if !configured {
		a.say("cluster %s has no retention: every backup is kept", t.cluster.Name)
	}
	result, err := backup.Expire(ctx, policy, dryRun, backup.ExpireOptions{Repository: repo, Version: version, Host: hostname(), User: username(), Log: a.log()})
	out := struct {
		DryRun  bool           `json:"dry_run"`
		Backups []expired      `json:"backups"`
		Swept   []swept        `json:"swept"`
		Records []spentRecords `json:"records"`
	}{dryRun, []expired{}, []swept{}, byKind(result.Records)}
	for _, v := range result.Verdicts {
		s := v.Snapshot
		row := expired{v.Store, s.ID, s.Line, s.Revision, s.Time, v.Keep, v.Reasons, v.Deleted, v.Locked, ""}
		if v.Err != nil {
			row.Error = v.Err.Error()
		}
		out.Backups = append(out.Backups, row)
	}
	for _, l := range result.Swept {
		row := swept{l.Store, l.Key, l.Bytes, l.Age.Seconds(), ""}
		if l.Err != nil {
			row.Error = l.Err.Error()
		}
		out.Swept = append(out.Swept, row)
	}
	if a.json() {
		return a.outcome(out, err)
	}
	var rows [][]string
	for _, r := range out.Backups {
		verdict := "keep"
		switch {
		case r.Deleted:
			verdict = "deleted"
		case r.Locked:
			verdict = "LOCKED"
		case r.Error != "":
			verdict = "FAILED"
		case !r.Keep:
			verdict = "delete"
		}
		rows = append(rows, []string{r.Store, r.ID, r.Line, r.Time.Format(time.RFC3339), fmt.Sprint(r.Revision), verdict, strings.Join(r.Reasons, "; ")})
	}
	if printErr := a.table([]string{"STORE", "ID", "LINE", "TIME", "REVISION", "VERDICT", "WHY"}, rows); printErr != nil {
		return printErr
	}
	verb := "swept"
	if dryRun {
		verb = "would sweep"
	}
	for _, s := range out.Swept {
		a.say("%s %s in %s, %s", verb, s.Key, s.Store, catalog.Size(s.Bytes))
	}
	for _, r := range out.Records {
		span := fmt.Sprintf("from %s to %s", r.Oldest.Format(time.DateOnly), r.Newest.Format(time.DateOnly))
		switch {
		case dryRun:
			a.say("would remove %s of kind %s in %s, %s", catalog.Count(r.Count, "record"), r.Kind, r.Store, span)
		case r.Error != "":
			a.say("removed %d of %s of kind %s in %s, %s: %s", r.Removed, catalog.Count(r.Count, "record"), r.Kind, r.Store, span, r.Error)
		default:
			a.say("removed %s of kind %s in %s, %s", catalog.Count(r.Removed, "record"), r.Kind, r.Store, span)
		}
	}
	return err
}

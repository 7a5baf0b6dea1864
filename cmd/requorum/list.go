package main

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/requorum/requorum/storage/catalog"
)

func newListCommand(a *app) *cobra.Command {
	var from sourceFlags
	cmd := &cobra.Command{
		Use:   "list [CLUSTER]",
		Short: "Backups, lines, verdicts",
		Long: `Lists the backups of one cluster or of all, oldest first. Everything shown comes from listings of the
stores; nothing else is read.`,
		Args: maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.list(cmd.Context(), from, args) },
	}
	from.addStores(cmd)
	return cmd
}

// listed is one backup in the JSON contract of list.
type listed struct {
	ID          string     `json:"id"`
	Cluster     string     `json:"cluster"`
	Line        string     `json:"line"`
	Revision    int64      `json:"revision"`
	Time        time.Time  `json:"time"`
	StoredBytes int64      `json:"stored_bytes"`
	Encrypted   bool       `json:"encrypted"`
	Stores      []string   `json:"stores"`
	VerifiedAt  *time.Time `json:"verified_at"`
	Failed      bool       `json:"failed"`
	Drill       *drilledBy `json:"drill"` // the newest that came to a verdict about it; null: none
}

// drilledBy is what a drill found about a backup.
type drilledBy struct {
	ID   string    `json:"id"`
	Time time.Time `json:"time"`
	OK   bool      `json:"ok"`
	Why  string    `json:"why,omitempty"` // it failed; in show
}

func drilled(s catalog.Snapshot) *drilledBy {
	if !s.Drilled.Known() {
		return nil
	}
	return &drilledBy{ID: s.Drilled.ID, Time: s.Drilled.Time, OK: !s.Drilled.Failed}
}

// targets are the named cluster, or all of them.
func (a *app) targets(from *sourceFlags, args []string) ([]*target, error) {
	if from.given() || len(args) == 1 {
		t, err := a.targetOr(from, strings.Join(args, ""))
		return []*target{t}, err
	}
	cfg, err := a.load()
	if err != nil {
		return nil, err
	}
	var all []*target
	for _, cl := range cfg.Sorted() {
		all = append(all, &target{app: a, cfg: cfg, cluster: cl})
	}
	return all, nil
}

func (a *app) list(ctx context.Context, from sourceFlags, args []string) error {
	targets, err := a.targets(&from, args)
	if err != nil {
		return err
	}
	rows := []listed{}
	lines := make(map[string]catalog.Snapshot) // the newest backup of each
	var partly error
	for _, t := range targets {
		repo, err := t.repository(ctx)
		if err != nil {
			return err
		}
		snaps, err := repo.Snapshots(ctx)
		if err != nil && len(snaps) == 0 {
			return err
		}
		if err != nil {
			a.say("warning: %v", err)
			partly = codeError{exitPartly}
		}
		rows = append(rows, listing(t.cluster.Name, snaps)...)
		for _, s := range snaps {
			if old, ok := lines[s.Line]; !ok || !s.Time.Before(old.Time) { // of one second the later
				lines[s.Line] = s
			}
		}
	}
	if a.json() {
		if err := a.printJSON(rows); err != nil {
			return err
		}
		return partly
	}
	now := time.Now()
	var table [][]string
	for _, r := range rows {
		sealed := "plain"
		if r.Encrypted {
			sealed = "age"
		}
		verdict := "-"
		switch {
		case r.Failed:
			verdict = "FAILED"
		case r.VerifiedAt != nil:
			verdict = ageOf(now, *r.VerifiedAt) + " ago"
		}
		drill := "-"
		switch {
		case r.Drill != nil && r.Drill.OK:
			drill = ageOf(now, r.Drill.Time) + " ago"
		case r.Drill != nil:
			drill = "FAILED"
		}
		table = append(table, []string{r.Cluster, r.ID, r.Line, r.Time.Format(time.RFC3339), ageOf(now, r.Time), strconv.FormatInt(r.Revision, 10),
			catalog.Size(r.StoredBytes), sealed, strings.Join(r.Stores, ","), verdict, drill})
	}
	if err := a.table([]string{"CLUSTER", "ID", "LINE", "TIME", "AGE", "REVISION", "STORED", "SEALED", "STORES", "VERIFIED", "DRILLED"}, table); err != nil {
		return err
	}
	if len(rows) == 0 {
		a.say("no backups; take one with: requorum backup CLUSTER")
	}
	if len(lines) > 1 && len(targets) == 1 {
		a.say("%d lines of history; the newest backup of each:", len(lines))
		byTime := slices.SortedFunc(maps.Values(lines), func(x, y catalog.Snapshot) int { return x.Time.Compare(y.Time) })
		for _, s := range byTime {
			a.say("  %s  %s at revision %d, %s old", s.Line, s.ID, s.Revision, ageOf(now, s.Time))
		}
	}
	return partly
}

// listing is what list says of a cluster's backups.
func listing(cluster string, snaps []catalog.Snapshot) []listed {
	rows := []listed{}
	for _, s := range snaps {
		row := listed{ID: s.ID, Cluster: cluster, Line: s.Line, Revision: s.Revision, Time: s.Time, StoredBytes: s.StoredBytes,
			Encrypted: s.Encrypted, Stores: s.Stores, Failed: s.Failed(), Drill: drilled(s)}
		if !s.VerifiedAt.IsZero() {
			row.VerifiedAt = &s.VerifiedAt
		}
		rows = append(rows, row)
	}
	return rows
}

package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/requorum/requorum/internal/config"
	"github.com/requorum/requorum/schedules"
	"github.com/requorum/requorum/storage/catalog"
)

// scheduled is one schedule of a cluster, in the JSON of schedules.
type scheduled struct {
	Cluster  string      `json:"cluster"`
	Kind     string      `json:"kind"`
	Schedule string      `json:"schedule"`
	Last     *time.Time  `json:"last"`
	Outcome  string      `json:"outcome,omitempty"`
	Next     []time.Time `json:"next"`
}

func newSchedulesCommand(a *app) *cobra.Command {
	var count int
	cmd := &cobra.Command{
		Use:   "schedules [CLUSTER]",
		Short: "Last and next runs",
		Args:  maxArgs(1),
		RunE:  func(cmd *cobra.Command, args []string) error { return a.schedules(cmd.Context(), args, count) },
	}
	cmd.Flags().IntVar(&count, "next", 1, "how many next runs to show")
	return cmd
}

func (a *app) schedules(ctx context.Context, args []string, count int) error {
	targets, err := a.targets(&sourceFlags{}, args)
	if err != nil {
		return err
	}
	now := time.Now()
	all := []scheduled{}
	for _, t := range targets {
		last, err := t.lastRuns(ctx, now)
		if err != nil {
			a.say("warning: last runs of %s: %v", t.cluster.Name, err)
		}
		for _, s := range t.schedules() {
			schedule, err := schedules.Parse(s.crons.Strings()...)
			if err != nil {
				return err
			}
			row := scheduled{Cluster: t.cluster.Name, Kind: s.kind, Schedule: schedule.String()}
			if run, ok := last[s.runKind]; ok {
				row.Last, row.Outcome = &run.Started, run.Outcome
			}
			for next := now; len(row.Next) < max(count, 1); {
				next = schedule.Next(next)
				row.Next = append(row.Next, next)
			}
			all = append(all, row)
		}
	}
	if a.json() {
		return a.printJSON(all)
	}
	var rows [][]string
	for _, s := range all {
		last := "never"
		if s.Last != nil {
			last = s.Last.Format(time.RFC3339) + " " + s.Outcome
		}
		var next []string
		for _, n := range s.Next {
			next = append(next, n.Format(time.RFC3339))
		}
		rows = append(rows, []string{s.Cluster, s.Kind, s.Schedule, last, strings.Join(next, " ")})
	}
	if len(rows) == 0 {
		a.say("no schedules are configured")
	}
	return a.table([]string{"CLUSTER", "WHAT", "SCHEDULE", "LAST", "NEXT"}, rows)
}

// schedule is one configured kind of scheduled work and the kind of its runs.
type schedule struct {
	kind, runKind string
	crons         config.Crons
}

func (t *target) schedules() []schedule {
	var set []schedule
	for _, s := range []schedule{{"snapshot", "backup", t.cluster.Schedules.Snapshot}, {"verify", "verify", t.cluster.Schedules.Verify},
		{"drill", "drill", t.cluster.Schedules.Drill}} {
		if len(s.crons) > 0 {
			set = append(set, s)
		}
	}
	return set
}

// lastRuns are the newest records by kind, of the last 120 days: a quarterly drill is among them.
func (t *target) lastRuns(ctx context.Context, now time.Time) (map[string]catalog.Run, error) {
	repo, err := t.repository(ctx)
	if err != nil {
		return nil, err
	}
	runs, err := repo.Runs(ctx, now.AddDate(0, 0, -120))
	last := make(map[string]catalog.Run)
	for _, r := range runs {
		last[r.Kind] = r
	}
	return last, err
}

package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/requorum/requorum/internal/config"
	"github.com/requorum/requorum/internal/service"
	"github.com/requorum/requorum/schedules"
	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/repository"
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
		Long: `Shows when serve runs what: the last run by the records in the stores, and the next ones as serve plans them, with
each cluster's part of the jitter. A run that is missing since the last due time is shown as due now: serve makes it up at once.`,
		Args: maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.schedules(cmd.Context(), args, count) },
	}
	cmd.Flags().IntVar(&count, "next", 1, "how many next runs to show")
	return cmd
}

func (a *app) schedules(ctx context.Context, args []string, count int) error {
	targets, err := a.targets(&sourceFlags{}, args)
	if err != nil {
		return err
	}
	all := []scheduled{}
	for _, t := range targets {
		repo, err := t.repository(ctx)
		if err != nil {
			return err
		}
		rows, err := t.upcoming(ctx, repo, time.Now(), count)
		if err != nil {
			a.say("warning: last runs of %s: %v", t.cluster.Name, err)
		}
		all = append(all, rows...)
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

// schedule is one configured kind of scheduled work and the kind of its records.
type schedule struct {
	kind   service.Kind
	record string
	schedules.Schedule
}

// offset is the cluster's part of the jitter.
func (t *target) offset(s schedule, now time.Time) time.Duration {
	return s.Offset(service.Key(t.cluster.Name, s.kind), time.Duration(t.cluster.Schedules.Jitter), now)
}

// schedules are those that are configured.
func (t *target) schedules() ([]schedule, error) {
	var set []schedule
	c := t.cluster.Schedules
	for _, s := range []struct {
		kind   service.Kind
		record string
		crons  config.Crons
	}{{service.Snapshot, "backup", c.Snapshot}, {service.Verify, "verify", c.Verify}, {service.Expire, "expire", c.Expire}, {service.Drill, "drill", c.Drill}} {
		if len(s.crons) == 0 {
			continue
		}
		parsed, err := schedules.Parse(s.crons.Strings()...)
		if err != nil {
			return nil, err
		}
		set = append(set, schedule{s.kind, s.record, parsed})
	}
	return set, nil
}

// upcoming says of each schedule when it last ran, and when serve will run it next. An error about the last runs leaves the rest valid.
func (t *target) upcoming(ctx context.Context, repo *repository.Repository, now time.Time, count int) ([]scheduled, error) {
	set, err := t.schedules()
	if err != nil || len(set) == 0 {
		return []scheduled{}, err
	}
	// Most ran within two days; a quarterly drill did within 120, of which a listing may be long.
	runs, err := repo.Recorded(ctx, now.AddDate(0, 0, -2))
	for _, s := range set {
		if _, ok := newest(runs, s.record); !ok {
			runs, err = repo.Recorded(ctx, now.AddDate(0, 0, -120))
			break
		}
	}
	rows := []scheduled{}
	for _, s := range set {
		row := scheduled{Cluster: t.cluster.Name, Kind: string(s.kind), Schedule: s.String()}
		if last, ok := newest(runs, s.record); ok {
			row.Last, row.Outcome = &last.Started, last.Outcome
		}
		counted, _ := service.Last(runs, s.record)
		offset := t.offset(s, now)
		next := s.Due(counted.Started, now, offset)
		if next.Before(now) {
			next = now.UTC().Truncate(time.Second)
		}
		for range max(count, 1) {
			row.Next = append(row.Next, next)
			next = s.Next(next).Add(offset)
		}
		rows = append(rows, row)
	}
	return rows, err
}

// newest is the newest record of a kind, whatever became of the run.
func newest(runs []catalog.Run, kind string) (last catalog.Run, ok bool) {
	for _, r := range runs {
		if r.Kind == kind {
			last, ok = r, true
		}
	}
	return last, ok
}

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/requorum/requorum/drills"
	"github.com/requorum/requorum/internal/service"
	"github.com/requorum/requorum/storage/repository"
)

// errEvidence says that a drill proved a restore, and that its evidence is not in every store.
var errEvidence = errors.New("the drill is proven, its evidence is not in every store")

// drillFailure is why a drill failed, for whoever is told of it.
type drillFailure struct {
	text string
	err  error
}

func (e drillFailure) Error() string { return e.text }
func (e drillFailure) Unwrap() error { return e.err }

// drillWork is a drill as serve runs it.
func (t *target) drillWork() service.Work {
	return func(ctx context.Context, log *slog.Logger, run string) (service.Report, error) {
		if err := t.spool().Ready(0); err != nil {
			return service.Report{}, err
		}
		o, err := t.drillOptions(ctx, drillFlags{}, "schedule", run)
		if err != nil {
			return service.Report{}, err
		}
		o.Progress, o.Log = &drillLog{stageLog: stageLog{log: log}}, log
		report, err := drills.Run(ctx, o)
		if report.Ended.IsZero() { // interrupted
			return service.Report{}, err
		}
		log.Info("the drill is reported", "outcome", string(report.Outcome), "source", report.Source.ID, "rpo_seconds", report.RPOSeconds, "rto_seconds", report.RTOSeconds, "report", report.Report)
		if f := report.Failure; f != nil {
			return service.Report{}, drillFailure{fmt.Sprintf("drill %s failed at step %q: expected: %s; found: %s; try: %s", report.ID, f.Step, f.Expected, f.Found, f.Try), err}
		}
		if err != nil {
			return service.Report{}, fmt.Errorf("%w: %w", errEvidence, err)
		}
		seconds := func(s float64) time.Duration {
			return time.Duration(s * float64(time.Second)).Round(100 * time.Millisecond)
		}
		return service.Report{News: fmt.Sprintf("drill %s proved that backup %s of %s restores: RTO %s, RPO %s; its report is %s (requorum drills %s)", report.ID, report.Source.ID,
			report.Source.Time.UTC().Format("2006-01-02 15:04 MST"), seconds(report.RTOSeconds), seconds(report.RPOSeconds), report.Report, t.cluster.Name)}, nil
	}
}

// drillLog is the progress of a scheduled drill.
type drillLog struct{ stageLog }

// Say implements restore.Progress.
func (d *drillLog) Say(format string, args ...any) { d.log.Info(fmt.Sprintf(format, args...)) }

// drilledWatch tells the service of the last drill, where anybody asks for drills.
func (t *target) drilledWatch(repo *repository.Repository) func(context.Context) (*service.LastDrill, error) {
	if len(t.cluster.Schedules.Drill) == 0 && t.cluster.Objectives.DrillAge == 0 {
		return nil
	}
	memory := new(drills.Memory)
	return func(ctx context.Context) (*service.LastDrill, error) {
		last, err := memory.Last(ctx, repo)
		if last == nil {
			return nil, err
		}
		return &service.LastDrill{Time: last.Started, RPO: time.Duration(last.RPOSeconds * float64(time.Second)), RTO: time.Duration(last.RTOSeconds * float64(time.Second))}, nil
	}
}

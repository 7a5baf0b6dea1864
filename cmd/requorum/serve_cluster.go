package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/requorum/requorum/backup"
	"github.com/requorum/requorum/drills"
	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/internal/config"
	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/internal/health"
	"github.com/requorum/requorum/internal/seal"
	"github.com/requorum/requorum/internal/service"
	"github.com/requorum/requorum/schedules"
	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/repository"
)

// served makes the service's clusters of a configuration. Stores are opened once for all of them.
func (a *app) served(ctx context.Context, cfg *config.Config, tell *telling) ([]service.Cluster, error) {
	stores := map[string]storage.Store{}
	for name, st := range cfg.Stores {
		s, err := openStore(ctx, st)
		if err != nil {
			return nil, err
		}
		stores[name] = tell.store(name, s)
	}
	var all []service.Cluster
	for _, cl := range cfg.Sorted() {
		t := &target{app: a, cfg: cfg, cluster: cl, stores: stores}
		c, err := t.served(ctx, tell)
		if err != nil {
			return nil, fmt.Errorf("cluster %s: %w", cl.Name, err)
		}
		all = append(all, c)
	}
	return all, nil
}

func (t *target) served(ctx context.Context, tell *telling) (service.Cluster, error) {
	repo, err := t.repository(ctx)
	if err != nil {
		return service.Cluster{}, err
	}
	jobs, err := t.jobs(repo, tell)
	if err != nil {
		return service.Cluster{}, err
	}
	settings, err := t.settings()
	if err != nil {
		return service.Cluster{}, err
	}
	return service.Cluster{
		Drilled: t.drilledWatch(repo),
		Name:    t.cluster.Name, Settings: settings, Repository: repo, Jobs: jobs,
		Jitter: time.Duration(t.cluster.Schedules.Jitter), Deadline: time.Duration(t.cluster.Schedules.Deadline),
		Interval: time.Duration(t.cfg.Serve.Watch),
		Watch:    func() (service.Watcher, func(), error) { return t.watch(tell) },
		Judge: func(now time.Time, s service.Stored, holds []catalog.Hold, holdsErr error) []service.Problem {
			found := health.Stored{Snapshots: s.Backups, SnapshotsErr: s.Err, Holds: holds, HoldsErr: holdsErr}
			if found.LastDrillErr = s.DrillErr; s.Drill != nil {
				found.LastDrill = s.Drill.Time
			}
			return problems(found.Judge(t.cluster.Name, now, t.objectives()))
		},
		List: func(ctx context.Context) (any, error) {
			snaps, err := repo.Snapshots(ctx)
			if err != nil && len(snaps) == 0 {
				return nil, err
			}
			return listing(t.cluster.Name, snaps), nil
		},
		Schedules: func(ctx context.Context, next int) (any, error) { return t.upcoming(ctx, repo, time.Now(), next) },
		Check:     func(ctx context.Context) (any, error) { return t.checked(ctx, 0) },
	}, nil
}

// settings is a fingerprint of all that the cluster's work hangs on, secrets in the files of stores too, which are read when a store is opened.
func (t *target) settings() (string, error) {
	h := sha256.New()
	add := func(v any) error {
		text, err := json.Marshal(v)
		h.Write(text)
		return err
	}
	err := errors.Join(add(t.cluster), add(t.cfg.SpoolDir), add(t.cfg.AllowTmpfsSpool), add(t.cfg.Serve.Watch))
	_, _ = io.WriteString(h, t.cluster.Password.Reveal())
	for _, name := range t.cluster.Stores {
		st := t.cfg.Stores[name]
		err = errors.Join(err, add(st))
		if st.S3 != nil {
			_, secret, token, credErr := st.S3.Credentials()
			err = errors.Join(err, credErr)
			_, _ = io.WriteString(h, secret.Reveal()+"\n"+token.Reveal())
		}
	}
	return hex.EncodeToString(h.Sum(nil)), err
}

// jobs are what the schedules ask for, and what follows from it: retention after each backup where it is configured, and copies
// where there are several stores.
func (t *target) jobs(repo *repository.Repository, tell *telling) (map[service.Kind]service.Job, error) {
	set, err := t.schedules()
	if err != nil {
		return nil, err
	}
	when := map[service.Kind]schedules.Schedule{}
	for _, s := range set {
		when[s.kind] = s.Schedule
	}
	jobs := map[service.Kind]service.Job{
		service.Snapshot: {Schedule: when[service.Snapshot], Record: "backup", Work: t.snapshotWork(repo)},
	}
	if !when[service.Verify].IsZero() {
		jobs[service.Verify] = service.Job{Schedule: when[service.Verify], Record: "verify", Work: t.verifyWork(repo)}
	}
	if !when[service.Drill].IsZero() {
		jobs[service.Drill] = service.Job{Schedule: when[service.Drill], Record: drills.RecordKind, Work: t.drillWork()}
	}
	_, retained := t.policy()
	if retained || !when[service.Expire].IsZero() {
		job := service.Job{Schedule: when[service.Expire], Record: "expire", Work: t.expireWork(repo, tell)}
		if retained {
			job.After = service.Snapshot
		}
		jobs[service.Expire] = job
	}
	if len(t.cluster.Stores) > 1 {
		job := service.Job{After: service.Snapshot, Work: t.copyWork(repo)}
		if retained {
			job.After = service.Expire
		}
		jobs[service.Copy] = job
	}
	return jobs, nil
}

func (t *target) snapshotWork(repo *repository.Repository) service.Work {
	return func(ctx context.Context, log *slog.Logger, run string) (service.Report, error) {
		result, err := t.take(ctx, repo, takeFlags{held: true, id: run}, &stageLog{log: log})
		return service.Report{Backup: result.ID, Time: result.Time, Bytes: result.Data.Bytes, StoredBytes: result.Data.StoredBytes, Keys: result.Keys,
			Seconds: result.Seconds, Alerts: result.Alerts}, err
	}
}

func (t *target) expireWork(repo *repository.Repository, tell *telling) service.Work {
	return func(ctx context.Context, log *slog.Logger, run string) (service.Report, error) {
		policy, _ := t.policy()
		result, err := backup.Expire(ctx, policy, false, backup.ExpireOptions{Repository: repo, ID: run, Version: version, Host: hostname(), User: username(), Log: log})
		for _, v := range result.Verdicts {
			switch {
			case v.Deleted:
				log.Info("a backup is expired", "store", v.Store, "backup", v.Snapshot.ID, "time", v.Snapshot.Time, "why", v.Reasons)
			case v.Locked:
				log.Info("a backup should be expired and is locked", "store", v.Store, "backup", v.Snapshot.ID)
			}
		}
		for _, r := range result.Records {
			if r.Err != nil {
				log.Warn("old records could not be removed", "store", r.Store, "removed", len(r.Removed), "of", len(r.Runs), "error", r.Err)
				continue
			}
			log.Info("old records are removed", "store", r.Store, "records", len(r.Removed))
		}
		tell.expired(t.cluster.Name, result)
		return service.Report{}, err
	}
}

func (t *target) copyWork(repo *repository.Repository) service.Work {
	return func(ctx context.Context, log *slog.Logger, _ string) (service.Report, error) {
		policy, _ := t.policy()
		copied, err := backup.MakeUp(ctx, policy, repo, time.Now(), &stageLog{log: log})
		if copied > 0 {
			log.Info("copies that stores lacked are made", "copies", copied)
		}
		return service.Report{}, err
	}
}

// verifyWork reads back the newest backup and those that have been without a verdict for longest.
func (t *target) verifyWork(repo *repository.Repository) service.Work {
	return func(ctx context.Context, log *slog.Logger, _ string) (service.Report, error) {
		snaps, err := repo.Snapshots(ctx)
		if err != nil && len(snaps) == 0 {
			return service.Report{}, err
		}
		var errs []error
		for _, snap := range unverified(snaps, t.cluster.Schedules.VerifyCount) {
			scope := backup.ScopeFull
			if snap.Encrypted && t.cluster.IdentityFile == "" {
				scope = backup.ScopeStored
			}
			own := log.With("backup", snap.ID)
			result, err := backup.Verify(ctx, snap, backup.VerifyOptions{Repository: repo, Spool: t.spool(), Scope: scope, Version: version, Host: hostname(), User: username(),
				Progress: &stageLog{log: own}, Log: own})
			switch {
			case err == nil:
				own.Info("the backup is verified", "scope", string(result.Scope))
			case errors.Is(err, backup.ErrGone): // by retention
				continue
			}
			errs = append(errs, err)
			if ctx.Err() != nil {
				break
			}
		}
		if failed := errors.Join(errs...); failed != nil || err == nil {
			return service.Report{}, errors.Join(failed, err)
		}
		return service.Report{}, fmt.Errorf("%w: what could be read is verified: %w", backup.ErrPartial, err)
	}
}

// unverified are at most count backups: the newest, and then those whose last verdict is the oldest, the newer first of those without any.
func unverified(snaps []catalog.Snapshot, count int) []catalog.Snapshot {
	snaps = slices.Clone(snaps)
	verdict := func(s catalog.Snapshot) time.Time {
		if s.FailedAt.After(s.VerifiedAt) {
			return s.FailedAt
		}
		return s.VerifiedAt
	}
	slices.SortStableFunc(snaps, func(a, b catalog.Snapshot) int { return b.Time.Compare(a.Time) })
	if len(snaps) > 1 {
		slices.SortStableFunc(snaps[1:], func(a, b catalog.Snapshot) int { return cmp.Or(verdict(a).Compare(verdict(b)), b.Time.Compare(a.Time)) })
	}
	return snaps[:min(len(snaps), count)]
}

// classify says how a run ended, in words of closed sets.
func classify(err error) (service.Outcome, service.Reason) {
	var check *dbfile.CheckError
	var unusable *cluster.Unusable
	var store *storage.Error
	var inStore *repository.StoreError
	outcome := service.Failed
	if errors.Is(err, backup.ErrPartial) || errors.Is(err, drills.ErrObjective) || errors.Is(err, errEvidence) {
		outcome = service.Partly
	}
	switch {
	case errors.Is(err, backup.ErrHeld):
		return service.Skipped, service.Held
	case errors.Is(err, seal.ErrCannotDecrypt):
		return outcome, service.Decryption
	case errors.Is(err, backup.ErrVerify), errors.Is(err, seal.ErrDamaged), errors.As(err, &check):
		return outcome, service.Verification
	case errors.Is(err, storage.ErrDenied), errors.Is(err, storage.ErrNoCredentials), errors.Is(err, storage.ErrAccessKey), errors.Is(err, storage.ErrSecretKey),
		errors.Is(err, storage.ErrExpired), errors.Is(err, cluster.ErrAuth), errors.Is(err, cluster.ErrNeedsRoot):
		return outcome, service.Denied
	case errors.As(err, &unusable), errors.Is(err, cluster.ErrUnreachable), errors.Is(err, cluster.ErrNoLeader), errors.Is(err, cluster.ErrStalled), errors.Is(err, cluster.ErrTLS):
		return outcome, service.Unreachable
	case errors.As(err, &store), errors.As(err, &inStore), errors.Is(err, repository.ErrNoStore):
		return outcome, service.StoreFailed
	}
	return outcome, service.Other
}

// stageLog is the progress of a scheduled run: a line for each stage that is done.
type stageLog struct {
	log *slog.Logger

	mu    sync.Mutex
	began map[string]time.Time
}

func (s *stageLog) Start(stage string, _ int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.began == nil {
		s.began = map[string]time.Time{}
	}
	s.began[stage] = time.Now()
	s.log.Debug("stage starts", "stage", stage)
}

func (*stageLog) Advance(string, int64) {}

func (s *stageLog) Done(stage, detail string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log.Info("stage is done", "stage", stage, "took", time.Since(s.began[stage]).Round(time.Millisecond), "detail", detail)
}

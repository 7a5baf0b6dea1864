package backup

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/repository"
)

// Stages of Take, as Progress and Result.Seconds name them. Upload overlaps stream and check.
const (
	StageChoose = "choose member"
	StageStream = "stream"
	StageUpload = "upload"
	StageCheck  = "check"
	StageProve  = "prove"
	StageCommit = "commit"
	StageCopy   = "copy"
)

// recordTimeout bounds the record of a run that has ended itself.
const recordTimeout = 10 * time.Second

// TakeOptions say what to back up, to where and how.
type TakeOptions struct {
	Cluster    string // the configured name
	Client     *cluster.Client
	Repository *repository.Repository
	Spool      Spool
	Agents     Agents

	Prove  bool            // compare with a follower's HashKV before anything exists
	Idle   time.Duration   // how long the stream may deliver nothing; 0: cluster.DefaultIdle
	Config json.RawMessage // the cluster's configuration without secrets, for the manifest

	// RefuseHeld is for scheduled runs: while a restore is under way elsewhere they end with ErrHeld, instead of a warning.
	// Run is the id of the restore that this backup belongs to, whose own hold says nothing; "" otherwise.
	RefuseHeld bool
	Run        string

	ID                  string // of this run; one is made if it is empty
	Version, Host, User string // of requorum and of who runs it, for manifest and record

	Progress Progress
	Log      *slog.Logger
	Now      func() time.Time
}

// A Result is a backup that exists.
type Result struct {
	catalog.Manifest
	Seconds  map[string]float64 `json:"seconds"` // by stage; they overlap
	Stores   []string           `json:"stores"`  // that hold it
	Warnings []string           `json:"warnings,omitempty"`
	Alerts   []string           `json:"alerts,omitempty"` // warnings that a person should be woken for
	Run      string             `json:"run"`
}

// Take takes one backup: it chooses a member, streams its database into the spool at full speed, and seals and stores it
// from there meanwhile; checks the spool; and when all that is asked for has been proven and the store has confirmed what it holds,
// writes the manifest. Then the other stores get copies.
//
// An error without ErrPartial means that no backup exists and that nothing of it is visible; its objects have been removed as far as the
// store allows. That also holds when ctx is cancelled. With ErrPartial the result is valid. ErrVerify and dbfile.CheckError are
// verdicts on what the cluster gave; *cluster.Unusable says why no member could be asked.
func Take(ctx context.Context, o TakeOptions) (Result, error) {
	t := newTaking(o, "backup")
	return t.finish(ctx, func() (Result, error) { return t.take(ctx) })
}

func newTaking(o TakeOptions, kind string) *taking {
	t := &taking{TakeOptions: o, kind: kind, run: cmp.Or(o.ID, catalog.NewID(catalog.KindRun)), seconds: map[string]float64{}}
	t.Progress, t.Log, t.Now = orQuiet(o.Progress), orDiscard(o.Log), orNow(o.Now)
	t.started = t.Now()
	return t
}

// finish does the work, leaves its record, and completes the result.
func (t *taking) finish(ctx context.Context, work func() (Result, error)) (Result, error) {
	result, err := work()
	t.record(ctx, result, err)
	if err != nil && !errors.Is(err, ErrPartial) {
		return Result{}, err
	}
	result.Seconds, result.Run = t.seconds, t.run
	result.Warnings, result.Alerts = t.warnings, t.alerts
	return result, err
}

// taking is one Take under way.
type taking struct {
	TakeOptions
	kind    string // of the run
	run     string // its id
	started time.Time
	seen    *catalog.Seen // the highest seen of the cluster

	mu       sync.Mutex
	seconds  map[string]float64
	warnings []string
	alerts   []string
}

// begin starts a stage; the function that it returns ends it.
func (t *taking) begin(stage string, total int64) (done func(detail string)) {
	start := time.Now()
	t.Progress.Start(stage, total)
	return func(detail string) {
		t.mu.Lock()
		t.seconds[stage] += time.Since(start).Seconds()
		t.mu.Unlock()
		t.Progress.Done(stage, detail)
	}
}

func (t *taking) warn(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	t.mu.Lock()
	t.warnings = append(t.warnings, text)
	t.mu.Unlock()
	t.Log.Warn(text, "cluster", t.Cluster)
}

func (t *taking) alert(text string) {
	t.warn("%s", text)
	t.mu.Lock()
	t.alerts = append(t.alerts, text)
	t.mu.Unlock()
}

func (t *taking) take(ctx context.Context) (Result, error) {
	if err := t.checkHolds(ctx); err != nil {
		return Result{}, err
	}
	source, err := t.look(ctx)
	if err != nil {
		return Result{}, err
	}
	var failures []error
	for i, member := range source.usable {
		if i > 0 {
			t.warn("%s could not be backed up, so %s is asked: %v", source.usable[i-1].Label(), member.Label(), failures[i-1])
		}
		result, err := t.attempt(ctx, source, member)
		var next memberError
		if !errors.As(err, &next) {
			return result, err
		}
		failures = append(failures, next.error)
	}
	if len(failures) == 1 {
		return Result{}, failures[0]
	}
	return Result{}, fmt.Errorf("every member failed: %w", errors.Join(failures...))
}

// checkHolds looks for a restore of this cluster. Its state may be about to be thrown away, and its members may be anything.
func (t *taking) checkHolds(ctx context.Context) error {
	holds, err := t.Repository.Holds(ctx)
	if err != nil {
		t.warn("holds of restores could not be read: %v", err)
	}
	for _, h := range holds {
		if h.Run == t.Run {
			continue
		}
		if t.RefuseHeld {
			return fmt.Errorf("%w: run %s of %s, since %s: no scheduled backup of %s is taken meanwhile (when that restore is dead, finish it with: requorum restore %s --resume)",
				ErrHeld, h.Run, h.Owner, h.Started.UTC().Format(time.RFC3339), t.Cluster, t.Cluster)
		}
		t.warn("a restore is under way (run %s of %s, since %s): this backup shows the cluster in the middle of it", h.Run, h.Owner, h.Started.UTC().Format(time.RFC3339))
	}
	return nil
}

// A source is the cluster as it was found, and the line that its backup belongs to.
type source struct {
	usable  []cluster.MemberStatus // best first
	members []cluster.Member
	line    catalog.Line
	opens   bool // the line is new
}

// look asks the members where they stand, and the repository what it knows of them.
func (t *taking) look(ctx context.Context) (*source, error) {
	done := t.begin(StageChoose, 0)
	defer done("")
	all, err := t.Client.Status(ctx)
	if err != nil {
		return nil, err
	}
	usable, rejected := cluster.Choose(all)
	if len(usable) == 0 {
		return nil, &cluster.Unusable{Rejected: rejected}
	}
	for _, r := range rejected {
		t.warn("%s is not asked: %s", r.Name, r.Why)
	}
	for _, a := range usable[0].Alarms { // every member knows them all
		t.warn("the cluster has a %s alarm about member %016x", a.Type, a.MemberID)
	}
	s := &source{usable: usable}
	if s.members, err = t.Client.Members(ctx); err != nil {
		return nil, err
	}
	// A member may be a moment behind another. What the cluster has reached decides about its line, or a
	// backup from that member right after one from the other would look like a rebuilt cluster.
	seen := catalog.Seen{ClusterID: hexID(usable[0].ClusterID), Time: t.Now().UTC()}
	for _, m := range usable {
		seen.Revision, seen.RaftTerm = max(seen.Revision, m.Revision), max(seen.RaftTerm, m.RaftTerm)
	}
	t.seen = &seen
	var alerts []string
	if s.line, s.opens, alerts, err = t.Repository.Continue(ctx, seen); err != nil {
		return nil, err
	}
	for _, a := range alerts {
		t.alert(a)
	}
	if !s.opens {
		t.seen.Line = s.line.Line
	}
	return s, nil
}

func hexID(id uint64) string { return fmt.Sprintf("%016x", id) }

// record leaves the record of the run in the stores, also of one that failed: it holds the highest revision that was
// seen of the cluster, which a later restore must exceed. It is a courtesy, and never the reason for a failure.
func (t *taking) record(ctx context.Context, result Result, err error) {
	if errors.Is(err, ErrHeld) {
		return // nothing was begun
	}
	run := catalog.Run{
		ID: t.run, Kind: t.kind, Cluster: t.Cluster, Host: t.Host, User: t.User, Version: t.Version,
		Started: t.started.UTC(), Seen: t.seen, Snapshot: result.ID,
	}
	if err := leaveRecord(ctx, t.Repository, run, t.Now(), err); err != nil {
		t.warn("the record of this run is not in every store: %v", err)
	}
}

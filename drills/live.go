package drills

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/requorum/requorum/restore"
	"github.com/requorum/requorum/storage/catalog"
)

// LiveOptions describe a drill on the real members. Whoever calls has made sure that the cluster is meant for that.
type LiveOptions struct {
	Common
	// Restorer restores the cluster, healthy as it is. Source and progress are the drill's own.
	Restorer *restore.Restorer
	// Backup takes the backup that is restored and returns its manifest and the stores that hold it.
	Backup func(ctx context.Context, progress restore.Progress) (catalog.Manifest, []string, error)
}

// RunLive takes a backup, rebuilds the real members from it, and waits for the real agents. Report, error and evidence are as with [Run].
// The old data dirs are kept as by any restore; one that did not come to its end is gone on with, or undone, like any other. An
// interrupted one leaves no report, and the hosts as the error says.
func RunLive(ctx context.Context, o LiveOptions) (Report, error) {
	o.complete()
	l := &live{LiveOptions: o, report: Report{Format: Format, ID: o.ID, Cluster: o.Cluster, Kind: Live, Started: o.Now().UTC(),
		Settings: o.Settings, By: o.By, Versions: o.Versions}}
	l.course.now, l.course.watch = o.Now, o.Progress
	err := l.backedUp(ctx)
	if err == nil {
		err = l.restored(ctx)
	}
	if context.Cause(ctx) != nil {
		return l.report, errors.Join(context.Cause(ctx), err)
	}
	if err == nil {
		err = l.take("objective", func() ([]string, error) { return judge(&l.report, l.Asked) })
	}
	l.report.Steps = l.steps
	return l.finish(ctx, &l.report, l.taken(), err)
}

// live is one execution.
type live struct {
	LiveOptions
	course
	report Report
}

func (l *live) backedUp(ctx context.Context) error {
	return l.take("backup", func() ([]string, error) {
		m, stores, err := l.Backup(ctx, l.Progress)
		if err != nil {
			return nil, err
		}
		l.report.Source = Source{ID: m.ID, Line: m.Line, Revision: m.Revision, Time: m.Time, Stores: stores, Bytes: m.Data.Bytes, Keys: m.Keys, Encrypted: m.Sealed(),
			SHA256: m.Data.SHA256, HashKV: fmt.Sprintf("%08x", m.HashKV.Hash)}
		if m.Member != nil {
			l.report.Source.Etcd = m.Member.ServerVersion
		}
		l.report.Backup = &m.HashKV
		return []string{fmt.Sprintf("backup %s of %s, revision %d, %s, %s, in %s", m.ID, m.Time.Format(time.RFC3339), m.Revision, catalog.Count(m.Keys, "key"), catalog.Size(m.Data.Bytes), strings.Join(stores, ", "))}, nil
	})
}

// taken is the backup that was taken, as a listing shows it.
func (l *live) taken() catalog.Snapshot {
	s := l.report.Source
	return catalog.Snapshot{ID: s.ID, Line: s.Line, Time: s.Time, Stores: s.Stores}.At(s.Revision)
}

func (l *live) restored(ctx context.Context) error {
	r := l.Restorer
	r.At, r.Progress = l.report.Source.ID, &l.course
	for _, m := range r.Members {
		l.report.Members = append(l.report.Members, Member{Name: m.Name, ClientURL: m.ClientURL, Hash: "unknown"})
	}
	l.begin("checks", true) // until the first stage of the restore
	report, err := r.Run(ctx)
	if report.Run != "" {
		l.report.Restore, l.report.Agents = &report, report.Agents
		l.report.RPOSeconds, l.report.RPOBasis = report.RPOSeconds, report.RPOBasis
		l.report.HealthySeconds = report.HealthySeconds
		for i := range l.report.Members {
			m := &l.report.Members[i]
			for _, proven := range report.Members {
				if proven.Name == m.Name {
					m.Healthy, m.Leader, m.Revision, m.Hash = proven.Healthy, proven.Leader, proven.Revision, proven.Hash
				}
			}
		}
		for _, g := range report.Ghosts {
			l.sayOf("edit", fmt.Sprintf("%s removed below %s", catalog.Count(g.Count, "ghost"), g.Prefix))
		}
		for _, c := range report.Proof {
			l.sayOf("prove", fmt.Sprintf("%s: %s: %s", c.Name, c.Status, c.Detail))
		}
		for _, v := range report.Agents {
			l.sayOf("agents", v.Name+": "+v.Verdict)
		}
		l.report.Notes = append(l.report.Notes, report.Notes...)
		l.report.Notes = append(l.report.Notes, "the old data dirs are kept; back to them: "+r.Command+" rollback "+l.Cluster+" "+report.Run)
	}
	switch {
	case err == nil:
		l.report.RTOSeconds = report.RTOSeconds
		return nil
	case errors.Is(err, restore.ErrPartly): // what is missing is told
		l.report.RTOSeconds = report.RTOSeconds
		l.report.Notes = append(l.report.Notes, err.Error())
		return nil
	}
	return l.cut(err, report.Agents)
}

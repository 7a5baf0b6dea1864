package repository

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/catalog"
)

// maxRecords is how many of the newest records are read for the highest revision seen. Each holds the highest of
// its run, so the newest say it all; the rest is for records that do not.
const maxRecords = 100

// Lines returns all lines of all stores in the order in which they were opened. What could not be read comes as an
// error beside the others. A line whose object may not be read (storage.ErrDenied) is known by its key alone: its id and time.
func (r *Repository) Lines(ctx context.Context) ([]catalog.Line, error) {
	found := make([]map[string]catalog.Line, len(r.stores))
	err := r.each(r.stores, func(i int, s Named) error {
		found[i] = map[string]catalog.Line{}
		var bad []error
		for o, err := range s.Store.List(ctx, catalog.LinesPrefix, "") {
			if err != nil {
				return errors.Join(append(bad, err)...)
			}
			id, t, ok := catalog.ParseLineKey(o.Key)
			if !ok {
				continue
			}
			l := catalog.Line{Line: id, Time: t}
			b, err := get(ctx, s.Store, o.Key)
			if err == nil {
				l, err = catalog.ParseLine(o.Key, b)
			}
			if err != nil && !errors.Is(err, storage.ErrDenied) {
				bad = append(bad, err)
				continue
			}
			found[i][id] = l
		}
		return errors.Join(bad...)
	})
	if err != nil {
		err = fmt.Errorf("lines of %s: %w", r.cluster, err)
	}
	all := map[string]catalog.Line{}
	for _, lines := range found {
		for id, l := range lines {
			if known, seen := all[id]; !seen || known.ClusterID == "" {
				all[id] = l
			}
		}
	}
	lines := slices.Collect(maps.Values(all))
	catalog.SortLines(lines)
	return lines, err
}

// OpenLine writes the object that opens l to every store. An error names the stores that did not take it; [ErrNoStore] if none
// did. [Repository.Copy] brings the line with a backup.
func (r *Repository) OpenLine(ctx context.Context, l catalog.Line) error {
	if err := l.Check(catalog.LineKey(l)); err != nil {
		return err
	}
	if err := r.putAll(ctx, catalog.LineKey(l), l, put); err != nil {
		return fmt.Errorf("opening line %s: %w", l.Line, err)
	}
	return nil
}

// Newest returns the highest that is recorded of each line, imports left aside: from its newest backup, and from the
// records of runs since. Raft terms are in manifests, of which one is read for each line. What a store did not tell comes as an error
// beside what the others did.
func (r *Repository) Newest(ctx context.Context) (map[string]catalog.Seen, error) {
	lines, lineErr := r.Lines(ctx)
	snaps, snapErr := r.Snapshots(ctx)
	newest, err := r.newest(ctx, lines, snaps, func(catalog.Line) bool { return true })
	return newest, errors.Join(lineErr, snapErr, err)
}

// newest is Newest with raft terms only of the lines that matter.
func (r *Repository) newest(ctx context.Context, lines []catalog.Line, snaps []catalog.Snapshot, matters func(catalog.Line) bool) (newest map[string]catalog.Seen, unknown error) {
	newest = map[string]catalog.Seen{}
	last := map[string]catalog.Snapshot{}
	for _, s := range snaps {
		if s.Revision >= last[s.Line].Revision {
			last[s.Line] = s
		}
		seen := newest[s.Line]
		newest[s.Line] = seen.Higher(catalog.Seen{Line: s.Line, Revision: s.Revision, Time: s.Time})
	}
	var since time.Time
	for _, l := range lines {
		if l.Source == catalog.LineImport {
			delete(newest, l.Line)
			continue
		}
		seen, ok := newest[l.Line]
		if !ok {
			continue
		}
		seen.ClusterID = l.ClusterID
		if matters(l) {
			m, err := r.Manifest(ctx, last[l.Line])
			seen.RaftTerm = m.RaftTerm
			if err != nil {
				unknown = errors.Join(unknown, fmt.Errorf("the raft term of line %s is unknown: %w", l.Line, err))
			}
		}
		newest[l.Line] = seen
		if since.IsZero() || seen.Time.After(since) {
			since = seen.Time
		}
	}
	runs, err := r.runs(ctx, since, maxRecords)
	unknown = errors.Join(unknown, err)
	imports := map[string]bool{}
	for _, l := range lines {
		imports[l.Line] = l.Source == catalog.LineImport
	}
	for _, run := range runs {
		if run.Seen != nil && run.Seen.Line != "" && !imports[run.Seen.Line] {
			newest[run.Seen.Line] = newest[run.Seen.Line].Higher(*run.Seen)
		}
	}
	return newest, unknown
}

// Continue says which line a backup of the observed cluster belongs to, by the rules of [catalog.Continue]. If opened is
// true the line is new: it has an id and everything else, and is there only after [Repository.OpenLine].
//
// Taking a backup must not hang on what can be read: a store that does not answer, or credentials that may not read, leave lines
// to be told apart by what is known, down to the revisions that a listing shows, and an alert says so unless one store told all that it has: each
// holds every line. Only if no store can be listed is there an error.
func (r *Repository) Continue(ctx context.Context, observed catalog.Seen) (line catalog.Line, opened bool, alerts []string, err error) {
	lines, lineErr := r.Lines(ctx)
	snaps, snapErr := r.Snapshots(ctx)
	if len(lines) == 0 && lineErr != nil || len(snaps) == 0 && snapErr != nil {
		return catalog.Line{}, false, nil, errors.Join(lineErr, snapErr)
	}
	unread := false
	for i := range lines {
		if lines[i].Source == "" {
			lines[i].ClusterID, unread = observed.ClusterID, true
		}
	}
	newest, err := r.newest(ctx, lines, snaps, func(l catalog.Line) bool { return l.ClusterID == observed.ClusterID })
	if ctx.Err() != nil {
		return catalog.Line{}, false, nil, context.Cause(ctx)
	}
	if unread {
		alerts = append(alerts, "the credentials may not read the objects under "+catalog.LinesPrefix+
			": another cluster under this name goes unnoticed as long as its revision is higher; allow reading them")
	} else if partial := errors.Join(lineErr, snapErr, err); partial != nil {
		silent := map[string]bool{}
		for _, e := range StoreErrors(partial) {
			silent[e.Store] = true
		}
		if len(silent) == 0 || len(silent) == len(r.stores) {
			alerts = append(alerts, "the line was chosen by what could be read: "+partial.Error())
		} else {
			r.log.Warn("the line was chosen by what some stores hold", "cluster", r.cluster, "error", partial)
		}
	}
	id, open, more := catalog.Continue(lines, newest, observed)
	alerts = append(alerts, more...)
	if open != nil {
		open.Line, open.Cluster = catalog.NewID(catalog.KindLine), r.cluster
		return *open, true, alerts, nil
	}
	i := slices.IndexFunc(lines, func(l catalog.Line) bool { return l.Line == id })
	return lines[i], false, alerts, nil
}

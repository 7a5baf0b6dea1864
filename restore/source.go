package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/repository"
)

// A source is somewhere a database can come from, chosen but not yet fetched.
type source struct {
	Source
	serverVersion string   // of the servers it was taken from, empty if unknown
	trailer       bool     // the file must end with etcd's checksum
	size          int64    // of the database in bytes, as far as known
	members       []string // voting members of the cluster it was taken from, if known
	undone        []string // with a rollback: members of the cluster that it undoes
	// fetch writes the checked database to dst.
	fetch func(ctx context.Context, dst *os.File, progress func(int64)) error
	// manifest is what the database must be, nil if nobody said.
	manifest *catalog.Manifest
	// rival is the newest backup, which a survivor is chosen over; nil if there is none.
	rival *catalog.Manifest
}

// agrees returns an error unless a database is the one that the source's manifest describes: all checksums of the stored bytes can be right
// although it is another one.
func (s *source) agrees(r dbfile.Report) error {
	m := s.manifest
	if m == nil {
		return nil
	}
	for _, c := range []struct {
		name        string
		found, want any
	}{
		{"revision", r.Revision, m.Revision},
		{"HashKV", fmt.Sprintf("%08x", r.HashKV.Hash), fmt.Sprintf("%08x", m.HashKV.Hash)},
		{"key count", r.Keys, m.Keys},
		{"hash of the leases", r.LeaseHash, m.LeaseHash},
		{"hash of users and roles", r.AuthHash, m.AuthHash},
	} {
		if c.found != c.want {
			return fmt.Errorf("%w: backup %s is not what its manifest says: the %s is %v, not %v; choose another backup with --at",
				repository.ErrVerify, s.ID, c.name, c.found, c.want)
		}
	}
	return nil
}

// recent is how young a backup of another line must be to make the choice a question.
const recent = 7 * 24 * time.Hour

// chooseSource picks what to restore: what --from names, else the freshest of stored backups and survivors. The error may join
// [Refusal]s for a choice that only the operator can make.
func (r *Restorer) chooseSource(ctx context.Context, known *known, o *observed) (*source, error) {
	kind, name, _ := strings.Cut(r.From, ":")
	switch kind {
	case "":
		return r.chooseFreshest(ctx, known, o)
	case "store":
		return r.chooseStored(ctx, known, name)
	case "survivor":
		if r.Elsewhere != nil {
			return r.chooseOldSurvivor(ctx, known, name)
		}
		return r.chooseSurvivor(ctx, known, o, name)
	case "file":
		return fileSource(name)
	}
	return nil, fmt.Errorf("--from %s: expected store, store:NAME, survivor:MEMBER or file:PATH", r.From)
}

// fileSource is an etcd snapshot in a file.
func fileSource(path string) (*source, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("%w: --from file:%s: %w", ErrNothingToRestore, path, err)
	}
	return &source{
		Source: Source{Kind: "file", ID: path, Where: path, Time: info.ModTime().UTC(), Note: "its time is when the file was written"},
		size:   info.Size(),
		fetch: func(ctx context.Context, dst *os.File, progress func(int64)) error {
			return copyFile(ctx, dst, path, progress)
		},
	}, nil
}

// chooseStored picks a stored backup, and asks about it; store limits that to what the named store holds.
func (r *Restorer) chooseStored(ctx context.Context, known *known, store string) (*source, error) {
	src, ask, err := r.findStored(ctx, known, store)
	if err == nil {
		err = ask()
	}
	if err != nil {
		return nil, err
	}
	return src, nil
}

// findStored is chooseStored that leaves the asking to its caller: ask returns the [Refusal]s.
func (r *Restorer) findStored(ctx context.Context, known *known, store string) (src *source, ask func() error, err error) {
	snaps := known.snaps
	if store != "" {
		snaps = slices.DeleteFunc(slices.Clone(snaps), func(s catalog.Snapshot) bool { return !slices.Contains(s.Stores, store) })
		for i := range snaps {
			snaps[i] = snaps[i].In(store)
		}
	}
	ref := r.At
	if ref == "" {
		ref = "latest"
	}
	snap, note, err := catalog.Find(known.lines, snaps, ref, r.Now())
	if err != nil {
		if errors.Is(err, ErrNothingToRestore) {
			err = fmt.Errorf("%w\n  looked at: %s", err, known.lookedAt(store))
		}
		return nil, nil, errors.Join(err, known.err)
	}
	m, err := r.origin().Manifest(ctx, snap)
	if err != nil {
		return nil, nil, fmt.Errorf("read the manifest of backup %s: %w", snap.ID, err)
	}
	if snap.Failed() {
		note = strings.TrimPrefix(note+"; its last verification failed", "; ")
	}
	src = &source{
		Source: Source{Kind: "store", ID: snap.ID, Where: strings.Join(snap.Stores, ", "), Line: snap.Line, Revision: snap.Revision,
			Time: snap.Time, Note: note, Candidates: candidates(known.lines, snaps, snap)},
		size:     m.Data.Bytes,
		manifest: &m,
		fetch: func(ctx context.Context, dst *os.File, progress func(int64)) error {
			return r.origin().Fetch(ctx, snap, m, dst, progress)
		},
	}
	if m.Member != nil {
		src.serverVersion = m.Member.ServerVersion
	}
	for _, member := range m.Members {
		if !member.Learner {
			src.members = append(src.members, member.Name)
		}
	}
	src.trailer = m.Source != catalog.SourceImport
	return src, func() error {
		if r.At != "" {
			return nil
		}
		return r.askChoice(ctx, known, snaps, snap, m)
	}, nil
}

// askChoice refuses to choose silently between histories, or a backup that holds far less than the one before.
func (r *Restorer) askChoice(ctx context.Context, known *known, snaps []catalog.Snapshot, chosen catalog.Snapshot, m catalog.Manifest) error {
	imports := map[string]bool{}
	opened := map[string]catalog.Line{}
	for _, l := range known.lines {
		imports[l.Line] = l.Source == catalog.LineImport
		opened[l.Line] = l
	}
	var refusals []agents.Refusal
	newest := map[string]catalog.Snapshot{}
	var before *catalog.Snapshot
	for _, s := range snaps {
		switch {
		case s.Failed() || imports[s.Line] || s.ID == chosen.ID:
		case s.Line == chosen.Line:
			if s.Revision <= chosen.Revision && s.Time.Before(chosen.Time) && (before == nil || s.Revision > before.Revision) {
				before = &s
			}
		case s.Time.After(newest[s.Line].Time):
			newest[s.Line] = s
		}
	}
	for _, s := range newest {
		// The line that a restore of ours left behind is no rival: its backups are older than the new line.
		if line := opened[chosen.Line]; line.Run != "" && !s.Time.After(line.Time) {
			continue
		}
		if r.Now().Sub(s.Time) > recent && chosen.Time.Sub(s.Time) > 0 {
			continue
		}
		refusals = append(refusals, agents.Refusal{
			What: fmt.Sprintf("two histories have recent backups: %s of %s (revision %d, line %s, the current one) and %s of %s (revision %d, line %s)",
				chosen.ID, stamp(chosen.Time), chosen.Revision, chosen.Line, s.ID, stamp(s.Time), s.Revision, s.Line),
			Risk: "the one that is not restored is lost, apart from its backups; they may also be two clusters under one name",
			Flag: fmt.Sprintf("--at %s or --at %s", chosen.ID, s.ID),
		})
	}
	if before != nil {
		earlier, err := r.origin().Manifest(ctx, *before)
		if err == nil && m.Keys*2 < earlier.Keys {
			refusals = append(refusals, agents.Refusal{
				What: fmt.Sprintf("backup %s of %s holds %d keys, the one before it, %s of %s, held %d",
					chosen.ID, stamp(chosen.Time), m.Keys, before.ID, stamp(before.Time), earlier.Keys),
				Risk: "the newest backup may be of a cluster whose keys had been deleted by mistake; the older one lacks what was written since",
				Flag: fmt.Sprintf("--at %s or --at %s", chosen.ID, before.ID),
			})
		}
	}
	return agents.JoinRefusals(refusals)
}

// candidates lists the best backups of each line, with what speaks against those passed over.
func candidates(lines []catalog.Line, snaps []catalog.Snapshot, chosen catalog.Snapshot) []Candidate {
	const most = 5
	current, _ := catalog.Current(lines)
	snaps = slices.Clone(snaps)
	slices.SortStableFunc(snaps, func(a, b catalog.Snapshot) int { return b.Time.Compare(a.Time) })
	var found []Candidate
	for _, s := range snaps {
		c := Candidate{Kind: "store", ID: s.ID, Where: strings.Join(s.Stores, ", "), Line: s.Line, Revision: s.Revision, Time: s.Time, Chosen: s.ID == chosen.ID,
			Proven: proven(s)}
		switch {
		case c.Chosen:
			c.Why = "chosen"
		case s.Failed():
			c.Why = "its last verification failed"
		case s.Line != current.Line:
			c.Why = "not of the current line"
		case s.Revision < chosen.Revision, s.Revision == chosen.Revision && s.Time.Before(chosen.Time):
			c.Why = "older"
		default:
			c.Why = "newer than what was asked for"
		}
		if c.Chosen || len(found) < most {
			found = append(found, c)
		}
	}
	return found
}

// proven says what is known of a backup's content.
func proven(s catalog.Snapshot) string {
	switch {
	case s.Failed():
		return "its verification failed at " + stamp(s.FailedAt)
	case s.Drilled.Failed:
		return "its drill failed at " + stamp(s.Drilled.Time)
	case s.Drilled.Known() && s.Drilled.Time.After(s.VerifiedAt):
		return "restored in a drill at " + stamp(s.Drilled.Time)
	case !s.VerifiedAt.IsZero():
		return "verified at " + stamp(s.VerifiedAt)
	}
	return "checked when it was taken"
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// known is everything that the stores say about the cluster.
type known struct {
	snaps []catalog.Snapshot
	lines []catalog.Line
	runs  []catalog.Run
	// before is what the stores say of the new cluster's own name, with a restore elsewhere
	before *known
	err    error // of stores that did not answer, beside what the others say
}

// backupRun is the kind of the records that taking a backup leaves.
const backupRun = "backup"

// recordsFor is how far back records are read. Older revisions stand in backups, too.
const recordsFor = 35 * 24 * time.Hour

// look reads the stores. A store that is down is noted; that all are is found out when nothing can be chosen.
func (r *Restorer) look(ctx context.Context) (*known, error) {
	k, err := r.lookIn(ctx, r.origin())
	if err == nil {
		err = r.lookElsewhere(ctx, k)
	}
	return k, err
}

func (r *Restorer) lookIn(ctx context.Context, repo Repository) (*known, error) {
	k := &known{}
	var errs [3]error
	var listings sync.WaitGroup
	listings.Go(func() { k.snaps, errs[0] = repo.Snapshots(ctx) })
	listings.Go(func() { k.lines, errs[1] = repo.Lines(ctx) })
	listings.Go(func() { k.runs, errs[2] = repo.Runs(ctx, r.Now().Add(-recordsFor)) })
	listings.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	k.err = errors.Join(errs[:]...)
	return k, nil
}

func (k *known) lookedAt(store string) string {
	s := catalog.Count(len(k.snaps), "backup") + " in " + catalog.Count(len(k.lines), "line")
	if store != "" {
		s += " of store " + store
	}
	if k.err != nil {
		s += "; not every store answered: " + k.err.Error()
	}
	return s
}

// highest is the highest revision that was ever known, and where from.
func (k *known) highest() (rev int64, from string) {
	take := func(r int64, format string, args ...any) {
		if r > rev {
			rev, from = r, fmt.Sprintf(format, args...)
		}
	}
	for _, s := range k.snaps {
		take(s.Revision, "backup %s", s.ID)
	}
	for _, l := range k.lines {
		take(l.FirstRevision, "line %s", l.Line)
	}
	for _, run := range k.runs {
		if run.Seen != nil {
			take(run.Seen.Revision, "record of run %s", run.ID)
		}
	}
	if k.before != nil {
		if r, where := k.before.highest(); r > rev {
			return r, where
		}
	}
	return rev, from
}

// lastServed is the last moment that the stores know the cluster to have served. The record of the run that took the
// backup source is no news: it is of the same moment, and would make every backup without a later one an RPO of nothing.
func (k *known) lastServed(source string) Moment {
	var m Moment
	take := func(t time.Time, format string, args ...any) {
		if t.After(m.Time) {
			m = Moment{Time: t.UTC(), Basis: fmt.Sprintf(format, args...)}
		}
	}
	imports := map[string]bool{}
	for _, l := range k.lines {
		imports[l.Line] = l.Source == catalog.LineImport
	}
	for _, s := range k.snaps {
		if !imports[s.Line] {
			take(s.Time, "backup %s", s.ID)
		}
	}
	for _, run := range k.runs {
		if run.Seen != nil && (run.Snapshot != source || run.Kind != backupRun) {
			take(run.Seen.Time, "record of run %s", run.ID)
		}
	}
	return m
}

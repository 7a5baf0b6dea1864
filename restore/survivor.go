package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/storage/catalog"
)

// A survivor is a member whose data outlived its cluster: the dirs of one that is stopped, or one that runs without a quorum.
type survivor struct {
	Placed
	log      RaftLog
	running  bool
	status   *cluster.MemberStatus // of one that runs and answers
	from     string                // "" for the present dirs, else the run that kept them
	revision int64                 // that its database has at least
}

// survivors are the members that have data, the most advanced first: by term and index of the last entry in their logs, as raft's own elections
// go. With a run, those whose dirs it kept, or has not touched. One that nothing can be read of is an error beside the others.
func (r *Restorer) survivors(ctx context.Context, statuses []cluster.MemberStatus, run string) (found []survivor, unreadable []error, err error) {
	targets := r.targets()
	states := make([]State, len(targets))
	errs := make([]error, len(targets))
	_ = each(ctx, targets, func(ctx context.Context, i int, m Placed) error {
		states[i], errs[i] = m.On.Inspect(ctx, InspectRequest{Member: m.Member, Run: run, Log: true})
		return nil
	})
	if err := context.Cause(ctx); err != nil {
		return nil, nil, err
	}
	for i, s := range states {
		if errs[i] != nil {
			unreadable = append(unreadable, errs[i])
			continue
		}
		if s.Log == nil || run != "" && s.Journal == nil {
			continue
		}
		one := survivor{Placed: targets[i], log: *s.Log, running: !s.Stopped(), revision: s.Log.DBRevision}
		if s.Before != "" && run != "" {
			one.from, one.running = run, false
		}
		for _, st := range statuses {
			if one.running && st.Err == nil && st.Endpoint == one.ClientURL {
				one.status, one.revision, one.log.DBIndex = &st, st.Revision, st.RaftAppliedIndex
				if one.log.Problem != "" {
					one.log.Term, one.log.Index, one.log.ClusterID = st.RaftTerm, st.RaftIndex, hexID(st.ClusterID)
				}
			}
		}
		found = append(found, one)
	}
	slices.SortStableFunc(found, func(a, b survivor) int { return b.log.compare(a.log) })
	return found, unreadable, nil
}

// compare orders logs as an election does.
func (l RaftLog) compare(o RaftLog) int {
	return cmp.Or(cmp.Compare(l.Term, o.Term), cmp.Compare(l.Index, o.Index))
}

// log is how far the log of a survivor in the table goes.
func (c Candidate) log() RaftLog { return RaftLog{Term: c.Term, Index: c.Index} }

// most is the highest revision that the survivor can have: each entry in its log that its database lacks makes one at most. A database
// that was never written out since its member was made stands at index 0.
func (s survivor) most() int64 {
	if s.revision == 0 { // its database was not read
		return math.MaxInt64
	}
	return s.revision + int64(s.log.Index-min(s.log.Index, s.log.DBIndex))
}

// candidate is the survivor's row in the table.
func (s survivor) candidate(kind string) Candidate {
	c := Candidate{Kind: kind, ID: s.Name, Where: s.Host + " " + s.DataDir, Term: s.log.Term, Index: s.log.Index, Revision: s.revision, Time: s.log.Written}
	switch {
	case s.log.Problem != "":
		c.Proven = "its log cannot be read: " + s.log.Problem
	case s.log.Damage != "":
		c.Proven = "its log is damaged, and read up to there: " + s.log.Damage
	default:
		c.Proven = "its log was read to the end"
	}
	if s.running {
		c.Proven += ", it runs without a quorum"
	}
	return c
}

// table is the survivors as a person compares them.
func table(found []survivor) string {
	var b strings.Builder
	for _, s := range found {
		fmt.Fprintf(&b, "\n    %-12s term %d, index %d, revision %d or more, last written %s, cluster id %s; %s",
			s.Name, s.log.Term, s.log.Index, s.revision, stamp(s.log.Written), s.log.ClusterID, s.candidate("").Proven)
	}
	return b.String()
}

// chooseFreshest compares the stored backups with the members whose data survived. While the cluster serves, nothing of it is lost
// to survivors, so then only backups count; so they do for a moment or a revision that was asked for.
func (r *Restorer) chooseFreshest(ctx context.Context, known *known, o *observed) (*source, error) {
	if r.At != "" || len(o.healthy) > 0 || r.Replay == nil || r.Elsewhere != nil {
		return r.chooseStored(ctx, known, "")
	}
	stored, ask, storedErr := r.findStored(ctx, known, "")
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	refused := error(nil)
	if stored != nil {
		refused = ask()
	}
	all, unreadable, err := r.survivors(ctx, o.statuses, "")
	if err != nil {
		return nil, err
	}
	ahead := all // of the backup, or perhaps so
	if stored != nil {
		ahead = slices.DeleteFunc(slices.Clone(all), func(s survivor) bool { return s.most() <= stored.Revision })
	}
	if len(ahead) == 0 {
		if storedErr != nil || refused != nil {
			return nil, errors.Join(storedErr, refused)
		}
		for _, s := range all {
			c := s.candidate("survivor")
			c.Why = "not ahead of the backup"
			stored.Candidates = append(stored.Candidates, c)
		}
		if len(unreadable) > 0 {
			stored.Note = strings.TrimPrefix(fmt.Sprintf("%s; not every member's data could be looked at: %v", stored.Note, errors.Join(unreadable...)), "; ")
		}
		return stored, nil
	}
	best := ahead[0]
	if err := errors.Join(orSurvivor(refused, best), r.askSurvivor(known, ahead, stored)); err != nil {
		return nil, err
	}
	src := r.survivorSource(known, best, all)
	src.Note = "the freshest of all: " + src.Note
	if len(unreadable) > 0 {
		src.Note += fmt.Sprintf("; not every member's data could be looked at: %v", errors.Join(unreadable...))
	}
	switch {
	case stored != nil:
		src.serverVersion = cmp.Or(src.serverVersion, stored.serverVersion)
		src.rival = stored.manifest
		for _, c := range stored.Candidates {
			if c.Chosen {
				c.Chosen, c.Why = false, "older than the survivor"
			}
			src.Candidates = append(src.Candidates, c)
		}
	case !errors.Is(storedErr, ErrNothingToRestore):
		src.Note += fmt.Sprintf("; no backup to compare it with: %v", storedErr)
	}
	return src, nil
}

// askSurvivor refuses to choose silently between histories, or to leave out what cannot be read as things stand.
func (r *Restorer) askSurvivor(known *known, ahead []survivor, stored *source) error {
	var refusals []agents.Refusal
	best := ahead[0]
	var flags []string
	several := false
	for _, s := range ahead {
		flags = append(flags, "--from survivor:"+s.Name)
		several = several || s.log.ClusterID != best.log.ClusterID
	}
	if stored != nil {
		flags = append(flags, "--from store")
	}
	choice := strings.Join(flags, " or ")
	current, lines := catalog.Current(known.lines)
	switch {
	case several:
		refusals = append(refusals, agents.Refusal{
			What: "members of more than one cluster have data here that may be newer than every backup:" + table(ahead),
			Risk: "what the others hold is lost, apart from their data dirs, which are kept",
			Flag: choice,
		})
	case lines && current.ClusterID != best.log.ClusterID && best.log.ClusterID != "":
		refusals = append(refusals, agents.Refusal{
			What: fmt.Sprintf("the members' data is of another history (cluster id %s) than the newest backups (line %s, cluster id %s):%s",
				best.log.ClusterID, current.Line, current.ClusterID, table(ahead)),
			Risk: "the history that is not chosen is lost, apart from its backups and data dirs",
			Flag: choice,
		})
	}
	if best.running && best.status == nil {
		refusals = append(refusals, agents.Refusal{
			What: fmt.Sprintf("%s runs without a quorum and holds the freshest data, but does not let its database be read (etcd cannot check a password without a quorum):%s", best.Name, table(ahead)),
			Risk: "without it, what it alone holds is lost; stop its etcd and call this again: a stopped member's data dir is read",
			Flag: strings.Join(flags[1:], " or "),
		})
	}
	return agents.JoinRefusals(refusals)
}

// orSurvivor adds a survivor to the choice between backups.
func orSurvivor(refused error, s survivor) error {
	refusals, _ := agents.SplitRefusals(refused)
	for i := range refusals {
		refusals[i].Flag += " or --from survivor:" + s.Name
	}
	return agents.JoinRefusals(refusals)
}

// chooseSurvivor is the one that --from names.
func (r *Restorer) chooseSurvivor(ctx context.Context, known *known, o *observed, name string) (*source, error) {
	if len(o.healthy) > 0 {
		return nil, fmt.Errorf("--from survivor:%s: cluster %s serves with a quorum, and so nothing of it needs to be recovered: take a backup with %q", name, r.Cluster, r.command("backup"))
	}
	found, unreadable, err := r.survivors(ctx, o.statuses, "")
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(found, func(s survivor) bool { return s.Name == name })
	if i < 0 {
		return nil, errors.Join(fmt.Errorf("%w: --from survivor:%s: no member of that name has data; those that have:%s", ErrNothingToRestore, name, cmp.Or(table(found), " none")), errors.Join(unreadable...))
	}
	src := r.survivorSource(known, found[i], found)
	if len(unreadable) > 0 {
		src.Note += fmt.Sprintf("; not every member's data could be looked at: %v", errors.Join(unreadable...))
	}
	return src, nil
}

// survivorSource makes a survivor the source.
func (r *Restorer) survivorSource(known *known, s survivor, all []survivor) *source {
	src := r.recoveredSource(s, all, "survivor")
	src.ID, src.Where = s.Name, s.Host+" "+s.DataDir
	for _, l := range known.lines {
		if l.Source != catalog.LineImport && l.ClusterID == s.log.ClusterID {
			src.Line = l.Line
		}
	}
	return src
}

// recoveredSource recovers a survivor's data on a copy.
func (r *Restorer) recoveredSource(s survivor, all []survivor, kind string) *source {
	src := &source{Source: Source{Kind: kind, Revision: s.revision, Time: s.log.Written, Term: s.log.Term, Index: s.log.Index,
		Note: fmt.Sprintf("the data of %s, raft term %d, index %d", s.Name, s.log.Term, s.log.Index)}, size: s.log.DBBytes,
		serverVersion: s.log.Version}
	if s.status != nil {
		src.serverVersion, src.size = s.status.Version, s.status.DBSize
	}
	if s.log.Damage != "" {
		src.Note += "; its log is damaged (" + s.log.Damage + "), and what came after is lost"
	}
	for _, other := range all {
		src.serverVersion = cmp.Or(src.serverVersion, other.log.Version)
		c := other.candidate(kind)
		switch order := other.log.compare(s.log); {
		case other.Name == s.Name:
			c.Chosen, c.Why = true, "chosen"
		case order == 0:
			c.Why = "as far on as the chosen one"
		case order < 0:
			c.Why = "behind: by term and index of its log"
		default:
			c.Why = "further on, but not asked for"
		}
		src.Candidates = append(src.Candidates, c)
	}
	src.fetch = func(ctx context.Context, dst *os.File, progress func(int64)) error {
		replayed, err := r.recoverCopy(ctx, s, dst, progress)
		if err != nil {
			return fmt.Errorf("%w; another source is chosen with --from", err)
		}
		if replayed != "" {
			src.Note += "; " + replayed
		}
		return nil
	}
	return src
}

// recoverCopy writes to dst the database of a survivor, brought to where its log ends. Nothing of the survivor's is changed.
func (r *Restorer) recoverCopy(ctx context.Context, s survivor, dst *os.File, progress func(int64)) (replayed string, err error) {
	if err := r.fetchDB(ctx, s, dst, progress); err != nil {
		return "", err
	}
	report, err := dbfile.CheckInChild(ctx, dst, dbfile.CheckOptions{TrailerRequired: s.running})
	if err != nil {
		return "", fmt.Errorf("check the database of %s: %w", s.Name, err)
	}
	if s.log.Problem != "" {
		return "its raft log could not be read (" + s.log.Problem + "), so that what only the log held is lost", nil
	}
	if s.log.Index <= report.ConsistentIndex {
		return "", nil
	}
	if r.Replay == nil {
		return "", fmt.Errorf("%s has writes in its raft log alone, and nothing was given to apply them with", s.Name)
	}
	r.Progress.Start("replay", 0)
	dir := strings.TrimSuffix(dst.Name(), filepath.Ext(dst.Name())) + ".replay"
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", fmt.Errorf("make a directory in the spool: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	data := filepath.Join(dir, "data")
	recovery, err := r.stageLog(ctx, s, dst, report.ConsistentIndex, data)
	if err != nil {
		return "", fmt.Errorf("recover %s on a copy: %w", s.Name, err)
	}
	if recovery.Log.Term < s.log.Term || recovery.Log.Index < s.log.Index {
		return "", fmt.Errorf("recover %s on a copy: its log ended at term %d, index %d when it was looked at, and now at %d, %d", s.Name, s.log.Term, s.log.Index, recovery.Log.Term, recovery.Log.Index)
	}
	if err := r.Replay(ctx, data); err != nil {
		return "", fmt.Errorf("recover %s on a copy: %w", s.Name, err)
	}
	path, err := recovery.Finish(data)
	if err != nil {
		return "", err
	}
	if err = dst.Truncate(0); err == nil {
		_, err = dst.Seek(0, io.SeekStart)
	}
	if err == nil {
		err = copyFile(ctx, dst, path, nil)
	}
	if err != nil {
		return "", fmt.Errorf("copy the recovered database: %w", err)
	}
	replayed = fmt.Sprintf("%d entries that only its raft log held were applied", recovery.Replayed)
	r.Progress.Done("replay", replayed)
	return replayed, nil
}

// fetchDB brings the survivor's database file. One that runs streams it itself: that writes out its batch, and no file is read under its feet.
func (r *Restorer) fetchDB(ctx context.Context, s survivor, dst *os.File, progress func(int64)) error {
	if !s.running {
		return s.On.Fetch(ctx, FetchRequest{Member: s.Member, Before: s.from}, progressWriter{dst, progress})
	}
	c, err := r.Connect([]string{s.ClientURL})
	if err != nil {
		return fmt.Errorf("connect to %s: %w", s.Name, err)
	}
	defer func() { _ = c.Close() }() // what was asked has been answered
	stream, err := c.Snapshot(ctx, s.ClientURL, time.Minute)
	if err != nil {
		return fmt.Errorf("the database of %s, which runs without a quorum: %w; stop its etcd and call this again: a stopped member's data dir is read", s.Name, err)
	}
	_, err = io.Copy(progressWriter{dst, progress}, stream)
	return errors.Join(err, stream.Close())
}

// stageLog builds a data dir of the database in db and what the survivor's log has beyond it.
func (r *Restorer) stageLog(ctx context.Context, s survivor, db *os.File, at uint64, data string) (dbfile.Recovery, error) {
	if _, err := db.Seek(0, io.SeekStart); err != nil {
		return dbfile.Recovery{}, err
	}
	read, write := io.Pipe()
	fetched := make(chan error, 1)
	go func() {
		err := s.On.Fetch(ctx, FetchRequest{Member: s.Member, Before: s.from, Log: true, After: at}, write)
		write.CloseWithError(err)
		fetched <- err
	}()
	recovery, err := dbfile.StageRecovery(ctx, data, db, at, read)
	read.CloseWithError(err) // or nobody would read on
	if fetchErr := <-fetched; err == nil {
		err = fetchErr
	}
	return recovery, err
}

// doubts are what a survivor's database itself raises against it.
func (s *source) doubts(r dbfile.Report) (refusals []agents.Refusal) {
	b := s.rival
	if b == nil {
		return nil
	}
	if r.Keys*2 < b.Keys {
		refusals = append(refusals, agents.Refusal{
			What: fmt.Sprintf("the data of %s holds %d keys, the newest backup, %s of %s, held %d", s.ID, r.Keys, b.ID, stamp(b.Time), b.Keys),
			Risk: "keys may have been deleted by mistake; the backup lacks what was written since",
			Flag: fmt.Sprintf("--from survivor:%s or --from store", s.ID),
		})
	}
	if r.Revision < b.Revision {
		refusals = append(refusals, agents.Refusal{
			What: fmt.Sprintf("the data of %s goes to revision %d, the newest backup, %s of %s, to %d", s.ID, r.Revision, b.ID, stamp(b.Time), b.Revision),
			Risk: "what was written between is lost",
			Flag: fmt.Sprintf("--from store or --from survivor:%s", s.ID),
		})
	}
	return refusals
}

// overtaken makes sure, once every member is stopped, that none has gone on since the survivor was chosen: it could have acknowledged writes
// that the prepared database lacks.
func (x *execution) overtaken(ctx context.Context) error {
	p := x.plan.Source
	if p.Kind != "survivor" || x.reverting() {
		return nil
	}
	holder, run, err := x.holder(x.plan.Run)
	if err != nil {
		return err
	}
	found, unreadable, err := holder.survivors(ctx, nil, run)
	if err == nil && x.Elsewhere == nil { // of an old cluster elsewhere a member may be lost for good; what can be read was read
		err = errors.Join(unreadable...)
	}
	if err != nil {
		return fmt.Errorf("look once more at what the members hold: %w", err)
	}
	for _, s := range found {
		if s.log.compare(RaftLog{Term: p.Term, Index: p.Index}) > 0 && !slices.ContainsFunc(p.Candidates, func(c Candidate) bool {
			return c.ID == s.Name && s.log.compare(c.log()) == 0
		}) {
			return &HostError{Code: HostChanged, Member: s.Name,
				What: fmt.Sprintf("its raft log went on to term %d, index %d since %s was chosen at term %d, index %d: the cluster had a quorum again meanwhile, and may have taken writes",
					s.log.Term, s.log.Index, p.ID, p.Term, p.Index),
				Advice: "undo this run, see whether the cluster serves again, and if not, plan anew"}
		}
	}
	return nil
}

// survivorAgain finds the member again whose data a plan made earlier restores: the present dirs, or those that this run or one that
// it rolls back kept.
func (x *execution) survivorAgain(ctx context.Context) (*source, error) {
	p := x.plan.Source
	holder, name, run := x.Restorer, p.ID, x.plan.Run
	var statuses []cluster.MemberStatus
	if p.Kind == "before" {
		name, run = p.Where, p.ID
	} else {
		var err error
		if holder, run, err = x.holder(run); err != nil {
			return nil, err
		}
		c, err := holder.Connect(holder.endpoints(holder.targets()))
		if err != nil {
			return nil, fmt.Errorf("connect to cluster %s: %w", holder.Cluster, err)
		}
		defer func() { _ = c.Close() }() // nothing was written through it
		if statuses, err = c.Status(ctx); err != nil {
			return nil, err
		}
	}
	found, unreadable, err := holder.survivors(ctx, statuses, run)
	if err != nil {
		return nil, err
	}
	for _, s := range found {
		if s.Name == name && s.log.compare(RaftLog{Term: p.Term, Index: p.Index}) >= 0 {
			src := holder.recoveredSource(s, found, p.Kind)
			src.ID, src.Where, src.Line, src.Time = p.ID, p.Where, p.Line, p.Time
			return src, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("%s no longer holds what was to be restored, raft term %d, index %d; those that have data:%s", name, p.Term, p.Index, cmp.Or(table(found), " none")),
		errors.Join(unreadable...))
}

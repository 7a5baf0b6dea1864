package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/repository"
)

// Names of proofs in a manifest, beside that of the repository for what is stored.
const (
	proofTrailer   = "sha256 trailer"
	proofStructure = "database structure"
	proofHash      = "computed HashKV"
	proofLive      = "HashKV of a follower"
)

// memberError is a failure that another member may not have.
type memberError struct{ error }

func (e memberError) Unwrap() error { return e.error }

// ofMember tells the failures that end an attempt from those that end the run: a full disk or missing rights are the same for
// every member.
func ofMember(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, ErrSpool), errors.Is(err, cluster.ErrAuth):
		return err
	}
	return memberError{err}
}

// attempt backs up one member and gives the other stores copies. After an error without ErrPartial nothing is left; a memberError
// says that the next member may be tried.
func (t *taking) attempt(ctx context.Context, s *source, m cluster.MemberStatus) (Result, error) {
	file, err := t.Spool.Create(m.DBSize)
	if err != nil {
		return Result{}, err
	}
	defer file.Close()
	up, manifest, err := t.store(ctx, s, m, file)
	if err != nil {
		return Result{}, err
	}
	t.seen.Line = manifest.Line
	return t.copies(ctx, up, manifest)
}

// store makes the backup exist in one store.
func (t *taking) store(ctx context.Context, s *source, m cluster.MemberStatus, file *os.File) (*upload, catalog.Manifest, error) {
	ctx, stop := context.WithCancelCause(ctx) // for whichever half fails first
	defer stop(nil)
	fail := func(err error) (*upload, catalog.Manifest, error) {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, catalog.Manifest{}, err
	}
	done := t.begin(StageStream, m.DBSize)
	stream, err := t.Client.Snapshot(ctx, m.Endpoint, t.Idle)
	if err != nil {
		done("failed")
		return fail(ofMember(ctx, err))
	}
	defer stream.Close()
	up, err := t.upload(ctx, stop, newSpooled(file), catalog.NewSnapshot(s.line.Line, t.Now(), m.Revision, false), stream.Size)
	if err != nil {
		done("failed")
		return fail(err)
	}
	defer up.abandon(ctx, stop)
	if err := t.stream(ctx, stream, up.spool); err != nil {
		done("failed")
		return fail(err)
	}
	done(catalog.Size(stream.Size) + " from " + m.Label())
	manifest, facts, err := t.examine(ctx, s, m, stream.Version, file)
	if err != nil {
		return fail(explained(ctx, up, m, err))
	}
	if manifest, err = t.commit(ctx, s, up, manifest, facts); err != nil {
		return fail(explained(ctx, up, m, err))
	}
	return up, manifest, nil
}

// explained is err, unless the checksum that the stream brought says that it was damaged on the way: that explains all that the file's
// structure may lack.
func explained(ctx context.Context, up *upload, m cluster.MemberStatus, err error) error {
	var verdict *dbfile.CheckError
	if !errors.As(err, &verdict) {
		return err
	}
	if <-up.done; up.err != nil {
		return err
	}
	if wrong := up.sum.CheckTrailer(); wrong != nil {
		return ofMember(ctx, of(m, wrong))
	}
	return err
}

// of says whose database an error is about.
func of(m cluster.MemberStatus, err error) error {
	return fmt.Errorf("the database of %s: %w", m.Label(), err)
}

// stream fills the spool at full speed. The upload, which reads the spool, ends with the same error as the stream does: whichever
// of them is noticed first, the next member is tried.
func (t *taking) stream(ctx context.Context, stream *cluster.Stream, spool *spooled) error {
	w := &counted{w: spool, advance: func(n int64) { t.Progress.Advance(StageStream, n) }}
	_, err := io.Copy(w, stream)
	w.flush()
	if err != nil {
		err = ofMember(ctx, err)
	}
	spool.end(err)
	if err != nil {
		return err
	}
	return stream.Close() // the member lets go of its transaction now, and not after the upload
}

// An upload seals and stores the spool while it grows.
type upload struct {
	*repository.Upload
	spool  *spooled
	done   chan struct{} // closed when data, sum and err are set
	data   catalog.Object
	sum    *dbfile.Sum // of the database as it was read for the store that took it
	err    error
	exists bool // the manifest is written
}

// upload starts. If no store takes the data, stop ends the rest of the attempt.
func (t *taking) upload(ctx context.Context, stop context.CancelCauseFunc, spool *spooled, snap catalog.Snapshot, size int64) (*upload, error) {
	up := &upload{spool: spool, done: make(chan struct{})}
	var err error
	if up.Upload, err = t.Repository.Begin(ctx, snap); err != nil {
		return nil, err
	}
	done := t.begin(StageUpload, size)
	go func() {
		defer close(up.done)
		up.data, up.err = up.Data(ctx, func(ctx context.Context) (io.ReadCloser, error) {
			f := spool.follow(ctx)
			up.sum = f.sum
			f.advance = func(n int64) { t.Progress.Advance(StageUpload, n) }
			return f, nil
		})
		if up.err != nil {
			stop(up.err)
			done("failed")
			return
		}
		done(fmt.Sprintf("%s in %s", catalog.Size(up.data.StoredBytes), up.Store()))
	}()
	return up, nil
}

// abandon ends an upload that was not committed and removes its objects.
func (up *upload) abandon(ctx context.Context, stop context.CancelCauseFunc) {
	if up.exists {
		return
	}
	stop(errors.New("the backup is given up"))
	<-up.done
	up.Abort(ctx)
}

// examine checks the spooled file and describes it.
func (t *taking) examine(ctx context.Context, s *source, m cluster.MemberStatus, version string, file *os.File) (manifest catalog.Manifest, facts catalog.Facts, err error) {
	// The upload hashes all that the checks look at, and its sum is compared with the trailer before the backup exists.
	report, err := t.check(ctx, file, dbfile.CheckOptions{TrailerRequired: true, Unhashed: true})
	if err != nil {
		return manifest, facts, ofMember(ctx, of(m, err))
	}
	if report.Revision < m.Revision {
		return manifest, facts, memberError{fmt.Errorf("%w: the database of %s ends at revision %d, although it said %d before", ErrVerify, m.Label(), report.Revision, m.Revision)}
	}
	t.seen.Revision = max(t.seen.Revision, report.Revision)
	manifest = t.describe(s, m, version, report)
	if t.Prove {
		done := t.begin(StageProve, 0)
		proof, err := Prove(ctx, t.Client, s.usable, m, report.HashKV)
		done(proof.Detail)
		if err != nil {
			return manifest, facts, err
		}
		manifest.Proofs = append(manifest.Proofs, proof)
		if !proof.OK {
			t.warn("the backup is checked, but not compared with a running member: %s", proof.Detail)
		}
	}
	facts, warnings := t.Agents.makeFacts(ctx, report.Index)
	for _, w := range warnings {
		t.warn("%s", w)
	}
	t.compareKeys(ctx, s, manifest.Keys)
	return manifest, facts, ctx.Err()
}

// check checks the spooled file in a child process.
func (t *taking) check(ctx context.Context, file *os.File, o dbfile.CheckOptions) (dbfile.Report, error) {
	info, err := file.Stat()
	if err != nil {
		return dbfile.Report{}, err
	}
	done := t.begin(StageCheck, info.Size())
	var before int64
	o.Select = t.Agents.Select
	o.Progress = func(now, _ int64) {
		t.Progress.Advance(StageCheck, now-before)
		before = now
	}
	report, err := dbfile.CheckInChild(ctx, file, o)
	if err != nil {
		done("failed")
		return report, err
	}
	done(fmt.Sprintf("%s at revision %d, HashKV %08x", catalog.Count(report.Keys, "key"), report.Revision, report.HashKV.Hash))
	return report, nil
}

// describe is the manifest, but for what only the upload knows.
func (t *taking) describe(s *source, m cluster.MemberStatus, version string, r dbfile.Report) catalog.Manifest {
	out := catalog.Manifest{
		Revision: r.Revision, Source: catalog.SourceLive, Version: t.Version, Host: t.Host,
		ClusterID: hexID(m.ClusterID), RaftTerm: t.seen.RaftTerm, Config: t.Config,
		Member: &catalog.Origin{Name: m.Name, ID: hexID(m.MemberID), Endpoint: m.Endpoint, ServerVersion: m.Version, StorageVersion: version},
	}
	for _, member := range s.members {
		out.Members = append(out.Members, catalog.Member{
			ID: hexID(member.ID), Name: member.Name, PeerURLs: member.PeerURLs, ClientURLs: member.ClientURLs, Learner: member.IsLearner,
		})
	}
	describeFile(&out, r)
	return out
}

// describeFile is what a check found, as a manifest has it.
func describeFile(m *catalog.Manifest, r dbfile.Report) {
	m.CompactRevision, m.HashKV = r.CompactRevision, catalog.HashKV(r.HashKV)
	m.Keys, m.Rows, m.Leases = r.Keys, r.Rows, r.Leases
	m.LeaseHash, m.AuthHash, m.AuthEnabled = r.LeaseHash, r.AuthHash, r.AuthEnabled
	m.Proofs = []catalog.Proof{
		{Name: proofTrailer, OK: true, Where: "spool"},
		{Name: proofStructure, OK: true, Where: "spool", Detail: catalog.Count(r.Rows, "row") + ", " + catalog.Count(r.Keys, "key")},
		{Name: proofHash, OK: true, Where: "spool", Detail: fmt.Sprintf("%08x at revision %d, compacted at %d", r.HashKV.Hash, r.HashKV.Revision, r.HashKV.CompactRevision)},
	}
}

// compareKeys alerts when the cluster has lost more than half of its keys since the backup before.
func (t *taking) compareKeys(ctx context.Context, s *source, keys int64) {
	line := s.line.Line
	if s.opens {
		line = s.line.Parent
	}
	snaps, err := t.Repository.Snapshots(ctx)
	if err != nil && len(snaps) == 0 {
		t.warn("the number of keys was not compared with the backup before: %v", err)
		return
	}
	before, ok := previous(snaps, line)
	if !ok {
		return
	}
	m, err := t.Repository.Manifest(ctx, before)
	if errors.Is(err, storage.ErrDenied) {
		return // rights to put and list are enough to take backups
	}
	if err != nil {
		t.warn("the number of keys was not compared with the backup before, %s: %v", before.ID, err)
		return
	}
	if keys < m.Keys/2 {
		t.alert(fmt.Sprintf("the cluster holds %d keys, fewer than half of the %d in the backup before, %s of %s: if that was not intended, keep that one (retention does not know)",
			keys, m.Keys, before.ID, before.Time.Format(time.RFC3339)))
	}
}

// previous is the backup of a line with the highest revision, of those the youngest, that did not fail its verification.
func previous(snaps []catalog.Snapshot, line string) (best catalog.Snapshot, ok bool) {
	for _, s := range snaps {
		if s.Line == line && !s.Failed() && (!ok || s.Revision > best.Revision || s.Revision == best.Revision && s.Time.After(best.Time)) {
			best, ok = s, true
		}
	}
	return best, ok
}

// commit waits for the data to be stored, compares its sum with the trailer, stores the facts, has all of it confirmed, opens the line and makes the backup exist.
func (t *taking) commit(ctx context.Context, s *source, up *upload, manifest catalog.Manifest, facts catalog.Facts) (catalog.Manifest, error) {
	<-up.done
	if up.err != nil {
		return manifest, up.err
	}
	if err := up.sum.CheckTrailer(); err != nil {
		return manifest, err
	}
	for _, refused := range up.Refused() {
		t.warn("%v", refused)
	}
	done := t.begin(StageCommit, 0)
	defer func() { done("") }()
	if err := up.Facts(ctx, manifest.Revision, facts); err != nil {
		return manifest, err
	}
	if _, err := up.Confirm(ctx); err != nil {
		return manifest, err
	}
	if s.opens {
		if err := t.openLine(ctx, s.line, up.Store()); err != nil {
			return manifest, err
		}
	}
	manifest.Warnings = t.warnings
	committed, err := up.Commit(ctx, manifest)
	if err != nil {
		return manifest, err
	}
	up.exists = true
	return committed, nil
}

// openLine writes the line's object where the backup is about to be, and wherever else it can be written.
func (t *taking) openLine(ctx context.Context, line catalog.Line, store string) error {
	err := t.Repository.OpenLine(ctx, line)
	if err == nil {
		return nil
	}
	failed := storeErrors(err)
	if len(failed) == 0 {
		return err
	}
	for _, f := range failed {
		if f.Store == store {
			return err
		}
	}
	t.warn("%v", err) // a copy of the backup brings it
	return nil
}

// storeErrors lists what went wrong by store.
func storeErrors(err error) (list []*repository.StoreError) {
	switch e := err.(type) { //nolint:errorlint // it walks the tree itself
	case *repository.StoreError:
		list = append(list, e)
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			list = append(list, storeErrors(one)...)
		}
	case interface{ Unwrap() error }:
		list = storeErrors(e.Unwrap())
	}
	return list
}

// copies brings the backup, which exists, to the other stores.
func (t *taking) copies(ctx context.Context, up *upload, manifest catalog.Manifest) (Result, error) {
	result := Result{Manifest: manifest, Stores: []string{up.Store()}}
	var failed []error
	for _, store := range t.Repository.Stores() {
		if store == up.Store() {
			continue
		}
		done := t.begin(StageCopy, manifest.Snapshot().StoredBytes)
		err := t.Repository.Copy(ctx, up.Snapshot(), store, func(n int64) { t.Progress.Advance(StageCopy, n) })
		if err != nil {
			done("store " + store + " failed")
			failed = append(failed, err)
			continue
		}
		done("to " + store)
		result.Stores = append(result.Stores, store)
	}
	if len(failed) > 0 {
		return result, fmt.Errorf("%w: backup %s is in store %s, but not in every other: %w (try again: requorum copy %s --to STORE)",
			ErrPartial, manifest.ID, up.Store(), errors.Join(failed...), t.Cluster)
	}
	return result, nil
}

// counted tells now and then how many bytes went through.
type counted struct {
	w       io.Writer
	n       int64
	advance func(int64)
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	if c.n += int64(n); c.n >= tellEvery {
		c.flush()
	}
	return n, err
}

func (c *counted) flush() {
	c.advance(c.n)
	c.n = 0
}

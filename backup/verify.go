package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/repository"
)

// Scope is how far a verification goes. Each scope includes the ones before.
type Scope string

const (
	// ScopeStored compares the manifest with its key, and all stored bytes with the manifest. It needs no identity.
	ScopeStored Scope = "stored"
	// ScopeFull also decrypts, decompresses, checks the database as Take does, and compares it with the manifest.
	ScopeFull Scope = "full"
	// ScopeDeep also starts an etcd server on the database and compares the HashKV that it serves.
	ScopeDeep Scope = "deep"
)

// Stages of Verify, Import and Export beside those of Take.
const (
	StageFetch  = "fetch"
	StageStored = "read back"
	StageDeep   = "start etcd on it"
)

// VerifyOptions say how to verify.
type VerifyOptions struct {
	Repository *repository.Repository
	Scope      Scope
	Spool      Spool // not used by ScopeStored

	// Deep starts etcd on the checked database in db, which it may read but not change, and returns the HashKV that is served at
	// the manifest's revision. An error that is ErrVerify is a verdict: this file is none that etcd serves. Needed for ScopeDeep.
	Deep func(ctx context.Context, db *os.File, m catalog.Manifest) (catalog.HashKV, error)

	Version, Host, User string // for the record of the run

	Progress Progress
	Log      *slog.Logger
	Now      func() time.Time
}

// A Check is one thing that was compared.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// A Verification is what became of one backup's verification.
type Verification struct {
	ID       string   `json:"id"`
	OK       bool     `json:"ok"` // every copy was checked and is good
	Scope    Scope    `json:"scope"`
	Checks   []Check  `json:"checks"`
	Warnings []string `json:"warnings,omitempty"`
}

// ErrGone says that a backup was deleted, by retention or by hand, while it was verified: there is no verdict, and nothing to be alarmed about.
var ErrGone = errors.New("it was deleted meanwhile")

// Verify verifies every copy of a backup that snap names: the stored bytes of each, and beyond that the contents once for all
// copies whose bytes are the same. Verdicts are recorded beside each copy, where list and retention see them.
//
// A copy that is not what its manifest says is an ErrVerify, with the verification. A store that does not answer, no fitting
// identity (seal.ErrCannotDecrypt), a full disk or the end of ctx are no verdict: nothing is recorded for that copy, and the
// error says so. Copies that are deleted meanwhile do not count; when all are, that is ErrGone, and no run is recorded.
func Verify(ctx context.Context, snap catalog.Snapshot, o VerifyOptions) (Verification, error) {
	v := &verifying{VerifyOptions: o, snap: snap, result: Verification{ID: snap.ID, Scope: o.Scope, Checks: []Check{}}}
	v.Progress, v.Log, v.Now = orQuiet(o.Progress), orDiscard(o.Log), orNow(o.Now)
	switch {
	case o.Scope != ScopeStored && o.Scope != ScopeFull && o.Scope != ScopeDeep:
		return v.result, fmt.Errorf("verify %s: unknown scope %q", snap.ID, o.Scope)
	case o.Scope == ScopeDeep && o.Deep == nil:
		return v.result, fmt.Errorf("verify %s: no way to start etcd was given", snap.ID)
	}
	run := catalog.Run{
		ID: catalog.NewID(catalog.KindRun), Kind: "verify", Cluster: o.Repository.Cluster(), Snapshot: snap.ID,
		Host: o.Host, User: o.User, Version: o.Version, Started: v.Now().UTC(),
	}
	err := v.copies(ctx)
	v.result.OK = err == nil
	if errors.Is(err, ErrGone) {
		return v.result, err
	}
	if err := leaveRecord(ctx, o.Repository, run, v.Now(), err); err != nil {
		v.warn(err)
	}
	return v.result, err
}

type verifying struct {
	VerifyOptions
	snap   catalog.Snapshot
	result Verification
	good   *catalog.Manifest // of a copy whose contents were verified
}

func (v *verifying) warn(err error) {
	v.result.Warnings = append(v.result.Warnings, err.Error())
	v.Log.Warn(err.Error(), "backup", v.snap.ID)
}

// check notes the outcome of one check in one store and gives its error back.
func (v *verifying) check(name, detail string, err error) error {
	if err != nil {
		detail = err.Error()
	}
	v.result.Checks = append(v.result.Checks, Check{Name: name, OK: err == nil, Detail: detail})
	return err
}

// copies verifies each copy. One that is bad, or does not answer, leaves the others to be verified.
func (v *verifying) copies(ctx context.Context) error {
	var failed, unknown []error
	gone := 0
	for _, store := range v.snap.Stores {
		part, checked := v.snap.In(store), len(v.result.Checks)
		err := v.verify(ctx, store, part)
		verdict := isVerdict(err)
		if verdict && v.gone(ctx, part) {
			v.Log.Info("a copy was deleted while it was verified", "backup", v.snap.ID, "store", store)
			v.result.Checks = v.result.Checks[:checked]
			gone++
			continue
		}
		if err == nil || verdict {
			if err := v.Repository.Mark(ctx, part, err == nil); err != nil {
				v.warn(err)
			}
		}
		switch {
		case err == nil:
		case verdict:
			failed = append(failed, err)
		default:
			unknown = append(unknown, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	switch {
	case gone == len(v.snap.Stores):
		return fmt.Errorf("verify %s: %w", v.snap.ID, ErrGone)
	case len(failed) > 0:
		return fmt.Errorf("%w: backup %s: %w", ErrVerify, v.snap.ID, errors.Join(append(failed, unknown...)...))
	case len(unknown) > 0:
		return fmt.Errorf("verify %s: %w", v.snap.ID, errors.Join(unknown...))
	}
	return nil
}

// gone says whether a copy that seemed damaged has been deleted since it was listed: its manifest, which goes first, is not there.
func (v *verifying) gone(ctx context.Context, part catalog.Snapshot) bool {
	_, err := v.Repository.Manifest(ctx, part)
	return errors.Is(err, fs.ErrNotExist)
}

// isVerdict tells what was found to be wrong from what could not be found out.
func isVerdict(err error) bool {
	var damaged *dbfile.CheckError
	return errors.Is(err, ErrVerify) || errors.As(err, &damaged) && damaged.Stage != dbfile.StageOpen
}

func (v *verifying) verify(ctx context.Context, store string, part catalog.Snapshot) error {
	m, err := v.Repository.Manifest(ctx, part)
	if v.check("manifest in "+store, "it agrees with its key", err) != nil {
		return err
	}
	same := v.good != nil && sameObject(v.good.Data, m.Data)
	if v.Scope == ScopeStored || same {
		total := m.Data.StoredBytes
		if m.Facts != nil {
			total += m.Facts.StoredBytes
		}
		v.Progress.Start(StageStored, total)
		err := v.Repository.Stored(ctx, part, m, func(n int64) { v.Progress.Advance(StageStored, n) })
		v.Progress.Done(StageStored, store)
		return v.check("stored bytes in "+store, fmt.Sprintf("%s, sha256 as in the manifest", catalog.Size(total)), err)
	}
	if err := v.contents(ctx, store, part, m); err != nil {
		return err
	}
	v.good = &m
	return nil
}

func sameObject(a, b catalog.Object) bool {
	return a.StoredSHA256 == b.StoredSHA256 && a.SHA256 == b.SHA256 && a.Bytes == b.Bytes && a.StoredBytes == b.StoredBytes
}

// contents verifies what one copy holds.
func (v *verifying) contents(ctx context.Context, store string, part catalog.Snapshot, m catalog.Manifest) error {
	file, err := v.Spool.Create(m.Data.Bytes)
	if err != nil {
		return err
	}
	defer file.Close()
	v.Progress.Start(StageFetch, m.Data.Bytes)
	err = v.Repository.Fetch(ctx, part, m, file, func(n int64) { v.Progress.Advance(StageFetch, n) })
	v.Progress.Done(StageFetch, store)
	if v.check("stored bytes in "+store, fmt.Sprintf("%s, decrypted and decompressed to %s, sha256 of both as in the manifest", catalog.Size(m.Data.StoredBytes), catalog.Size(m.Data.Bytes)), err) != nil {
		return err
	}
	facts, err := v.Repository.Facts(ctx, part, m)
	if v.check("facts in "+store, catalog.Count(len(facts.Leased), "leased prefix")+", "+catalog.Count(len(facts.Agents), "agent"), err) != nil {
		return err
	}
	v.Progress.Start(StageCheck, m.Data.Bytes)
	var before int64
	report, err := dbfile.CheckInChild(ctx, file, dbfile.CheckOptions{TrailerRequired: true, Progress: func(now, _ int64) {
		v.Progress.Advance(StageCheck, now-before)
		before = now
	}})
	v.Progress.Done(StageCheck, "")
	if v.check("database", fmt.Sprintf("sha256 trailer, structure, %d rows", report.Rows), err) != nil {
		return err
	}
	var wrong []error
	for _, c := range compareReport(m, report) {
		v.result.Checks = append(v.result.Checks, c)
		if !c.OK {
			wrong = append(wrong, fmt.Errorf("%s: %s", c.Name, c.Detail))
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%w: the copy in %s is not what its manifest says: %w", ErrVerify, store, errors.Join(wrong...))
	}
	if v.Scope == ScopeDeep {
		return v.deep(ctx, file, m)
	}
	return nil
}

func (v *verifying) deep(ctx context.Context, file *os.File, m catalog.Manifest) error {
	v.Progress.Start(StageDeep, 0)
	served, err := v.Deep(ctx, file, m)
	outcome, why := cluster.Hash(served).Compare(cluster.Hash(m.HashKV))
	v.Progress.Done(StageDeep, "")
	switch {
	case err != nil:
	case outcome == cluster.Different:
		err = fmt.Errorf("%w: etcd serves another HashKV than the manifest says: %s", ErrVerify, why)
	case outcome == cluster.Incomparable:
		err = fmt.Errorf("the HashKV that etcd serves cannot be compared with the manifest: %s", why)
	}
	return v.check("HashKV served by etcd", why, err)
}

// compareReport compares what the check found with what the manifest says.
func compareReport(m catalog.Manifest, r dbfile.Report) (checks []Check) {
	compare := func(name string, got, want any) {
		c := Check{Name: name, OK: got == want, Detail: fmt.Sprint(got)}
		if !c.OK {
			c.Detail = fmt.Sprintf("%v, but the manifest says %v", got, want)
		}
		checks = append(checks, c)
	}
	compare("revision", r.Revision, m.Revision)
	compare("compact revision", r.CompactRevision, m.CompactRevision)
	compare("HashKV", fmt.Sprintf("%08x", r.HashKV.Hash), fmt.Sprintf("%08x", m.HashKV.Hash))
	compare("key count", r.Keys, m.Keys)
	compare("leases", fmt.Sprintf("%d, sha256 %s", r.Leases, r.LeaseHash), fmt.Sprintf("%d, sha256 %s", m.Leases, m.LeaseHash))
	compare("authentication", "sha256 "+r.AuthHash, "sha256 "+m.AuthHash)
	return checks
}

// leaveRecord writes the record of a run that has ended with err, also when ctx has ended too.
func leaveRecord(ctx context.Context, repo *repository.Repository, run catalog.Run, ended time.Time, err error) error {
	run.Ended, run.Outcome = ended.UTC(), "ok"
	switch {
	case err == nil:
	case errors.Is(err, ErrPartial):
		run.Outcome = "partly"
	case ctx.Err() != nil:
		run.Outcome = "cancelled"
	default:
		run.Outcome = "failed"
	}
	if err != nil {
		run.Error = err.Error()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	return repo.Record(ctx, run)
}

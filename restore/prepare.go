package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/internal/claim"
	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/storage/catalog"
)

// Bump is how far above the highest known revision a restored cluster opens: more than any
// cluster writes between its last known moment and its end.
const Bump = 1_000_000_000

// A prepared is the database of a run in the spool.
type prepared struct {
	path       string
	index      *dbfile.Index // nil if it was found there from an earlier attempt
	lock       *os.File      // held while this process works on the run
	prediction *prediction   // nil before the database is what every member starts on
}

// close ends a prediction that is under way and the process's claim on the run's files in the spool.
func (p *prepared) close() {
	if p == nil {
		return
	}
	if p.prediction != nil {
		p.prediction.cancel()
		<-p.prediction.done
	}
	if p.lock != nil {
		_ = p.lock.Close() // nothing was written to it
	}
}

// A prediction is being made, or was, of what the prepared database serves. It takes its time, in which the members are staged.
type prediction struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when hash and err are set
	hash   dbfile.HashKV
	err    error
}

// predict begins the prediction.
func (r *Restorer) predict(ctx context.Context, p *prepared, revision int64) {
	ctx, cancel := context.WithCancel(ctx)
	w := &prediction{cancel: cancel, done: make(chan struct{})}
	p.prediction = w
	r.Progress.Start("predict", 0)
	go func() {
		defer close(w.done)
		if w.hash, w.err = r.Predict(ctx, p.path, revision); w.err == nil {
			r.Progress.Done("predict", fmt.Sprintf("hash %08x", w.hash.Hash))
		}
	}()
}

// awaitPrediction waits for the prediction and writes it into the plan.
func (r *Restorer) awaitPrediction(ctx context.Context, plan *Plan, p *prepared) error {
	if plan.Prepared == nil || plan.Prepared.predicted() { // a replacement prepares nothing
		return nil
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-p.prediction.done:
	}
	hash, err := p.prediction.hash, p.prediction.err
	if err != nil {
		return fmt.Errorf("start the prepared database once, to know what it must serve: %w", err)
	}
	plan.Prepared.Hash, plan.Prepared.HashCompactRev = hash.Hash, hash.CompactRevision
	plan.Checks = append(plan.Checks, Check{Name: "prediction", Status: CheckOK,
		Detail: fmt.Sprintf("etcd starts on the prepared database and computes hash %08x at revision %d", hash.Hash, plan.Prepared.Revision)})
	return nil
}

func (r *Restorer) spoolFile(run, kind string) string {
	return filepath.Join(r.SpoolDir, "restore-"+run+"."+kind)
}

// removeSpool removes the run's database from the spool.
func (r *Restorer) removeSpool(run string) error {
	for _, kind := range []string{"replay", "db", "lock"} {
		if err := os.RemoveAll(r.spoolFile(run, kind)); err != nil {
			return fmt.Errorf("remove the prepared database from the spool: %w", err)
		}
	}
	return nil
}

// sweepSpool removes the databases that runs left which were killed before any host knew of them. A run that lives holds
// the lock beside its database.
func (r *Restorer) sweepSpool() {
	claim.Sweep(r.SpoolDir, "restore-*.lock", func(lock string) {
		run := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(lock), "restore-"), ".lock")
		if err := r.removeSpool(run); err != nil {
			r.Log.Warn("sweep the spool", "error", err)
		}
	})
}

// lockSpool says that the run lives, until the file that it returns is closed or the process ends.
func (r *Restorer) lockSpool(run string) (*os.File, error) {
	if err := os.MkdirAll(r.SpoolDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the spool directory: %w", err)
	}
	f, err := claim.File(r.spoolFile(run, "lock"))
	if errors.Is(err, claim.ErrHeld) {
		return nil, fmt.Errorf("another process works on run %s: %w", run, err)
	}
	if err != nil {
		return nil, fmt.Errorf("lock the run's files in the spool: %w", err)
	}
	return f, nil
}

// fetch brings the source's database into the spool and checks it.
func (r *Restorer) fetch(ctx context.Context, run string, src *source) (*prepared, dbfile.Report, error) {
	lock, err := r.lockSpool(run)
	if err != nil {
		return nil, dbfile.Report{}, err
	}
	f, err := os.OpenFile(r.spoolFile(run, "db"), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, dbfile.Report{}, errors.Join(fmt.Errorf("make a file in the spool: %w", err), lock.Close())
	}
	fail := func(err error) (*prepared, dbfile.Report, error) {
		return nil, dbfile.Report{}, errors.Join(err, f.Close(), r.removeSpool(run), lock.Close())
	}
	if free, err := freeBytes(r.SpoolDir); err == nil && src.size > 0 && free < 2*src.size+(64<<20) { // one is started on, to predict
		return fail(fmt.Errorf("spool_dir %s has %s free, twice the database (%s) passes through it: free some, or choose another spool_dir", r.SpoolDir, catalog.Size(free), catalog.Size(src.size)))
	}
	r.Progress.Start("fetch", src.size)
	advance, end := func(int64) {}, func() {}
	if r.takes(src) { // as soon as it is staged it must be on disk
		w := dbfile.NewWriting(f)
		advance, end = w.Advance, w.End
	}
	err = src.fetch(ctx, f, func(n int64) {
		r.Progress.Advance("fetch", n)
		advance(n)
	})
	end()
	if err != nil {
		return fail(fmt.Errorf("fetch %s %s: %w", src.Kind, src.ID, err))
	}
	r.Progress.Done("fetch", src.Kind+" "+src.ID)
	r.Progress.Start("check", 0)
	report, err := dbfile.CheckInChild(ctx, f, dbfile.CheckOptions{Select: dbfile.Select(agents.Selection(r.Agents)), TrailerRequired: src.trailer,
		Unhashed: src.manifest != nil}) // what is stored was compared with the manifest's sha256, as it came
	if err != nil {
		return fail(fmt.Errorf("check %s %s: %w", src.Kind, src.ID, err))
	}
	if err := src.agrees(report); err != nil {
		return fail(err)
	}
	r.Progress.Done("check", fmt.Sprintf("revision %d, %d keys", report.Revision, report.Keys))
	if err := f.Close(); err != nil {
		return fail(fmt.Errorf("close the database in the spool: %w", err))
	}
	return &prepared{path: f.Name(), index: report.Index, lock: lock}, report, nil
}

// takes says whether a member will get the very file that the source is fetched into: one on this machine does, unless a survivor's
// log is applied to it, which makes another file.
func (r *Restorer) takes(src *source) bool {
	return (src.Kind == "store" || src.Kind == "file") && slices.ContainsFunc(r.targets(), func(m Placed) bool { return m.Host == HostLocal })
}

// decide says what becomes of the leased keys and what the agents want, and writes it into the plan.
func (r *Restorer) decide(plan *Plan, index *dbfile.Index) (agents.Decision, error) {
	opt := r.AgentOptions
	opt.Baselines = plan.Gate
	d, err := agents.Ghosts(index, r.Agents, opt)
	if err != nil {
		return d, err
	}
	plan.Ghosts, plan.Kept, plan.Edits = nil, nil, nil
	for _, g := range d.Removed {
		plan.Ghosts = append(plan.Ghosts, Ghost{Prefix: g.Prefix, Count: g.Count, Agent: g.Agent, Reason: g.Reason})
	}
	for _, g := range d.KeptLeased {
		plan.Kept = append(plan.Kept, Ghost{Prefix: g.Prefix, Count: g.Count, Agent: g.Agent, Reason: g.Reason})
	}
	for _, e := range slices.Concat(d.Edits, d.Kept) {
		if e.Agent == "" {
			continue
		}
		action := "write"
		if e.Keep {
			action = "keep"
		} else if e.Value == nil {
			action = "remove"
		}
		plan.Edits = append(plan.Edits, EditNote{Key: e.Key, Action: action, Agent: e.Agent, Reason: e.Reason})
	}
	for _, n := range d.Notes {
		if !slices.Contains(plan.Notes, n) {
			plan.Notes = append(plan.Notes, n)
		}
	}
	return d, nil
}

// edit turns the checked database into the one that every member starts on, and begins to predict what that must serve.
func (r *Restorer) edit(ctx context.Context, plan *Plan, p *prepared, report dbfile.Report, d agents.Decision) error {
	o := dbfile.PrepareOptions{DropLeases: d.DropLeases, TargetRevision: plan.TargetRevision, TargetVersion: plan.TargetVersion,
		Token: plan.Token, Index: p.index}
	for _, e := range d.Edits {
		o.Edits = append(o.Edits, dbfile.Edit{Key: []byte(e.Key), Value: e.Value, Delete: e.Value == nil})
	}
	for _, m := range plan.Members {
		o.Members = append(o.Members, dbfile.Member{Name: m.Name, PeerURLs: []string{m.PeerURL}})
	}
	r.Progress.Start("edit", 0)
	done, err := dbfile.Prepare(ctx, p.path, o)
	if err != nil {
		return fmt.Errorf("prepare the database: %w", err)
	}
	result := &Prepared{Revision: done.OpenedRevision, ClusterID: hexID(done.ClusterID), MemberIDs: map[string]string{}, Keys: report.Keys}
	for name, id := range done.MemberIDs {
		result.MemberIDs[name] = hexID(id)
	}
	for id := range p.index.Leases() {
		if !slices.Contains(d.DropLeases, id) {
			result.Leases = append(result.Leases, id)
		}
	}
	r.Progress.Done("edit", fmt.Sprintf("opens at revision %d", result.Revision))
	r.predict(ctx, p, result.Revision)
	if result.Checksum, result.Size, err = ChecksumOf(ctx, p.path); err != nil {
		return fmt.Errorf("read the prepared database: %w", err)
	}
	plan.Prepared = result
	return nil
}

func hexID(id uint64) string { return fmt.Sprintf("%016x", id) }

func copyFile(ctx context.Context, dst *os.File, path string, progress func(int64)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(dst, reader{ctx, f, progress})
	return err
}

// reader ends with its context and tells how much it read.
type reader struct {
	ctx      context.Context
	r        io.Reader
	progress func(int64)
}

func (r reader) Read(p []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	n, err := r.r.Read(p)
	if r.progress != nil && n > 0 {
		r.progress(int64(n))
	}
	return n, err
}

func freeBytes(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

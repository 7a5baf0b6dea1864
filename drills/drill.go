package drills

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/restore"
	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/repository"
)

// ErrObjective says that the restore is proven and something that is asked for was missed.
var ErrObjective = errors.New("an objective was missed")

// Repository is what a drill needs of one. *repository.Repository is one.
type Repository interface {
	restore.Backups
	Runs(ctx context.Context, since time.Time) ([]catalog.Run, error)
	Record(ctx context.Context, run catalog.Run) error
	// MarkDrilled records what a drill found beside the backup.
	MarkDrilled(ctx context.Context, snap catalog.Snapshot, found catalog.Rehearsal) error
	Shelf
}

// Shelf keeps reports. *repository.Repository is one.
type Shelf interface {
	StoreDrill(ctx context.Context, d catalog.Drill, files map[string][]byte) error
	Drills(ctx context.Context) ([]repository.StoredDrill, error)
	DrillFile(ctx context.Context, d catalog.Drill, file, store string) ([]byte, error)
	DrillFailure(ctx context.Context, d catalog.Drill) (string, error)
}

// Etcd is a client of the restored cluster. Its methods may be called at once.
type Etcd interface {
	Registrar
	Contents
	Close() error
}

// Asked are the objectives; a zero one is not asked for.
type Asked struct{ RPO, RTO, DrillAge time.Duration }

// Common is what both kinds of drills need.
type Common struct {
	ID         string // of the drill; empty: a fresh one
	Cluster    string
	Repository Repository
	Asked      Asked
	Settings   Settings
	By         Starter
	Versions   Versions // Etcd is that of the members to be
	Signer     *Signer  // nil: reports are not signed

	// Advise says what to try after an error, "" if it does not know; Code is the exit code that belongs to it.
	Advise func(error) string
	Code   func(error) int

	Progress restore.Progress // nil: nobody watches
	Log      *slog.Logger
	Now      func() time.Time
}

// Options describe a drill in a sandbox.
type Options struct {
	Common
	At    string   // which backup, as a restore takes it; "" is the newest of the current line
	Names []string // of the members; empty: those that the backup knows
	// QuotaBytes is that of the members' backends; 0: not known, and then none is set.
	QuotaBytes int64
	Agents     []Rehearsed
	Dir        string // where sandboxes are made: databases stand there in plain text

	// Restore is how this cluster is restored. Source, members, agents, spool and progress are the drill's own.
	Restore restore.Options
	// Host makes the host of the members, whose servers it finds by name.
	Host func(find func(member string) Server) restore.Host
	// Secure, if there is one, makes the members' client URLs https: it puts what their TLS needs into the sandbox's directory.
	Secure func(dir string) error
	// Serve makes the server of a place, which does not run yet.
	Serve func(Place) Server
	// Open makes a client of the restored cluster.
	Open func(endpoints []string) (Etcd, error)
	// Untouched serves a backup as it is stored, with files in dir.
	Untouched func(ctx context.Context, dir string, snap catalog.Snapshot, m catalog.Manifest) (Untouched, error)
	// Compare looks at the running cluster, reading only; nil leaves it alone.
	Compare func(ctx context.Context, m catalog.Manifest) (Comparison, error)
}

func (c *Common) complete() {
	if c.ID == "" {
		c.ID = catalog.NewID(catalog.KindDrill)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Progress == nil {
		c.Progress = silent{}
	}
	if c.Advise == nil {
		c.Advise = func(error) string { return "" }
	}
	if c.Code == nil {
		c.Code = func(error) int { return 1 }
	}
}

// A drill is one execution.
type drill struct {
	Options
	course
	report Report
	snap   catalog.Snapshot
	m      catalog.Manifest
	box    *sandbox
	probes []*probe
	plan   restore.Plan
}

// Plan says what a drill would do: the report without anything that is only known afterwards. It reads the stores and changes nothing.
func Plan(ctx context.Context, o Options) (Report, error) {
	d := newDrill(o)
	err := d.choose(ctx)
	d.report.Steps = d.steps
	d.report.settle()
	return d.report, err
}

func newDrill(o Options) *drill {
	o.complete()
	d := &drill{Options: o, report: Report{Format: Format, ID: o.ID, Cluster: o.Cluster, Kind: Sandbox, Started: o.Now().UTC(),
		Settings: o.Settings, By: o.By, Versions: o.Versions}}
	d.course.now, d.course.watch = o.Now, o.Progress
	return d
}

// Run drills in a sandbox. The report says what came out, also beside an error, which is what the drill failed with: [ErrObjective] when
// only an objective was missed. It is stored, and so is a record of the run, unless ctx ended: an interrupted drill proves nothing and
// leaves nothing. What it found about the data of the backup is marked beside that. That the report could not be stored everywhere is a [*StoreFailure] beside the rest.
func Run(ctx context.Context, o Options) (Report, error) {
	d := newDrill(o)
	Sweep(ctx, d.Dir, d.Log)
	err := d.choose(ctx)
	if err == nil {
		err = d.rehearse(ctx)
	}
	if context.Cause(ctx) != nil {
		return d.report, context.Cause(ctx)
	}
	if err == nil {
		err = d.take("objective", d.objectives)
	}
	return d.finish(ctx, err)
}

// choose picks the backup.
func (d *drill) choose(ctx context.Context) error {
	return d.take("source", func() ([]string, error) {
		snaps, listErr := d.Repository.Snapshots(ctx)
		lines, lineErr := d.Repository.Lines(ctx)
		away := errors.Join(listErr, lineErr)
		at := d.At
		if at == "" {
			at = "latest"
		}
		snap, note, err := catalog.Find(lines, snaps, at, d.Now())
		if err != nil {
			return nil, errors.Join(err, away)
		}
		m, err := d.Repository.Manifest(ctx, snap)
		if err != nil {
			return nil, fmt.Errorf("read the manifest of backup %s: %w", snap.ID, err)
		}
		d.snap, d.m = snap, m
		s := Source{ID: snap.ID, Line: snap.Line, Revision: snap.Revision, Time: snap.Time, Stores: snap.Stores, Bytes: m.Data.Bytes, Keys: m.Keys,
			Encrypted: m.Sealed(), SHA256: m.Data.SHA256, HashKV: fmt.Sprintf("%08x", m.HashKV.Hash), Verified: snap.VerifiedAt, Asked: d.At, Note: note}
		if m.Member != nil {
			s.Etcd = m.Member.ServerVersion
		}
		d.report.Source, d.report.Backup = s, &m.HashKV
		d.report.RPOSeconds = max(0, d.report.Started.Sub(snap.Time).Seconds())
		d.report.RPOBasis = "the age of the backup when the drill began: what would be lost had the cluster been lost at that moment"
		evidence := []string{fmt.Sprintf("backup %s of %s, revision %d, %s, %s, in %s", snap.ID, snap.Time.Format(time.RFC3339), snap.Revision, catalog.Count(m.Keys, "key"), catalog.Size(m.Data.Bytes), strings.Join(snap.Stores, ", "))}
		if note != "" {
			evidence = append(evidence, note)
		}
		if away != nil {
			evidence = append(evidence, "not every store answered: "+away.Error())
		}
		if len(d.Names) == 0 {
			for _, member := range m.Members {
				if !member.Learner {
					d.Names = append(d.Names, member.Name)
				}
			}
			d.report.Settings.Members = "as in the backup"
		} else {
			d.report.Settings.Members = "as configured"
		}
		if len(d.Names) == 0 {
			d.Names = []string{"etcd1"}
			d.report.Settings.Members = "one: neither the configuration nor the backup knows any"
		}
		slices.Sort(d.Names)
		if d.QuotaBytes > 0 && m.Data.Bytes >= d.QuotaBytes {
			return evidence, &finding{expected: fmt.Sprintf("a database smaller than the members' quota of %d bytes", d.QuotaBytes), found: fmt.Sprintf("%d bytes: etcd would refuse every write (NOSPACE) from its first moment", m.Data.Bytes),
				try: "raise --quota-backend-bytes of the members and thresholds.quota with it, or compact and defragment the running cluster"}
		}
		return evidence, nil
	})
}

// rehearse restores in a sandbox, and takes it down whatever happens.
func (d *drill) rehearse(ctx context.Context) (err error) {
	if err := d.take("sandbox", func() ([]string, error) {
		box, err := newSandbox(d.Dir, d.ID, d.Names, d.QuotaBytes)
		if err != nil {
			return nil, err
		}
		if d.Secure != nil {
			if err := box.secure(d.Secure); err != nil {
				return nil, errors.Join(err, box.remove(ctx))
			}
		}
		d.box = box
		evidence := []string{fmt.Sprintf("%d members on loopback, etcd %s (%s)", len(box.places), d.Versions.Etcd, d.Settings.Program)}
		if d.QuotaBytes == 0 {
			evidence = append(evidence, "the members' quota is not known, so none is set: thresholds.quota tells it")
		}
		return evidence, nil
	}); err != nil {
		return err
	}
	defer func() {
		down := d.take("teardown", func() ([]string, error) {
			if err := errors.Join(d.box.stop(ctx), d.box.remove(ctx)); err != nil {
				return nil, err
			}
			return []string{"no process and no file of the sandbox is left"}, nil
		})
		if err == nil {
			err = down
		} else if down != nil {
			d.report.Notes = append(d.report.Notes, down.Error())
		}
	}()
	if err := d.restored(ctx); err != nil {
		return err
	}
	return d.examine(ctx)
}

// restored runs the restore. Questions that it would ask are noted and answered, and then it is run again.
func (d *drill) restored(ctx context.Context) error {
	err := d.attempt(ctx, false)
	if questions, rest := agents.SplitRefusals(err); rest == nil && len(questions) > 0 {
		d.report.Questions = append(d.report.Questions, questions...)
		d.forget(true)
		err = d.attempt(ctx, true)
	}
	for _, p := range d.probes {
		d.report.Questions = append(d.report.Questions, p.questions...)
	}
	if err == nil {
		return nil
	}
	if context.Cause(ctx) != nil {
		return err
	}
	return d.cut(err, d.report.Agents)
}

func (d *drill) attempt(ctx context.Context, answered bool) error {
	o := d.Restore
	o.Cluster, o.At, o.From = d.Cluster, d.snap.ID, "store"
	o.Members = d.box.placed(d.Host, d.Serve)
	for _, m := range d.m.Members { // nothing of the old cluster is anywhere near the sandbox
		o.Fenced = append(o.Fenced, m.Name)
	}
	o.SpoolDir = d.box.dir
	o.Repository = bystander{d.Repository}
	o.Backup = nil
	o.TargetVersion = d.Versions.Etcd
	o.Progress, o.Log, o.Now = &d.course, d.Log, d.Now
	d.probes, o.Agents = nil, nil
	for _, a := range d.Agents {
		p := &probe{Rehearsed: a, id: d.ID, registrar: func() (Registrar, error) { return d.Open(d.box.urls()) }}
		d.probes = append(d.probes, p)
		o.Agents = append(o.Agents, agents.Configured{Name: a.Name, Kind: a.Kind, Agent: p})
	}
	if answered {
		o.AgentOptions.DropLeased = []string{""}
	}
	o.Confirm = func(_ context.Context, plan restore.Plan) (bool, error) {
		d.plan = plan
		return true, nil
	}
	r, err := restore.New(o)
	if err != nil {
		return err
	}
	d.begin("checks", true) // until the first stage of the restore
	report, err := r.Run(ctx)
	if report.Run != "" {
		d.report.Restore, d.report.Agents = &report, report.Agents
		d.report.RTOSeconds, d.report.HealthySeconds = report.RTOSeconds, report.HealthySeconds
		if err != nil {
			d.report.RTOSeconds = 0
		}
		d.rebuilt(report)
	}
	return err
}

// rebuilt takes the restore's own evidence into the steps.
func (d *drill) rebuilt(r restore.Report) {
	d.report.Members = nil
	for _, p := range d.box.places {
		m := Member{Name: p.Name, ClientURL: p.ClientURL, Hash: "unknown"}
		for _, proven := range r.Members {
			if proven.Name == p.Name {
				m.Healthy, m.Leader, m.Revision, m.Hash = proven.Healthy, proven.Leader, proven.Revision, proven.Hash
			}
		}
		d.report.Members = append(d.report.Members, m)
	}
	d.sayOf("fetch", fmt.Sprintf("%d stored bytes, %d of the database, sha256 %s: as the manifest says", d.m.Data.StoredBytes, d.m.Data.Bytes, d.m.Data.SHA256))
	d.sayOf("check", fmt.Sprintf("HashKV %08x at revision %d, recomputed: as the manifest says; so are the key count and the hashes of leases and users", d.m.HashKV.Hash, d.m.HashKV.Revision))
	for _, g := range r.Ghosts {
		d.sayOf("edit", fmt.Sprintf("%s removed below %s", catalog.Count(g.Count, "ghost"), g.Prefix))
	}
	for _, c := range r.Proof {
		d.sayOf("prove", fmt.Sprintf("%s: %s: %s", c.Name, c.Status, c.Detail))
	}
	for _, m := range r.Members {
		d.sayOf("prove", fmt.Sprintf("%s: revision %d, hash %s %s", m.Name, m.Revision, m.Hash, m.Detail))
	}
	for _, v := range r.Agents {
		d.sayOf("agents", v.Name+": "+v.Verdict)
	}
}

// examine looks at the restored cluster beyond what the restore proved.
func (d *drill) examine(ctx context.Context) error {
	client, err := d.Open(d.box.urls())
	if err != nil {
		return &stepError{"failover", err}
	}
	defer func() { _ = client.Close() }() // the sandbox goes
	if slices.ContainsFunc(d.probes, func(p *probe) bool { return p.contested() != "" }) {
		if err := d.take("failover", func() ([]string, error) { return d.failovers(ctx) }); err != nil {
			return err
		}
	}
	var untouched Untouched
	err = d.take("untouched", func() (evidence []string, err error) {
		if untouched, err = d.Untouched(ctx, d.box.dir, d.snap, d.m); err != nil {
			return nil, err
		}
		h, err := untouched.Hash(ctx, d.m.HashKV.Revision)
		if err != nil {
			return nil, err
		}
		if h != d.m.HashKV {
			return nil, &finding{err: repository.ErrVerify, expected: fmt.Sprintf("hash %08x at revision %d, compacted at %d", d.m.HashKV.Hash, d.m.HashKV.Revision, d.m.HashKV.CompactRevision),
				found: fmt.Sprintf("etcd serves %08x at revision %d, compacted at %d", h.Hash, h.Revision, h.CompactRevision), try: "take another backup; keep this one for whoever looks into it"}
		}
		return []string{fmt.Sprintf("an etcd on the backup as it is stored serves hash %08x at revision %d: the manifest's", h.Hash, h.Revision)}, nil
	})
	if untouched != nil {
		defer func() { _ = untouched.Close() }() // the sandbox goes
	}
	if err != nil {
		return err
	}
	if err := d.take("content", func() ([]string, error) { return d.contents(ctx, untouched, client) }); err != nil {
		return err
	}
	if err := d.take("access", func() ([]string, error) { return d.access(ctx, untouched, client) }); err != nil {
		return err
	}
	if err := d.take("leases", func() ([]string, error) { return d.leases(ctx, client) }); err != nil {
		return err
	}
	if d.Compare == nil {
		return nil
	}
	return d.take("compare", func() ([]string, error) { return d.compared(ctx) })
}

func (d *drill) failovers(ctx context.Context) (evidence []string, err error) {
	for _, p := range d.probes {
		line, took, err := p.failover(ctx, d.Now)
		if err != nil {
			return evidence, fmt.Errorf("%s: %w", p.Name, err)
		}
		if line != "" {
			evidence = append(evidence, line)
			if d.report.Answers == nil {
				d.report.Answers = map[string]float64{}
			}
			d.report.Answers[p.Name] = took.Seconds()
		}
	}
	return evidence, nil
}

func (d *drill) contents(ctx context.Context, backup, restored Contents) ([]string, error) {
	held := map[string]bool{}
	for _, p := range d.probes {
		for _, key := range p.held {
			held[key] = true
		}
	}
	planned := planned{before: d.m.Revision, opened: d.plan.Prepared.Revision, edits: map[string]string{}, leased: func(key string) bool {
		return held[key] || !slices.ContainsFunc(d.plan.Kept, func(g restore.Ghost) bool { return strings.HasPrefix(key, g.Prefix) })
	}}
	for _, e := range d.plan.Edits {
		planned.edits[e.Key] = e.Action
	}
	c, err := compare(ctx, backup, restored, planned)
	if err != nil {
		return nil, err
	}
	d.report.Content = c
	if c.Compared != d.m.Keys {
		return nil, &finding{err: repository.ErrVerify, expected: fmt.Sprintf("the manifest's %d keys", d.m.Keys), found: fmt.Sprintf("%d keys in the backup", c.Compared), try: "requorum verify " + d.Cluster + " " + d.snap.ID}
	}
	if err := c.judge(); err != nil {
		return nil, err
	}
	evidence := []string{fmt.Sprintf("%d keys compared one by one, by value, create and mod revision, version and lease: %d as in the backup, %d removed as planned, %d written as planned, none different",
		c.Compared, c.Compared-c.Removed-c.Written, c.Removed, c.Written)}
	for _, p := range c.Prefixes {
		evidence = append(evidence, fmt.Sprintf("%s: %d in the backup, %d restored", p.Prefix, p.Backup, p.Restored))
	}
	return evidence, nil
}

func (d *drill) access(ctx context.Context, backup, restored Contents) ([]string, error) {
	was, err := backup.Access(ctx)
	if err != nil {
		return nil, fmt.Errorf("users and roles of the untouched backup: %w", err)
	}
	now, err := restored.Access(ctx)
	if err != nil {
		return nil, fmt.Errorf("users and roles of the restored cluster: %w", err)
	}
	c := d.report.Content
	c.Auth, c.Users, c.Roles = now.Enabled, len(now.Users), len(now.Roles)
	if found := compareAccess(was, now); len(found) > 0 {
		return nil, &finding{err: repository.ErrVerify, expected: "the backup's users and roles", found: strings.Join(found, "; "), try: "keep the report: a restore must not change who may do what"}
	}
	if was.Enabled != d.m.AuthEnabled {
		return nil, &finding{err: repository.ErrVerify, expected: "authentication " + onOff(d.m.AuthEnabled) + " as in the manifest", found: "authentication " + onOff(was.Enabled), try: "requorum verify " + d.Cluster + " " + d.snap.ID}
	}
	return []string{fmt.Sprintf("authentication is %s; %d users and %d roles, all as in the backup", onOff(now.Enabled), len(now.Users), len(now.Roles))}, nil
}

func (d *drill) leases(ctx context.Context, restored Contents) ([]string, error) {
	have, err := restored.Leases(ctx)
	if err != nil {
		return nil, err
	}
	d.report.Content.Leases = len(have)
	want := slices.Sorted(slices.Values(d.plan.Prepared.Leases))
	have = slices.DeleteFunc(have, func(id int64) bool { // a lease that was kept may end on its own
		_, found := slices.BinarySearch(want, id)
		return found
	})
	if len(have) > 0 {
		return nil, &finding{err: repository.ErrVerify, expected: fmt.Sprintf("none but the %d leases that were kept", len(want)), found: fmt.Sprintf("%d others, first %016x", len(have), have[0]),
			try: "keep the report: a lease that nobody planned to keep is a ghost"}
	}
	return []string{fmt.Sprintf("%d leases live, of %d that were kept; the backup held %d", d.report.Content.Leases, len(want), d.m.Leases)}, nil
}

func (d *drill) compared(ctx context.Context) ([]string, error) {
	c, err := d.Compare(ctx, d.m)
	if err != nil {
		return nil, err
	}
	c.Restored = d.report.Content.Compared - d.report.Content.Removed
	d.report.Compared = &c
	evidence := []string{fmt.Sprintf("the running cluster is at revision %d, %d after the backup, with %d keys against %d restored", c.Revision, c.Behind, c.Keys, c.Restored),
		fmt.Sprintf("its hash at the backup's revision: %s (%s)", c.Hash, c.Why)}
	if c.Hash == "different" {
		return evidence, &finding{err: repository.ErrVerify, expected: "a hash equal to the backup's, or one that cannot be compared", found: c.Why,
			try: "compare the members with each other: requorum check " + d.Cluster + "; one of them may be corrupt, or the backup is of another cluster"}
	}
	return evidence, nil
}

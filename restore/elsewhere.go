package restore

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/storage/catalog"
)

// Elsewhere is the cluster that a restore under another name takes its backups from, or what its members still hold. What the restore leaves - lines, records, the first
// backup - belongs to the new cluster, so that the histories of both are kept apart.
type Elsewhere struct {
	Cluster    string     // its name; the new one's is Options.Cluster
	Repository Repository // with its backups
	// Connect makes a client of its members, to see whether they still serve.
	Connect func() (*cluster.Client, error)
	// Members are its own, with their hosts: where a survivor is read, if the new cluster is made of one. nil: they are not known.
	Members func() ([]Placed, error)
	Flags   []string // that name the new cluster on the command line
}

// origin is where backups come from.
func (r *Restorer) origin() Repository {
	if r.Elsewhere != nil {
		return r.Elsewhere.Repository
	}
	return r.Repository
}

// old is the old cluster as a restore of it would see it: what its hosts and members say, and what they hold. Nothing of it is ever changed.
func (r *Restorer) old() (*Restorer, error) {
	e := r.Elsewhere
	if e.Members == nil {
		return nil, fmt.Errorf("--from %s: where the members of %s live is not known", r.From, e.Cluster)
	}
	members, err := e.Members()
	if err != nil {
		return nil, err
	}
	for _, m := range members {
		for _, n := range r.Members {
			if m.Host == n.Host && filepath.Clean(m.DataDir) == filepath.Clean(n.DataDir) {
				return nil, fmt.Errorf("--from %s: data_dir %s is %s's of %s and %s's of %s: what is there cannot be both a source and a place to build in; restore %s where it is, without --as",
					r.From, m.DataDir, m.Name, e.Cluster, n.Name, r.Cluster, e.Cluster)
			}
		}
	}
	old := *r
	old.Cluster, old.Members, old.Without, old.Fenced, old.Repository, old.Elsewhere = e.Cluster, members, nil, nil, e.Repository, nil
	old.Connect = func([]string) (*cluster.Client, error) { return e.Connect() }
	return &old, nil
}

// holder is the cluster whose members' data a survivor is: this one, or with a restore elsewhere the old one. Where that one's dirs are is not for this run to move, so it is
// looked at under no run.
func (r *Restorer) holder(run string) (*Restorer, string, error) {
	if r.Elsewhere == nil {
		return r, run, nil
	}
	old, err := r.old()
	return old, "", err
}

// chooseOldSurvivor is chooseSurvivor of the old cluster's members. They are neither stopped nor locked: so none may be in the hands of a run, and whether the data goes on is
// looked at again before anything of the new cluster starts.
func (r *Restorer) chooseOldSurvivor(ctx context.Context, known *known, name string) (*source, error) {
	old, err := r.old()
	if err != nil {
		return nil, err
	}
	o, err := old.observe(ctx, "", false)
	if err != nil {
		return nil, err
	}
	if err := old.lockedElsewhere(o); err != nil {
		return nil, err
	}
	if last := latest(o.states); last != nil && !last.Ended {
		return nil, fmt.Errorf("--from %s: %w", r.From, old.unfinished(last))
	}
	return old.chooseSurvivor(ctx, known, o, name)
}

// repositories are all that a restore reads or writes.
func (r *Restorer) repositories() []Repository {
	if r.Elsewhere != nil {
		return []Repository{r.Elsewhere.Repository, r.Repository}
	}
	return []Repository{r.Repository}
}

// command is how a person would call this program.
func (r *Restorer) command(verb string, args ...string) string {
	words := []string{r.Command, verb, r.Cluster}
	if e := r.Elsewhere; e != nil {
		words = slices.Concat([]string{r.Command, verb, e.Cluster}, e.Flags)
	}
	return strings.Join(append(words, args...), " ")
}

// lookElsewhere adds to what is known of the old cluster's backups how far the new cluster's name has been before: the revision must rise there, too.
func (r *Restorer) lookElsewhere(ctx context.Context, k *known) error {
	if r.Elsewhere == nil {
		return nil
	}
	own, err := r.lookIn(ctx, r.Repository)
	if err != nil {
		return err
	}
	k.before = own
	k.err = errors.Join(k.err, own.err)
	return nil
}

// oldCheck says whether the old cluster serves on, which is no reason not to build another.
func (r *Restorer) oldCheck(ctx context.Context) []Check {
	e := r.Elsewhere
	if e == nil {
		return nil
	}
	check := Check{Name: "old cluster", Status: CheckUnknown,
		Detail: fmt.Sprintf("no member of %s serves reads with a quorum, as seen from here: if it comes back there are two clusters; clients may know only one of them", e.Cluster)}
	c, err := e.Connect()
	if err != nil {
		return []Check{check}
	}
	defer func() { _ = c.Close() }() // what was asked has been answered
	for _, h := range c.Health(ctx) {
		if h.OK {
			check.Status = CheckWarning
			check.Detail = fmt.Sprintf("%s serves at %s: %s becomes a copy of its past beside it, and what it writes from the backup on is not in the copy; no client may use both", e.Cluster, h.Endpoint, r.Cluster)
		}
	}
	return []Check{check}
}

// hold keeps the stores from expiring anything of either cluster. A store that cannot be reached is no reason to leave a cluster down.
func (x *execution) hold(ctx context.Context) {
	for _, repo := range x.repositories() {
		err := repo.CreateHold(ctx, catalog.Hold{Run: x.plan.Run, Cluster: x.Cluster, Started: x.plan.Started,
			Owner: fmt.Sprintf("%s on %s, pid %d", x.Owner.User, x.Owner.Host, x.Owner.PID)})
		if err != nil && ctx.Err() == nil {
			x.note("backups are not held while this runs: %v", err)
		}
	}
}

// releaseHolds undoes hold.
func (x *execution) releaseHolds(ctx context.Context, run string) error {
	var failed error
	for _, repo := range x.repositories() {
		failed = errors.Join(failed, repo.ReleaseHold(ctx, run))
	}
	return failed
}

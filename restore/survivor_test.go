package restore_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/restore"
)

// An account holds what etcd acknowledged.
type account struct {
	mu    sync.Mutex
	acked map[string]string
	done  sync.WaitGroup
	end   context.CancelFunc
}

// write puts keys from many writers at once until they are told otherwise.
func (b *bed) write(writers int) *account {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.t.Context())
	a := &account{acked: map[string]string{}, end: cancel}
	client := b.Client(b.t)
	for w := range writers {
		a.done.Go(func() {
			for n := 0; ; n++ {
				key, value := fmt.Sprintf("/acked/%d/%d", w, n), fmt.Sprintf("value %d of %d %s", n, w, strings.Repeat("x", n%300))
				attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
				_, err := client.Put(attempt, key, value)
				cancel()
				if ctx.Err() != nil {
					return
				}
				if err != nil { // an election, or the end
					select {
					case <-ctx.Done():
					case <-time.After(20 * time.Millisecond):
					}
					continue
				}
				a.mu.Lock()
				a.acked[key] = value
				a.mu.Unlock()
			}
		})
	}
	b.t.Cleanup(a.stop)
	return a
}

func (a *account) stop() {
	a.end()
	a.done.Wait()
}

// waitFor waits until so many writes were acknowledged.
func (a *account) waitFor(t *testing.T, n int) {
	t.Helper()
	deadline := time.Now().Add(3 * time.Minute)
	for {
		a.mu.Lock()
		got := len(a.acked)
		a.mu.Unlock()
		if got >= n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("only %d writes were acknowledged", got)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// mustHold fails for every acknowledged write that is not among the rows.
func (a *account) mustHold(t *testing.T, rows []etcdtest.Row) {
	t.Helper()
	a.stop()
	have := map[string]string{}
	for _, r := range rows {
		have[r.Key] = string(r.Value)
	}
	lost := 0
	for key, value := range a.acked {
		if have[key] != value {
			lost++
		}
	}
	t.Logf("%d writes were acknowledged, %d of them lost", len(a.acked), lost)
	if lost > 0 {
		t.Errorf("%d of %d acknowledged writes are lost", lost, len(a.acked))
	}
}

// killAll ends all members at the same moment, as a power loss does.
func killAll(t *testing.T, members []*etcdtest.Member) {
	var all sync.WaitGroup
	for _, m := range members {
		all.Go(func() { m.Kill(t) })
	}
	all.Wait()
}

// freshest is the member whose log goes farthest.
func freshest(t *testing.T, members []*etcdtest.Member) *etcdtest.Member {
	t.Helper()
	return slices.MaxFunc(members, func(a, b *etcdtest.Member) int {
		x, y := logOf(t, a), logOf(t, b)
		return cmp.Or(cmp.Compare(x.Term, y.Term), cmp.Compare(x.Index, y.Index))
	})
}

func logOf(t *testing.T, m *etcdtest.Member) dbfile.Log {
	t.Helper()
	log, err := dbfile.ReadLog(t.Context(), filepath.Join(m.DataDir, "member", "wal"))
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// The power goes on all members in mid-write, and two of three disks with it: from the one that holds most, every acknowledged write is back, whatever version
// of etcd wrote it; the backup, which is older, is passed over and named. A rollback afterwards has them all again, from the data dirs that were kept.
func TestSurvivorOfPowerLoss(t *testing.T) {
	for _, version := range []string{etcdtest.V34, etcdtest.Latest} { // internal/dbfile compares what all versions wrote
		t.Run(version, func(t *testing.T) {
			b := newBed(t, etcdtest.Options{Version: version})
			b.fill(50)
			taken := b.backup()
			writes := b.write(24)
			writes.waitFor(t, 1000)
			killAll(t, b.Members())
			writes.stop()
			best := freshest(t, b.Members())
			for _, m := range b.Members() {
				if m != best {
					m.Wipe(t)
				}
			}
			plan, err := b.restorer(nil).Plan(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			log := logOf(t, best)
			if s := plan.Source; s.Kind != "survivor" || s.ID != best.Name || s.Term != log.Term || s.Index != log.Index || !strings.Contains(plan.Text(), "older than the survivor") ||
				!strings.Contains(plan.Text(), taken.ID) {
				t.Errorf("the survivor is %s, term %d, index %d; planned:\n%s", best.Name, log.Term, log.Index, plan.Text())
			}
			report := b.run()
			if report.Source.Kind != "survivor" || report.RPOSeconds != 0 {
				t.Errorf("source %+v, RPO %v s (%s)", report.Source, report.RPOSeconds, report.RPOBasis)
			}
			rows := b.rows()
			writes.mustHold(t, rows)
			if version != etcdtest.Latest {
				return
			}
			// One of the three was kept: what was only in its log is there again.
			report, err = b.restorer(nil, func(o *restore.Options) { o.DiscardWrites = true }).Rollback(t.Context(), "")
			if err != nil {
				t.Fatalf("rollback: %v", err)
			}
			writes.mustHold(t, b.rows())
			etcdtest.MustEqual(t, rows, b.rows())
		})
	}
}

// A follower goes, and later the leader, under load: the one that is left runs on without a quorum, and holds every acknowledged write, some of them
// in its log alone. It is read while it runs.
func TestRunningSurvivor(t *testing.T) {
	b := newBed(t, etcdtest.Options{})
	b.fill(50)
	b.backup()
	followers := b.Followers(t)
	followers[0].Kill(t)
	writes := b.write(24)
	writes.waitFor(t, 500)
	leader := b.Leader(t)
	leader.Kill(t)
	writes.stop()
	for _, m := range b.Members() {
		if !m.Running() {
			m.Wipe(t)
		}
	}
	report := b.run()
	left := ""
	for _, m := range b.Members() {
		if m != leader && m != followers[0] {
			left = m.Name
		}
	}
	if report.Source.Kind != "survivor" || report.Source.ID != left {
		t.Errorf("source %+v, %s is left", report.Source, left)
	}
	writes.mustHold(t, b.rows())
}

// What is behind a backup is not restored by default, what disagrees is shown with its term and index, and the operator may choose otherwise.
func TestSurvivorsCompared(t *testing.T) {
	// The database files are not written out while the members run: nothing but the logs tells how far they are.
	b := newBed(t, etcdtest.Options{ExtraFlags: []string{"--backend-batch-interval=1h"}})
	client := b.fill(50)
	// One disk is old: its member was away while the others went on.
	old := b.Followers(t)[0]
	old.Kill(t)
	etcdtest.MustFill(t, client, etcdtest.FillOptions{Prefix: "/more/", Keys: 50})
	for i := range 30 {
		etcdtest.Put(t, client, fmt.Sprintf("/more/again/%d", i), "x")
	}
	rest := slices.DeleteFunc(slices.Clone(b.Members()), func(m *etcdtest.Member) bool { return m == old })
	killAll(t, rest)

	plan := func(change ...func(*restore.Options)) restore.Plan {
		t.Helper()
		p, err := b.restorer(nil, change...).Plan(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	from := func(source string) func(*restore.Options) { return func(o *restore.Options) { o.From = source } }
	b.setup.Options.TargetVersion = etcdtest.Latest // a cluster this young has not written down which version it has

	p := plan() // there is no backup at all
	if p.Source.Kind != "survivor" || p.Source.ID == old.Name || len(p.Source.Candidates) != 3 {
		t.Errorf("planned without a backup:\n%s", p.Text())
	}
	if !slices.ContainsFunc(p.Source.Candidates, func(c restore.Candidate) bool {
		return c.ID == old.Name && c.Index == logOf(t, old).Index && strings.Contains(c.Why, "behind")
	}) {
		t.Errorf("%s is not told to be behind:\n%s", old.Name, p.Text())
	}
	if p := plan(from("survivor:" + old.Name)); p.Source.ID != old.Name || p.Source.Revision >= 60 {
		t.Errorf("planned from %s, which went to revision 57 or so:\n%s", old.Name, p.Text())
	}
	if _, err := b.restorer(nil, from("survivor:nobody")).Plan(t.Context()); !errors.Is(err, restore.ErrNothingToRestore) || !strings.Contains(err.Error(), rest[0].Name) {
		t.Errorf("from a member that is not there: %v", err)
	}

	// With the others' disks gone and a backup that is ahead of the old one, the backup is the freshest.
	for _, m := range rest {
		m.Start(t)
	}
	for _, m := range rest {
		m.WaitHealthy(t)
	}
	taken := b.backup()
	if _, err := b.restorer(nil, overHealthy, from("survivor:"+old.Name)).Plan(t.Context()); err == nil || !strings.Contains(err.Error(), "serves with a quorum") {
		t.Errorf("from a survivor of a cluster that serves: %v", err)
	}
	killAll(t, rest)
	for _, m := range rest {
		m.Wipe(t)
	}
	p = plan()
	if p.Source.ID != taken.ID || !strings.Contains(p.Text(), "not ahead of the backup") {
		t.Errorf("planned with an old disk and a newer backup:\n%s", p.Text())
	}

	// A cluster of its own that somebody began on the other hosts is another history.
	for _, m := range rest {
		m.Args = append(slices.DeleteFunc(slices.Clone(m.Args), func(a string) bool { return strings.HasPrefix(a, "--initial-cluster=") }),
			"--initial-cluster="+m.Name+"="+m.PeerURL, "--initial-cluster-token=by hand")
	}
	rest[0].Start(t)
	rest[0].WaitHealthy(t)
	other, err := clientv3.New(b.ClientConfig(rest[0].ClientURL))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for i := range 200 {
		etcdtest.Put(t, other, fmt.Sprint("/other/", i%10), "x")
	}
	rest[0].Kill(t)
	_, err = b.restorer(nil).Plan(t.Context())
	var refused agents.Refusal
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "another history") || !strings.Contains(err.Error(), "--from survivor:"+rest[0].Name) ||
		!strings.Contains(err.Error(), "term ") {
		t.Errorf("with the data of another cluster that went further than the backup: %v", err)
	}
	if p := plan(from("store")); p.Source.ID != taken.ID {
		t.Errorf("planned from the store:\n%s", p.Text())
	}
	// Its few keys are a doubt of their own, although it was asked for by name.
	if p := plan(from("survivor:" + rest[0].Name)); p.Source.ID != rest[0].Name {
		t.Errorf("planned from %s:\n%s", rest[0].Name, p.Text())
	}
}

// A plan that restores a survivor outlives its spool: the survivor is read once more. And if the cluster gets its quorum back in the middle, and takes writes,
// nothing is exchanged: what was prepared lacks them.
func TestSurvivorInterrupted(t *testing.T) {
	b := newBed(t, etcdtest.Options{})
	b.fill(50)
	b.backup()
	left, others := b.Members()[0], b.Members()[1:]
	writes := b.write(8)
	writes.waitFor(t, 100)
	killAll(t, others)
	writes.stop()

	cutAt := func(point string, do func()) error {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var once sync.Once
		_, err := b.restorer(func(at string) {
			if at == point {
				once.Do(func() {
					if do != nil {
						do()
					} else {
						cancel()
					}
				})
			}
		}).Run(ctx)
		return err
	}
	var stopped *restore.Stopped
	err := cutAt("done:stage", func() {
		for _, m := range others {
			m.Start(t)
		}
		left.WaitHealthy(t)
		etcdtest.Put(t, b.Client(t, left.ClientURL), "/data/late", "with a quorum")
	})
	if !errors.As(err, &stopped) || stopped.Step != restore.StepStop || !strings.Contains(err.Error(), "raft log went on") {
		t.Fatalf("the cluster had a quorum again in the middle: %v", err)
	}
	if _, err := b.restorer(nil).Rollback(t.Context(), ""); err != nil {
		t.Fatalf("rollback: %v", err)
	}
	b.Cluster.WaitHealthy(t)
	if !slices.ContainsFunc(b.rows(), func(r etcdtest.Row) bool { return r.Key == "/data/late" }) {
		t.Fatal("what the cluster had taken is gone")
	}

	killAll(t, b.Members())
	if err := cutAt("after:stage:1", nil); !errors.As(err, &stopped) {
		t.Fatalf("cut off while staging: %v", err)
	}
	spool, err := filepath.Glob(filepath.Join(b.Spool, "*"))
	if err != nil || len(spool) == 0 {
		t.Fatalf("the spool holds %v, %v", spool, err)
	}
	for _, path := range spool {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
	report := b.run()
	if report.Source.Kind != "survivor" || !report.Resumed {
		t.Errorf("report %+v", report)
	}
	rows := b.rows()
	writes.mustHold(t, rows)
	if !slices.ContainsFunc(rows, func(r etcdtest.Row) bool { return r.Key == "/data/late" }) {
		t.Error("/data/late is lost")
	}
}

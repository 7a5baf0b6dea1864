package backup_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/requorum/requorum/backup"
	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/file"
	"github.com/requorum/requorum/storage/memory"
	"github.com/requorum/requorum/storage/repository"
)

func TestMain(m *testing.M) {
	dbfile.RunChild()
	takeChild()
	os.Exit(m.Run())
}

// A bed is a cluster with a repository.
type bed struct {
	servers  *etcdtest.Cluster
	client   *cluster.Client
	stores   []repository.Named
	identity *age.X25519Identity
	repo     *repository.Repository
	log      *lockedBuffer
	clock    func() time.Time
	spool    string
}

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newBed makes a repository in the given stores, or in one in memory, for the cluster.
func newBed(t *testing.T, servers *etcdtest.Cluster, stores ...storage.Store) *bed {
	t.Helper()
	b := &bed{servers: servers, log: &lockedBuffer{}, spool: filepath.Join(t.TempDir(), "spool")}
	var err error
	if b.identity, err = age.GenerateX25519Identity(); err != nil {
		t.Fatal(err)
	}
	if len(stores) == 0 {
		stores = []storage.Store{memory.New(time.Now)}
	}
	for i, s := range stores {
		b.stores = append(b.stores, repository.Named{Name: []string{"main", "offsite", "third"}[i], Store: s})
	}
	b.repo = b.repository(t, b.identity)
	o := cluster.Options{Endpoints: servers.Endpoints()}
	if servers.Certs != nil {
		o.TLS = servers.Certs.ClientTLS(servers.Certs.Client)
	}
	b.client = b.dial(t, o)
	return b
}

// dial is patient: a member that is slow to answer is passed over with a warning.
func (b *bed) dial(t *testing.T, o cluster.Options) *cluster.Client {
	t.Helper()
	if o.DialTimeout == 0 {
		o.DialTimeout = 30 * time.Second
	}
	c, err := cluster.Dial(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (b *bed) repository(t *testing.T, ids ...age.Identity) *repository.Repository {
	t.Helper()
	r, err := repository.New(repository.Options{
		Cluster: "dcs", Stores: b.stores, Recipients: []age.Recipient{b.identity.Recipient()}, Identities: ids,
		Log: slog.New(slog.NewTextHandler(b.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (b *bed) options(changes ...func(*backup.TakeOptions)) backup.TakeOptions {
	o := backup.TakeOptions{
		Cluster: "dcs", Client: b.client, Repository: b.repo, Spool: backup.Spool{Dir: b.spool},
		Config: json.RawMessage(`{"path":"dcs"}`), Version: "test", Host: "host1", User: "tester",
		Log: slog.New(slog.NewTextHandler(b.log, nil)), Now: b.clock,
	}
	for _, change := range changes {
		change(&o)
	}
	return o
}

func (b *bed) take(t *testing.T, changes ...func(*backup.TakeOptions)) backup.Result {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; {
		r, err := backup.Take(t.Context(), b.options(changes...))
		if err == nil {
			return r
		}
		// In the middle of an election there is no member to be backed up.
		if !errors.As(err, new(*cluster.Unusable)) && !errors.Is(err, cluster.ErrNoLeader) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// empty fails the test unless nothing of a backup is visible, nor anything in the spool.
func (b *bed) empty(t *testing.T) {
	t.Helper()
	snaps, err := b.repo.Snapshots(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	if len(snaps) > 0 {
		t.Errorf("visible backups: %+v", snaps)
	}
	b.noSpool(t)
	b.noObjects(t)
}

// noObjects fails the test if a store holds data of a backup, or a line.
func (b *bed) noObjects(t *testing.T) {
	t.Helper()
	for _, s := range b.stores {
		for o, err := range s.Store.List(t.Context(), "dcs/", "") {
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(o.Key, "dcs/runs/") {
				t.Errorf("store %s holds %s", s.Name, o.Key)
			}
		}
	}
}

func (b *bed) noSpool(t *testing.T) {
	t.Helper()
	entries, err := os.ReadDir(b.spool)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if len(entries) > 0 {
		t.Errorf("the spool holds %v", entries)
	}
}

func (b *bed) runs(t *testing.T) []catalog.Run {
	t.Helper()
	runs, err := b.repo.Runs(context.WithoutCancel(t.Context()), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	return runs
}

// fetch returns the stored database as a file that was checked again.
func (b *bed) fetch(t *testing.T, m catalog.Manifest) (*os.File, dbfile.Report) {
	t.Helper()
	snaps, err := b.repo.Snapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(snaps, func(s catalog.Snapshot) bool { return s.ID == m.ID })
	if i < 0 {
		t.Fatalf("backup %s is not listed", m.ID)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := b.repo.Fetch(t.Context(), snaps[i], m, f, nil); err != nil {
		t.Fatal(err)
	}
	report, err := dbfile.CheckInChild(t.Context(), f, dbfile.CheckOptions{TrailerRequired: true})
	if err != nil {
		t.Fatal(err)
	}
	return f, report
}

func directory(t *testing.T) storage.Store {
	t.Helper()
	s, err := file.New(file.Options{Dir: filepath.Join(t.TempDir(), "store")})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// stages records Progress.
type stages struct {
	mu       sync.Mutex
	started  map[string]int
	done     []string
	advanced map[string]int64
	onStart  func(stage string)
}

func (s *stages) Start(stage string, _ int64) {
	s.mu.Lock()
	if s.started == nil {
		s.started, s.advanced = map[string]int{}, map[string]int64{}
	}
	s.started[stage]++
	s.mu.Unlock()
	if s.onStart != nil {
		s.onStart(stage)
	}
}

func (s *stages) Advance(stage string, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advanced[stage] += n
}

func (s *stages) Done(stage, _ string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = append(s.done, stage)
}

func (s *stages) has(stage string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.done, stage)
}

// leasedFacts counts the leased keys, and the one key that it selects.
func leasedFacts() backup.Agents {
	return backup.Agents{
		Select: dbfile.Select{Prefixes: []string{"/fill/0000000"}},
		Facts: func(_ context.Context, kv backup.KeyReader) (catalog.Facts, []string, error) {
			f := catalog.Facts{Format: catalog.Format, Leased: []catalog.LeasedPrefix{{Prefix: "/locks/"}}}
			for pair := range kv.Keys("/locks/") {
				f.Leased[0].Count++
				f.Leased[0].TTLMax, _ = kv.Lease(pair.Lease)
			}
			for range kv.Keys("/fill/") {
				f.Agents = append(f.Agents, catalog.AgentFacts{Name: "fill"})
			}
			return f, []string{"agents say"}, nil
		},
	}
}

func TestTakeEveryVersion(t *testing.T) {
	for _, version := range etcdtest.Versions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			servers := etcdtest.StartCluster(t, etcdtest.Options{Version: version})
			admin := servers.Client(t)
			etcdtest.MustFill(t, admin, etcdtest.FillOptions{Keys: 1000})
			etcdtest.Compact(t, admin, etcdtest.Revision(t, admin))
			etcdtest.Lease(t, admin, 2*time.Hour, "/locks/a", "/locks/b")
			revision := etcdtest.Revision(t, admin)
			servers.WaitHealthy(t) // after a linearizable read each has that revision
			before := servers.Leader(t)
			b := newBed(t, servers, directory(t), memory.New(time.Now))
			progress := &stages{}
			r := b.take(t, func(o *backup.TakeOptions) { o.Prove, o.Progress, o.Agents = true, progress, leasedFacts() })

			if r.Revision != revision || r.Keys != 1002 || r.Leases != 1 || r.Cluster != "dcs" || r.Source != catalog.SourceLive {
				t.Errorf("manifest %+v, want revision %d", r.Manifest, revision)
			}
			leader := servers.Leader(t)
			if r.Member == nil || r.Member.Name == leader.Name && leader == before || r.Member.ServerVersion != version || len(r.Members) != 3 {
				t.Errorf("taken from %+v of %d members, the leader is %s", r.Member, len(r.Members), leader.Name)
			}
			for _, p := range r.Proofs {
				if !p.OK {
					t.Errorf("not proven: %+v", p)
				}
			}
			if len(r.Proofs) != 5 || !slices.Equal(r.Stores, []string{"main", "offsite"}) || r.Codec != catalog.CodecZstdAge {
				t.Errorf("proofs %+v, stores %q, codec %s", r.Proofs, r.Stores, r.Codec)
			}
			if len(r.Alerts) != 0 || !slices.Equal(r.Warnings, []string{"agents say"}) || !slices.Equal(r.Manifest.Warnings, r.Warnings) {
				t.Errorf("warnings %q, in the manifest %q, alerts %q; want those of the agents alone", r.Warnings, r.Manifest.Warnings, r.Alerts)
			}
			for _, stage := range []string{backup.StageChoose, backup.StageStream, backup.StageUpload, backup.StageCheck, backup.StageProve, backup.StageCommit, backup.StageCopy} {
				if r.Seconds[stage] <= 0 || progress.started[stage] != 1 || !slices.Contains(progress.done, stage) {
					t.Errorf("stage %s: %v s, progress %+v", stage, r.Seconds[stage], progress)
				}
			}
			for _, stage := range []string{backup.StageStream, backup.StageUpload} {
				if progress.advanced[stage] != r.Data.Bytes {
					t.Errorf("stage %s went through %d bytes of %d", stage, progress.advanced[stage], r.Data.Bytes)
				}
			}
			_, report := b.fetch(t, r.Manifest)
			if report.SHA256 != r.Data.SHA256 || catalog.HashKV(report.HashKV) != r.HashKV {
				t.Errorf("what is stored is %+v, the manifest says %+v", report, r.Manifest)
			}
			facts, err := b.repo.Facts(t.Context(), r.Snapshot().In("main"), r.Manifest)
			if err != nil || len(facts.Leased) != 1 || facts.Leased[0].Prefix != "/locks/" || facts.Leased[0].Count != 2 || facts.Leased[0].TTLMax != 7200 || len(facts.Agents) != 10 {
				t.Errorf("facts %+v, %v", facts, err)
			}
			runs := b.runs(t)
			if len(runs) != 1 || runs[0].Outcome != "ok" || runs[0].Snapshot != r.ID || runs[0].Seen == nil || runs[0].Seen.Revision != revision || runs[0].Seen.Line != r.Line {
				t.Errorf("records %+v", runs)
			}
			b.noSpool(t)

			again := b.take(t)
			if again.Line != r.Line || again.ID == r.ID || len(again.Alerts) != 0 {
				t.Errorf("the next backup is of line %s, alerts %q; want line %s and no alert", again.Line, again.Alerts, r.Line)
			}
		})
	}
}

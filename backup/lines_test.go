package backup_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/backup"
	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/storage/catalog"
)

func lines(t *testing.T, b *bed) []catalog.Line {
	t.Helper()
	all, err := b.repo.Lines(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// etcd's cluster id is the same after a rebuild under the same URLs and token.
func TestRebuildUnderTheSameURLsAndToken(t *testing.T) {
	servers := etcdtest.StartCluster(t, etcdtest.Options{Members: 1})
	etcdtest.MustFill(t, servers.Client(t), etcdtest.FillOptions{Keys: 200})
	b := newBed(t, servers)
	first := b.take(t)
	servers.Stop(t)
	servers.Wipe(t)
	servers.Start(t)
	second := b.take(t)
	if second.ClusterID != first.ClusterID {
		t.Fatalf("the cluster id changed from %s to %s: this test says nothing", first.ClusterID, second.ClusterID)
	}
	all := lines(t, b)
	if second.Line == first.Line || len(all) != 2 || all[1].Parent != first.Line || all[1].ParentKnown {
		t.Errorf("lines %+v, the backups are of %s and %s", all, first.Line, second.Line)
	}
	if text := strings.Join(second.Alerts, "\n"); !strings.Contains(text, "no requorum run opened") || !strings.Contains(text, "fewer than half") {
		t.Errorf("alerts %q, want those of a line that nobody opened and of lost keys", second.Alerts)
	}
	if third := b.take(t); third.Line != second.Line || len(third.Alerts) != 0 {
		t.Errorf("the next backup is of %s, alerts %q; want %s and none", third.Line, third.Alerts, second.Line)
	}
}

// A restore by etcdutl keeps the cluster id, and goes on from the revision of its snapshot.
func TestRebuildByHand(t *testing.T) {
	servers := etcdtest.StartCluster(t, etcdtest.Options{Members: 1})
	admin := servers.Client(t)
	etcdtest.MustFill(t, admin, etcdtest.FillOptions{Keys: 200})
	b := newBed(t, servers)
	first := b.take(t)
	snapshot := filepath.Join(t.TempDir(), "snapshot.db")
	if err := backup.Export(t.Context(), first.Snapshot().In("main"), snapshot, backup.ExportOptions{Repository: b.repo}); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		etcdtest.Put(t, admin, "/later", "x")
	}
	second := b.take(t)
	if second.Line != first.Line {
		t.Fatalf("line %s after %s", second.Line, first.Line)
	}
	servers.Stop(t)
	servers.Wipe(t)
	m := servers.Members[0]
	out, err := exec.Command(etcdtest.Binary(t, "etcdutl", etcdtest.Latest), "snapshot", "restore", snapshot, "--data-dir", m.DataDir, "--name", m.Name,
		"--initial-cluster", servers.InitialCluster(), "--initial-advertise-peer-urls", m.PeerURL, "--initial-cluster-token", servers.Token()).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	servers.Start(t)
	third := b.take(t)
	if third.ClusterID != first.ClusterID || third.Line == first.Line {
		t.Errorf("the rebuilt cluster %s is of line %s, as before; want a new one (cluster %s before)", third.ClusterID, third.Line, first.ClusterID)
	}
	if len(third.Alerts) != 1 || !strings.Contains(third.Alerts[0], "no requorum run opened") {
		t.Errorf("alerts %q", third.Alerts)
	}
}

func TestTwoClustersUnderOneName(t *testing.T) {
	one := etcdtest.StartCluster(t, etcdtest.Options{Members: 1, Token: "one"})
	two := etcdtest.StartCluster(t, etcdtest.Options{Members: 1, Token: "two"})
	for _, c := range []*etcdtest.Cluster{one, two} {
		etcdtest.MustFill(t, c.Client(t), etcdtest.FillOptions{Keys: 100})
	}
	b := newBed(t, one)
	now := time.Now()
	b.clock = func() time.Time { now = now.Add(time.Minute); return now }
	other := newBed(t, two)
	other.repo, other.clock = b.repo, b.clock
	first := b.take(t)
	foreign := other.take(t)
	again := b.take(t)
	if foreign.Line == first.Line || again.Line != first.Line {
		t.Errorf("lines %s, %s of the other cluster, and %s", first.Line, foreign.Line, again.Line)
	}
	if text := strings.Join(again.Alerts, "\n"); !strings.Contains(text, "two clusters share one name") {
		t.Errorf("alerts %q", again.Alerts)
	}
	if len(first.Alerts) != 0 || len(foreign.Alerts) == 0 {
		t.Errorf("alerts %q of the first, %q of the foreign backup", first.Alerts, foreign.Alerts)
	}
}

// The backup of a member that is a few entries behind must not open a line.
func TestBackupsInQuickSuccession(t *testing.T) {
	servers := etcdtest.StartCluster(t, etcdtest.Options{})
	admin := servers.Client(t)
	b := newBed(t, servers)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				err := etcdtest.Retried(t.Context(), func() error {
					_, err := admin.Put(t.Context(), "/busy", "x")
					return err
				})
				if err != nil {
					return
				}
			}
		}
	}()
	defer func() { close(stop); <-done }()
	var line string
	for i := range 6 {
		r := b.take(t)
		if i > 0 && r.Line != line {
			t.Fatalf("backup %d opened line %s after %s: %q", i+1, r.Line, line, r.Alerts)
		}
		line = r.Line
	}
}

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// needs skips the test where a program of the distribution is missing; `make test` installs it.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%v: make test installs it", err)
		}
	}
}

// A backup does not need the program that took it: what docs/without-requorum.md says works, with age, zstd and etcdutl.
func TestWithoutRequorum(t *testing.T) {
	t.Parallel()
	needs(t, "age", "zstd", "sha256sum")
	s := newSite(t, siteOptions{})
	s.fill(100, 500)
	want := s.rows()
	last := etcdtest.Revision(t, s.Client(t))
	taken := s.backup()
	s.lose()

	folders, err := filepath.Glob(filepath.Join(s.storeDir(), "dcs/snapshots/*/*/manifest.json"))
	if err != nil || len(folders) != 1 {
		t.Fatalf("manifests %q, %v", folders, err)
	}
	stored := filepath.Join(s.storeDir(), "dcs", taken.Data.Key)
	snapshot := filepath.Join(s.dir, "snapshot.db")
	if sum := strings.Fields(tool(t, "sha256sum", stored))[0]; sum != taken.Data.StoredSHA256 {
		t.Errorf("sha256 of the stored object is %s, the manifest says %s", sum, taken.Data.StoredSHA256)
	}
	tool(t, "sh", "-c", fmt.Sprintf("age -d -i %s %s | zstd -d > %s", filepath.Join(s.dir, "age.key"), stored, snapshot))
	if sum := strings.Fields(tool(t, "sha256sum", snapshot))[0]; sum != taken.Data.SHA256 {
		t.Errorf("sha256 of the snapshot is %s, the manifest says %s", sum, taken.Data.SHA256)
	}
	for _, m := range s.Members {
		tool(t, etcdutl(t), "snapshot", "restore", snapshot, "--name", m.Name, "--data-dir", m.DataDir,
			"--initial-cluster", s.InitialCluster(), "--initial-advertise-peer-urls", m.PeerURL, "--initial-cluster-token", "restored-by-hand",
			"--bump-revision", "1000000000", "--mark-compacted")
	}
	s.Start(t)
	etcdtest.MustEqual(t, want, s.rows())
	if now := etcdtest.Revision(t, s.Client(t)); now < last+1_000_000_000 {
		t.Errorf("the cluster is at revision %d, it had served %d", now, last)
	}

	// The next backup notices that this is another history, and says who did it: not requorum.
	next := s.backup()
	if next.Line == taken.Line || len(next.Alerts) == 0 || !strings.Contains(next.Alerts[0], "rebuilt by other means") {
		t.Errorf("after a rebuild by hand the backup is on line %s (before: %s), alerts %q", next.Line, taken.Line, next.Alerts)
	}
}

// export gives etcdutl a snapshot; import takes one of etcdctl and a member's own file, and what is imported is never restored
// unless it is named.
func TestExportAndImport(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{})
	s.fill(100, 500)
	saved := filepath.Join(s.dir, "saved.db")
	past := unleased(etcdtest.Rows(t, s.Client(t, s.Endpoints()[0]))) // as this member has it: it might be a moment behind
	tool(t, etcdtest.Binary(t, "etcdctl", etcdtest.Latest), "--endpoints", s.Endpoints()[0], "--dial-timeout=2m", "--command-timeout=2m", "snapshot", "save", saved)
	etcdtest.Put(t, s.Client(t), "/data/later", "present")
	present := s.rows()
	live := s.backup()
	s.Stop(t)
	write(t, filepath.Join(s.dir, "raw.db"), read(t, filepath.Join(s.Members[1].DataDir, "member", "snap", "db")))
	s.Wipe(t)

	exported := filepath.Join(s.dir, "exported.db")
	s.run("export", "dcs", live.ID, "-f", exported).Exits(t, command.ExitOK)
	s.run("export", "dcs", live.ID, "-f", exported).Exits(t, command.ExitError, "is there already")
	var status struct {
		Revision int64
		TotalKey int64
	}
	if err := json.Unmarshal([]byte(tool(t, etcdutl(t), "snapshot", "status", exported, "-w", "json")), &status); err != nil || status.Revision != live.Revision {
		t.Errorf("etcdutl says %+v, %v of the exported file; the backup is at revision %d", status, err, live.Revision)
	}
	if info, err := os.Stat(exported); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("an exported database, full of secrets, has mode %v, %v", info.Mode(), err)
	}

	var fromCtl, raw taken
	s.run("-o", "json", "import", "dcs", saved).Exits(t, command.ExitOK).Decode(t, &fromCtl)
	s.run("-o", "json", "import", "dcs", filepath.Join(s.dir, "raw.db")).Exits(t, command.ExitOK).Decode(t, &raw)
	if fromCtl.Line == live.Line || raw.Line == live.Line || fromCtl.Line == raw.Line {
		t.Errorf("imports share a line: %s, %s, live %s", fromCtl.Line, raw.Line, live.Line)
	}
	if len(raw.Warnings) == 0 {
		t.Error("a member's own file lacks what stood in its WAL, and nobody says so")
	}
	write(t, saved, read(t, saved)[:4096])
	s.run("import", "dcs", saved).Exits(t, command.ExitVerify)
	s.run("import", "dcs", filepath.Join(s.dir, "nothing.db")).Exits(t, command.ExitError, "nothing.db")
	s.run("verify", "dcs", "--all").Exits(t, command.ExitOK)

	s.restore() // nothing is named: the live one
	etcdtest.MustEqual(t, present, s.rows())
	s.restore("--at", fromCtl.ID, "--replace-healthy", "dcs")
	etcdtest.MustEqual(t, past, s.rows())
	s.restore("--at", raw.ID, "--replace-healthy", "dcs")
	etcdtest.MustEqual(t, present, s.rows())
	s.restore("--from", "file:"+exported, "--replace-healthy", "dcs")
	etcdtest.MustEqual(t, present, s.rows())
	s.run("restore", "dcs", "--yes", "--from", "file:"+saved, "--replace-healthy", "dcs").Exits(t, command.ExitVerify) // the cut one
}

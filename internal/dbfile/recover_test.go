package dbfile_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/member"
)

// recovered recovers a copy of what lies in a data dir, as a restore does.
func recovered(t testing.TB, dataDir string) (dbfile.Report, dbfile.Recovery, *os.File) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	db, err := os.Open(filepath.Join(dataDir, "member", "snap", "db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	at := check(t, db, dbfile.CheckOptions{}).ConsistentIndex
	var log bytes.Buffer
	if err := dbfile.CopyLog(ctx, filepath.Join(dataDir, "member", "wal"), at, &log); err != nil {
		t.Fatal(err)
	}
	alone := filepath.Join(t.TempDir(), "alone")
	r, err := dbfile.StageRecovery(ctx, alone, db, at, &log)
	if err != nil {
		t.Fatal(err)
	}
	if err := member.Replay(ctx, alone); err != nil {
		t.Fatal(err)
	}
	path, err := r.Finish(alone)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return check(t, f, dbfile.CheckOptions{}), r, f
}

// TestRecoverAgreesWithServers kills a server of every version right after its last answer, and again in the middle of its last record, and compares
// the recovered database with what the server itself makes of its data dir: the only member commits its whole log. A difference would
// be a lost acknowledged write, or an entry that means something else to this program's etcd than to the one that wrote it.
func TestRecoverAgreesWithServers(t *testing.T) {
	for _, version := range etcdtest.Versions() {
		for _, torn := range []bool{false, true} {
			name := version
			if torn {
				name += " torn"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				// Only raft's snapshots write the database, the last one a dozen entries or more before the end: however late the kill comes, the rest is in the log alone.
				c := etcdtest.StartCluster(t, etcdtest.Options{Version: version, Members: 1, ExtraFlags: []string{"--snapshot-count=100", "--backend-batch-interval=1h"}})
				m, client := c.Members[0], c.Client(t)
				workload(t, client, rand.New(rand.NewPCG(1, uint64(len(name)))), 440)
				etcdtest.Lease(t, client, 20*time.Minute, "/late/leased")
				etcdtest.Delete(t, client, "/late/leased")
				last := etcdtest.Put(t, client, "/late", strings.Repeat("v", 8<<10))
				m.Kill(t)
				if torn {
					tear(t, m.DataDir)
				}

				report, r, _ := recovered(t, m.DataDir)
				if r.Replayed == 0 {
					t.Error("nothing was in the log alone: this test shows nothing")
				}
				if report.ConsistentIndex != r.Log.Index || report.RaftTerm != r.Log.Term {
					t.Errorf("the recovered database stands at index %d of term %d, the log ended at %d of term %d",
						report.ConsistentIndex, report.RaftTerm, r.Log.Index, r.Log.Term)
				}
				if want := last - 1; torn && report.Revision != want || !torn && report.Revision != last {
					t.Errorf("revision %d of a server whose last answer was of revision %d", report.Revision, last)
				}

				m.Start(t)
				m.WaitHealthy(t)
				served := hashKV(t, client, m.ClientURL, 0)
				served.Revision = etcdtest.Revision(t, client)
				if report.HashKV != served {
					t.Errorf("recovered %+v, the server itself has %+v", report.HashKV, served)
				}
				f := take(t, client)
				if own := check(t, f, dbfile.CheckOptions{}); own.LeaseHash != report.LeaseHash || own.AuthHash != report.AuthHash || own.Keys != report.Keys {
					t.Errorf("recovered leases %s, auth %s, %d keys; the server itself has %s, %s, %d", report.LeaseHash, report.AuthHash, report.Keys,
						own.LeaseHash, own.AuthHash, own.Keys)
				}
			})
		}
	}
}

// tear makes the last record of a write-ahead log look as if the power had gone while it was written: its end is zeros.
func tear(t testing.TB, dataDir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dataDir, "member", "wal", "*.wal"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no write-ahead log: %v", err)
	}
	last := slices.Max(files)
	data, err := os.ReadFile(last)
	if err != nil {
		t.Fatal(err)
	}
	end := len(bytes.TrimRight(data, "\x00"))
	clear(data[end-4096 : end])
	if err := os.WriteFile(last, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestLogDamage reads logs that are damaged in the middle: what came before is there, and the damage is told. Missing and foreign files are told apart.
func TestLogDamage(t *testing.T) {
	c := etcdtest.StartCluster(t, etcdtest.Options{Members: 1})
	m, client := c.Members[0], c.Client(t)
	etcdtest.MustFill(t, client, etcdtest.FillOptions{Keys: 200})
	m.Kill(t)
	wal := filepath.Join(m.DataDir, "member", "wal")
	whole, err := dbfile.ReadLog(t.Context(), wal)
	if err != nil || whole.Damage != "" || whole.Index < 2 || whole.Term < 2 || whole.ClusterID == 0 {
		t.Fatalf("log %+v, error %v", whole, err)
	}
	// A log that begins above the database's end lacks entries.
	var late bytes.Buffer
	if err := dbfile.CopyLog(t.Context(), wal, whole.Index-1, &late); err != nil {
		t.Fatal(err)
	}
	if _, err := dbfile.StageRecovery(t.Context(), filepath.Join(t.TempDir(), "d"), strings.NewReader(""), whole.Index-3, &late); !errors.Is(err, dbfile.ErrLogGap) {
		t.Errorf("the last entry of a log behind a database that lacks three: %v", err)
	}

	file := filepath.Join(wal, "0000000000000000-0000000000000000.wal")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	middle := len(bytes.TrimRight(data, "\x00")) / 2
	data[middle] ^= 0xff
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	hurt, err := dbfile.ReadLog(t.Context(), wal)
	if err != nil || hurt.Damage == "" || hurt.Index >= whole.Index || hurt.Index < 2 || hurt.ClusterID != whole.ClusterID {
		t.Errorf("a flipped bit in the middle: log %+v, error %v; whole it was %+v", hurt, err, whole)
	}
	if _, err := dbfile.ReadLog(t.Context(), t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a dir without a log: %v", err)
	}

	// What is cut off on the way is not taken for a shorter log.
	var log bytes.Buffer
	if err := dbfile.CopyLog(t.Context(), wal, 0, &log); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{0, 10, log.Len() / 2, log.Len() - 1} {
		_, err := dbfile.StageRecovery(t.Context(), filepath.Join(t.TempDir(), "d"), strings.NewReader(""), 0, bytes.NewReader(log.Bytes()[:size]))
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("the first %d of %d bytes: %v", size, log.Len(), err)
		}
	}
}

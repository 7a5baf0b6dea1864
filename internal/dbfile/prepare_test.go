package dbfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/pkg/v3/traceutil"
	leases "go.etcd.io/etcd/server/v3/lease"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/member"
)

var threeMembers = []Member{
	{Name: "a", PeerURLs: []string{"http://10.0.0.1:2380"}},
	{Name: "b", PeerURLs: []string{"http://10.0.0.2:2380"}},
	{Name: "c", PeerURLs: []string{"http://10.0.0.3:2380"}},
}

// source writes a snapshot with leased keys, one of them under a lease that does not exist.
func source(t testing.TB) (path string, revision int64) {
	t.Helper()
	s := newStore(t, tempFile(t, "db"), storeDefaults)
	s.grant(1, 60)
	s.grant(2, 60)
	for range 3 {
		s.Put([]byte("plain"), []byte("p"), 0)
	}
	s.Put([]byte("leased/1"), []byte("one"), 1)
	s.Put([]byte("leased/2"), []byte("two"), 2)
	s.Put([]byte("orphan"), []byte("three"), 3)
	s.Put([]byte("gone"), []byte("four"), 1)
	s.DeleteRange([]byte("gone"), nil)
	revision = s.Rev()
	path = tempFile(t, "snapshot")
	s.snapshot(t, path)
	return path, revision
}

func TestPrepareRefuses(t *testing.T) {
	path, revision := source(t)
	alarmed := tempFile(t, "alarmed")
	s := newStore(t, tempFile(t, "db"), storeDefaults)
	schema.NewAlarmBackend(quiet(), s.backend).MustPutAlarm(&etcdserverpb.AlarmMember{MemberID: 9, Alarm: etcdserverpb.AlarmType_CORRUPT})
	s.snapshot(t, alarmed)
	for _, c := range []struct {
		name   string
		path   string
		change func(*PrepareOptions)
		says   string
	}{
		{"low target", path, func(o *PrepareOptions) { o.TargetRevision = revision + 1 }, "is not above"},
		{"same target without edits", path, func(o *PrepareOptions) { o.TargetRevision = revision }, "is not above"},
		{"two edits", path, func(o *PrepareOptions) {
			o.Edits = []Edit{{Key: []byte("plain"), Delete: true}, {Key: []byte("plain"), Value: []byte("x")}}
		}, `two edits of key "plain"`},
		{"no key", path, func(o *PrepareOptions) { o.Edits = []Edit{{Delete: true}} }, "no key"},
		{"old version", path, func(o *PrepareOptions) { o.TargetVersion = "3.3.9" }, "only 3.4 and later"},
		{"no version", path, func(o *PrepareOptions) { o.TargetVersion = "" }, "target version"},
		{"no members", path, func(o *PrepareOptions) { o.Members = nil }, "no members"},
		{"two members at one URL", path, func(o *PrepareOptions) {
			o.Members = []Member{threeMembers[0], {Name: "x", PeerURLs: threeMembers[0].PeerURLs}}
		}, "duplicate"},
		{"index of another file", path, func(o *PrepareOptions) { o.Index = &Index{revision: revision - 1} }, "the index given is of revision"},
		{"corrupt alarm", alarmed, func(o *PrepareOptions) {}, "member 9"},
		{"no file", path + ".no", func(o *PrepareOptions) {}, "no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := PrepareOptions{TargetRevision: revision + 1000, TargetVersion: "3.6.0", Members: threeMembers, Token: "t"}
			c.change(&o)
			before, _ := os.ReadFile(c.path)
			_, err := Prepare(t.Context(), c.path, o)
			if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), c.path) {
				t.Errorf("got %v, want %q and the path", err, c.says)
			}
			if c.path == alarmed && !errors.Is(err, ErrCorruptAlarm) {
				t.Errorf("%v is not ErrCorruptAlarm", err)
			}
			after, _ := os.ReadFile(c.path)
			if !bytes.HasPrefix(before, after) || len(before)-len(after) != 0 && len(before)-len(after) != 32 {
				t.Error("the file was changed, beyond its trailer")
			}
		})
	}
}

// TestPrepareEdits compares edits in the file, with and without the index, with the same done by etcd's own store: rows, hash and all.
func TestPrepareEdits(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, 2))
			s := newStore(t, tempFile(t, "db"), storeDefaults)
			s.keys = randomKeys(rnd, 60)
			for range 400 {
				s.step(rnd)
			}
			s.Put([]byte("/end"), nil, 0)
			path := tempFile(t, "snapshot")
			s.snapshot(t, path)

			o := PrepareOptions{TargetVersion: "3.7.0", Members: threeMembers, Token: "t"}
			seen := map[string]bool{}
			for _, k := range s.keys {
				if seen[k] {
					continue
				}
				seen[k] = true
				switch rnd.IntN(4) {
				case 0:
					o.Edits = append(o.Edits, Edit{Key: []byte(k), Delete: true})
				case 1:
					o.Edits = append(o.Edits, Edit{Key: []byte(k), Value: []byte("edited")})
				}
			}
			o.DropLeases = []int64{1, 2, 99}
			sel := Select{}
			if seed%2 == 0 {
				sel.Prefixes = []string{"/"}
			}
			r, err := CheckInChild(t.Context(), open(t, path), CheckOptions{Select: sel})
			if err != nil {
				t.Fatal(err)
			}
			if o.Index = r.Index; seed%4 == 3 {
				o.Index = nil
			}
			done, err := Prepare(t.Context(), path, o)
			if err != nil {
				t.Fatal(err)
			}

			// The same by etcd's store: deletions in key order, then puts in key order, in one transaction.
			all, err := s.Range(context.Background(), []byte{0}, []byte{}, mvcc.RangeOptions{})
			if err != nil {
				t.Fatal(err)
			}
			puts := map[string][]byte{}
			edited := map[string]bool{}
			tx := s.Write(traceutil.TODO())
			slices.SortFunc(o.Edits, func(a, b Edit) int { return bytes.Compare(a.Key, b.Key) })
			for _, e := range o.Edits {
				edited[string(e.Key)] = true
				if e.Delete {
					tx.DeleteRange(e.Key, nil)
				} else {
					puts[string(e.Key)] = e.Value
				}
			}
			for _, kv := range all.KVs {
				if (kv.Lease == 1 || kv.Lease == 2) && !edited[string(kv.Key)] {
					puts[string(kv.Key)] = kv.Value
				}
			}
			for _, k := range slices.Sorted(maps.Keys(puts)) {
				tx.Put([]byte(k), puts[k], leases.NoLease)
			}
			tx.End()
			want, kvs, revision := s.served(t, 0)

			again, err := checkHere(t, path, CheckOptions{Select: Select{Prefixes: []string{"/"}}})
			if err != nil {
				t.Fatal(err)
			}
			if again.Revision != revision || done.OpenedRevision != revision || again.HashKV.Hash != want.Hash {
				t.Errorf("prepared %+v: revision %d and HashKV %+v; etcd has %d and %+v", done, again.Revision, again.HashKV, revision, want)
			}
			found := slices.Collect(again.Index.Keys(""))
			if !slices.EqualFunc(kvs, found, func(a, b *mvccpb.KeyValue) bool { return proto.Equal(a, b) }) {
				t.Errorf("the file holds %v, etcd has %v", found, kvs)
			}
		})
	}
}

// TestPrepareClearsMissingLeases: a key whose lease is not in the file would stay for ever.
// TestPrepareRepeats prepares one snapshot, with free pages in it, several times: an interrupted restore recognises what it staged.
func TestPrepareRepeats(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 7))
	s := newStore(t, tempFile(t, "db"), storeDefaults)
	s.keys = randomKeys(rnd, 60)
	for range 2000 {
		s.step(rnd)
	}
	path := tempFile(t, "snapshot")
	s.snapshot(t, path)
	snapshot, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var first []byte
	for i := range 8 {
		if err := os.WriteFile(path, snapshot, 0o600); err != nil {
			t.Fatal(err)
		}
		o := PrepareOptions{TargetRevision: 5_000_000_000, TargetVersion: "3.7.0", Members: threeMembers, Token: "t",
			Edits: []Edit{{Key: []byte("one"), Value: make([]byte, 20_000)}, {Key: []byte("two"), Value: []byte("2")}}}
		if _, err := Prepare(t.Context(), path, o); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = got
		} else if !bytes.Equal(got, first) {
			t.Fatalf("prepared for the %d. time it has other bytes", i+1)
		}
	}
}

func TestPrepareClearsMissingLeases(t *testing.T) {
	path, revision := source(t)
	r, err := CheckInChild(t.Context(), open(t, path), CheckOptions{TrailerRequired: true})
	if err != nil {
		t.Fatal(err)
	}
	done, err := Prepare(t.Context(), path, PrepareOptions{
		TargetRevision: revision + 1000, TargetVersion: "3.5.9", Members: threeMembers, Token: "t", Index: r.Index,
		Edits: []Edit{{Key: []byte("leased/1"), Delete: true}}, DropLeases: []int64{1},
	})
	if err != nil {
		t.Fatal(err)
	}
	if done.Unleased != 1 || done.Tombstones != 1 || done.LeasesDropped != 1 || done.SourceRevision != revision || done.OpenedRevision != revision+1000 {
		t.Errorf("prepared %+v", done)
	}
	r, err = CheckInChild(t.Context(), open(t, path), CheckOptions{Select: Select{Prefixes: []string{"orphan"}}})
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for kv := range r.Index.Keys("") {
		left = append(left, fmt.Sprintf("%s lease %d version %d", kv.Key, kv.Lease, kv.Version))
	}
	if want := []string{"leased/2 lease 2 version 1", "orphan lease 0 version 2"}; !slices.Equal(left, want) {
		t.Errorf("left are %q, want %q", left, want)
	}
	if _, there := r.Index.Lease(1); there || r.Leases != 1 {
		t.Errorf("%d leases, lease 1 there: %v", r.Leases, there)
	}
	if r.CompactRevision != revision+1000 || r.Revision != revision+1000 || r.StorageVersion != "" || !slices.Equal(r.Members, []string{"a", "b", "c"}) && len(r.Members) != 3 {
		t.Errorf("the file has compact revision %d, revision %d, storage version %q, members %v", r.CompactRevision, r.Revision, r.StorageVersion, r.Members)
	}
}

// TestPrepareClearsMarks: what a downgrade under way, a newer server and the old membership left in the file would keep servers from
// starting, or make them act on it.
func TestPrepareClearsMarks(t *testing.T) {
	s := newStore(t, tempFile(t, "db"), storeDefaults)
	s.Put([]byte("k"), []byte("v"), 0)
	tx := s.backend.BatchTx()
	tx.LockOutsideApply()
	tx.UnsafePut(schema.Cluster, schema.ClusterDowngradeKeyName, []byte(`{"target-version":"3.6.0","enabled":true}`))
	tx.UnsafePut(schema.Cluster, schema.ClusterClusterVersionKeyName, []byte("3.7.0"))
	tx.UnsafePut(schema.Meta, schema.MetaConfStateName, []byte(`{"voters":[1,2]}`))
	tx.UnsafePut(schema.Meta, schema.MetaStorageVersionName, []byte("3.7.0"))
	tx.UnsafePut(schema.Members, []byte("1"), []byte(`{"id":1,"name":"old","peerURLs":["http://old:2380"]}`))
	tx.UnsafePut(schema.MembersRemoved, []byte("2"), []byte("removed"))
	tx.Unlock()
	path := tempFile(t, "snapshot")
	s.snapshot(t, path)
	before, err := checkHere(t, path, CheckOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !before.Downgrade || before.StorageVersion != "3.7.0" || !slices.Equal(before.Members, []string{"old"}) {
		t.Errorf("the check finds downgrade %v, storage version %q, members %v", before.Downgrade, before.StorageVersion, before.Members)
	}
	done, err := Prepare(t.Context(), path, PrepareOptions{TargetRevision: before.Revision + 100, TargetVersion: "3.6.2", Members: threeMembers, Token: "t"})
	if err != nil {
		t.Fatal(err)
	}
	after, err := checkHere(t, path, CheckOptions{})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(after.Members)
	if !done.Downgrade || after.Downgrade || after.StorageVersion != "3.6.0" || after.RaftTerm != before.RaftTerm+1 || after.ConsistentIndex < before.ConsistentIndex+1e9 || !slices.Equal(after.Members, []string{"a", "b", "c"}) {
		t.Errorf("prepared %+v, the check finds %+v", done, after)
	}
	err = update(path, func(tx *bolt.Tx) error {
		if tx.Bucket(schema.Cluster.Name()) != nil || tx.Bucket(schema.Meta.Name()).Get(schema.MetaConfStateName) != nil {
			t.Error("the cluster's version or raft configuration is still in the file")
		}
		if n := tx.Bucket(schema.MembersRemoved.Name()).Stats().KeyN; n != 0 {
			t.Errorf("%d removed members are still in the file", n)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestStageAlone starts a server on a snapshot as it is, with a CORRUPT alarm and a compaction under way, and compares what it serves with
// the check.
func TestStageAlone(t *testing.T) {
	if testing.Short() {
		t.Skip("starts an etcd server")
	}
	s := newStore(t, tempFile(t, "db"), storeDefaults)
	rnd := rand.New(rand.NewPCG(6, 6))
	s.keys = randomKeys(rnd, 50)
	for range 300 {
		s.step(rnd)
	}
	s.Put([]byte("/end"), nil, 0)
	schema.NewAlarmBackend(quiet(), s.backend).MustPutAlarm(&etcdserverpb.AlarmMember{MemberID: 9, Alarm: etcdserverpb.AlarmType_CORRUPT})
	tx := s.backend.BatchTx()
	tx.LockOutsideApply()
	tx.UnsafePut(schema.Meta, schema.ScheduledCompactKeyName, rowKey{main: s.Rev() - 5}.bytes())
	tx.Unlock()
	path := tempFile(t, "snapshot")
	s.snapshot(t, path)
	r, err := CheckInChild(t.Context(), open(t, path), CheckOptions{TrailerRequired: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Alarms) != 1 || r.CompactRevision != r.Revision-5 {
		t.Errorf("the check finds alarms %v and compact revision %d of %d", r.Alarms, r.CompactRevision, r.Revision)
	}
	dir := filepath.Join(t.TempDir(), "alone")
	if err := StageAlone(t.Context(), dir, open(t, path)); err != nil {
		t.Fatal(err)
	}
	got, err := member.HashOf(t.Context(), dir, r.Revision)
	if err != nil {
		t.Fatal(err)
	}
	if HashKV(got.Hash) != r.HashKV || got.Keys != r.Keys || len(got.Leases) != r.Leases || got.Current != r.Revision {
		t.Errorf("the server has %+v; the check %+v, %d keys, %d leases", got, r.HashKV, r.Keys, r.Leases)
	}
}

func TestStorageVersion(t *testing.T) {
	for target, want := range map[string]string{"3.4.0": "", "3.5.35": "", "3.6.1": "3.6.0", "3.7.3": "3.7.0", "3.9.0": "3.7.0"} {
		if got, err := storageVersion(target); got != want || err != nil {
			t.Errorf("%s: %q, %v, want %q", target, got, err, want)
		}
	}
}

// TestStage looks at what is staged, in place and on failure.
func TestStage(t *testing.T) {
	path, revision := source(t)
	if _, err := Prepare(t.Context(), path, PrepareOptions{TargetRevision: revision + 9, TargetVersion: "3.7.0", Members: threeMembers, Token: "t"}); err != nil {
		t.Fatal(err)
	}
	prepared, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := func(dir string, wal bool) MemberDir {
		d := MemberDir{DataDir: filepath.Join(dir, "deep", "b"), Name: "b", PeerURLs: threeMembers[1].PeerURLs, InitialCluster: initialCluster(threeMembers), Token: "t"}
		if wal {
			d.WALDir = filepath.Join(dir, "wals", "b")
		}
		return d
	}
	t.Run("done", func(t *testing.T) {
		dir := t.TempDir()
		d := at(dir, true)
		if err := os.MkdirAll(d.DataDir, 0o755); err != nil { // an empty one may be there
			t.Fatal(err)
		}
		if err := Stage(t.Context(), d, bytes.NewReader(prepared)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(d.DataDir, "member", "snap", "db")); err != nil || !bytes.Equal(got, prepared) {
			t.Errorf("the database is not the one prepared: %d bytes, want %d, %v", len(got), len(prepared), err)
		}
		if snaps, _ := filepath.Glob(filepath.Join(d.DataDir, "member", "snap", "*.snap")); len(snaps) != 1 {
			t.Errorf("raft snapshots: %v, want one", snaps)
		}
		if wals, _ := filepath.Glob(filepath.Join(d.WALDir, "*.wal")); len(wals) != 1 {
			t.Errorf("WAL files: %v, want one", wals)
		}
		for _, top := range []string{d.DataDir, d.WALDir} {
			err := filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
				if err != nil {
					return err
				}
				info, err := e.Info()
				if err != nil {
					return err
				}
				if mode := info.Mode().Perm(); e.IsDir() && mode != 0o700 || !e.IsDir() && mode != 0o600 {
					t.Errorf("%s has mode %o", path, mode)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		}
		for _, sub := range []string{"deep", "wals"} {
			if entries, _ := os.ReadDir(filepath.Join(dir, sub)); len(entries) != 1 {
				t.Errorf("left beside the directory: %v", entries)
			}
		}
	})
	failing, stop := context.WithCancel(t.Context())
	for name, c := range map[string]struct {
		ctx  context.Context
		db   io.Reader
		says string
	}{
		"source breaks": {t.Context(), io.MultiReader(bytes.NewReader(prepared[:5000]), errReader{}), "the source broke"},
		"cancelled":     {failing, io.MultiReader(bytes.NewReader(prepared), readerFunc(func(p []byte) (int, error) { stop(); return len(p), nil })), "context canceled"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			d := at(dir, true)
			if err := Stage(c.ctx, d, c.db); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("got %v, want %q", err, c.says)
			}
			for _, sub := range []string{"deep", "wals"} {
				if entries, _ := os.ReadDir(filepath.Join(dir, sub)); len(entries) != 0 {
					t.Errorf("left after the failure: %v", entries)
				}
			}
		})
	}
	t.Run("occupied", func(t *testing.T) {
		d := at(t.TempDir(), false)
		precious := filepath.Join(d.DataDir, "member", "precious")
		if err := os.MkdirAll(precious, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := Stage(t.Context(), d, bytes.NewReader(prepared)); err == nil || !strings.Contains(err.Error(), "not empty") {
			t.Errorf("got %v", err)
		}
		if _, err := os.Stat(precious); err != nil {
			t.Errorf("what was there is gone: %v", err)
		}
	})
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errors.New("the source broke") }

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestAddTrailer makes a snapshot of a raw database that etcdutl takes.
func TestAddTrailer(t *testing.T) {
	path := tempFile(t, "db")
	s := newStore(t, path, storeDefaults)
	s.Put([]byte("k"), []byte("v"), 0)
	s.close()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	raw, err := CheckInChild(t.Context(), f, CheckOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if raw.Trailer {
		t.Error("a raw database is said to have a trailer")
	}
	if err := AddTrailer(f, raw); err != nil {
		t.Fatal(err)
	}
	sealed, err := CheckInChild(t.Context(), f, CheckOptions{TrailerRequired: true})
	if err != nil {
		t.Fatal(err)
	}
	if sealed.HashKV != raw.HashKV || sealed.Size != raw.Size+32 {
		t.Errorf("with trailer %+v, without %+v", sealed, raw)
	}
	if err := AddTrailer(f, sealed); err != nil {
		t.Fatal(err)
	}
	if info, _ := f.Stat(); info.Size() != sealed.Size {
		t.Errorf("a second trailer was added")
	}
	if testing.Short() {
		return
	}
	out, err := exec.CommandContext(t.Context(), etcdtest.Binary(t, "etcdutl", etcdtest.Latest), "snapshot", "restore", path, "--data-dir", filepath.Join(t.TempDir(), "data")).CombinedOutput()
	if err != nil {
		t.Errorf("etcdutl does not take it: %v\n%s", err, out)
	}
}

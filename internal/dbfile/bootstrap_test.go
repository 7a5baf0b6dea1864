package dbfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/etcdserver/api/snap"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
)

// born is what a member begins with, but for its position.
type born struct {
	members  map[string]string // rows
	metadata []byte            // of the WAL
	vote     uint64
	voters   []uint64
	store    map[string]string // what the raft snapshot holds: the members once more, in etcd's older form
}

// node is one of etcd's older store.
type node struct {
	Path, Value string
	Children    map[string]node
}

func (n node) values(all map[string]string) {
	all[n.Path] = n.Value
	for _, c := range n.Children {
		c.values(all)
	}
}

// readBorn reads a data directory, and the position of its database, raft snapshot and WAL, which have to agree.
func readBorn(t *testing.T, dir string) (b born, at position) {
	t.Helper()
	b.members = map[string]string{}
	db, err := bolt.Open(filepath.Join(dir, "member", "snap", "db"), 0, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(tx *bolt.Tx) (err error) {
		if at, err = readPosition(tx); err != nil {
			return err
		}
		return tx.Bucket(schema.Members.Name()).ForEach(func(k, v []byte) error {
			b.members[string(k)] = string(v)
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err := snap.New(quiet(), filepath.Join(dir, "member", "snap")).Load()
	if err != nil {
		t.Fatal(err)
	}
	if got := (position{s.Metadata.GetIndex(), s.Metadata.GetTerm()}); got != at {
		t.Errorf("the raft snapshot in %s stands at %v, the database at %v", dir, got, at)
	}
	var tree struct{ Root node }
	if err := json.Unmarshal(s.Data, &tree); err != nil {
		t.Fatal(err)
	}
	b.store = map[string]string{}
	tree.Root.values(b.store)
	b.voters = s.Metadata.ConfState.Voters
	w, err := wal.OpenForRead(quiet(), filepath.Join(dir, "member", "wal"), &walpb.Snapshot{Index: s.Metadata.Index, Term: s.Metadata.Term})
	if err != nil {
		t.Fatal(err)
	}
	var state *raftpb.HardState
	var entries []*raftpb.Entry
	if b.metadata, state, entries, err = w.ReadAll(); err != nil {
		t.Fatal(err)
	}
	if got := (position{state.GetCommit(), state.GetTerm()}); got != at || len(entries) > 0 {
		t.Errorf("the WAL in %s stands at %v with %d entries after the snapshot, the database at %v", dir, got, len(entries), at)
	}
	b.vote = state.GetVote()
	return b, at
}

// A member begins as etcdutl snapshot restore has it begin, with the same ids and addresses, but further on in the raft log.
func TestFoundingAgreesWithEtcdutl(t *testing.T) {
	path, revision := source(t)
	prepared := tempFile(t, "prepared")
	content, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(prepared, content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	done, err := Prepare(t.Context(), prepared, PrepareOptions{TargetRevision: revision + 9, TargetVersion: "3.7.0", Members: threeMembers, Token: "token"})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range threeMembers {
		d := MemberDir{DataDir: filepath.Join(t.TempDir(), "ours"), Name: m.Name, PeerURLs: m.PeerURLs, InitialCluster: initialCluster(threeMembers), Token: "token"}
		if err := Stage(t.Context(), d, open(t, prepared)); err != nil {
			t.Fatal(err)
		}
		theirs := filepath.Join(t.TempDir(), "theirs")
		err := snapshot.NewV3(quiet()).Restore(snapshot.RestoreConfig{SnapshotPath: path, Name: m.Name, OutputDataDir: theirs,
			PeerURLs: m.PeerURLs, InitialCluster: d.InitialCluster, InitialClusterToken: d.Token})
		if err != nil {
			t.Fatal(err)
		}
		ours, at := readBorn(t, d.DataDir)
		want, low := readBorn(t, theirs)
		if !maps.Equal(ours.members, want.members) || len(ours.members) != len(done.MemberIDs) {
			t.Errorf("%s: the database names %v, that of etcdutl %v", m.Name, ours.members, want.members)
		}
		if !bytes.Equal(ours.metadata, want.metadata) || ours.vote != want.vote || !proto.Equal(&raftpb.ConfState{Voters: ours.voters}, &raftpb.ConfState{Voters: want.voters}) {
			t.Errorf("%s: the WAL is of %x, voted for %x among %x; that of etcdutl of %x, for %x among %x",
				m.Name, ours.metadata, ours.vote, ours.voters, want.metadata, want.vote, want.voters)
		}
		if !maps.Equal(ours.store, want.store) || len(ours.store) < len(threeMembers) {
			t.Errorf("%s: the raft snapshot holds %q, that of etcdutl %q", m.Name, ours.store, want.store)
		}
		if low.index > 1000 || at.index < 1e9 {
			t.Errorf("%s begins at index %d, with etcdutl at %d: the first should be above all old ones", m.Name, at.index, low.index)
		}
	}
}

// The raft log of every restore begins above those of all before, with whatever each cluster wrote in between, and from whatever
// file it is made; a number that is no index does not make it begin at a low one.
func TestRaftLogRises(t *testing.T) {
	const written = 700_000_000 // entries, of which half made revisions
	revision, highest := int64(40_000), position{index: 90_000, term: 7}
	files := []position{highest}
	for round := range 12 {
		at := files[(round*round)%len(files)].raised(revision + 1e9)
		if at.index <= highest.index {
			t.Fatalf("restore %d begins at index %d, although %d was reached before", round, at.index, highest.index)
		}
		revision += 1e9 + written/2
		highest = position{index: at.index + written, term: at.term}
		files = append(files, position{index: at.index + written/3, term: at.term}, highest)
	}
	for _, odd := range []position{{index: 1<<64 - 1}, {term: 1<<64 - 1}} {
		if at := odd.raised(5); at.index < 1e9 || at.term == 0 {
			t.Errorf("after %v the log begins at %v", odd, at)
		}
	}
}

// A database that was not prepared has no position to begin at.
func TestStageRefusesUnprepared(t *testing.T) {
	path, _ := source(t)
	d := MemberDir{DataDir: filepath.Join(t.TempDir(), "data"), Name: "a", PeerURLs: threeMembers[0].PeerURLs, InitialCluster: initialCluster(threeMembers), Token: "t"}
	f := open(t, path)
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if err := Stage(t.Context(), d, io.NewSectionReader(f, 0, info.Size()-32)); err == nil {
		t.Error("a database without a raft index was staged")
	}
	if _, err := os.Stat(d.DataDir); !os.IsNotExist(err) {
		t.Errorf("the refusal left something behind: %v", err)
	}
}

// A WAL is released only when nobody has it locked any more: an etcd that finds it locked ends at once.
func TestReleaseWAL(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "0000000000000000-0000000000000000.wal")
	holder, err := os.Create(path) // as a process that is being started has a copy of
	if err == nil {
		err = flock(holder, unix.LOCK_EX)
	}
	if err != nil {
		t.Fatal(err)
	}
	var released atomic.Bool
	time.AfterFunc(100*time.Millisecond, func() {
		released.Store(true)
		holder.Close()
	})
	if err := releaseWAL(dir); err != nil {
		t.Fatal(err)
	}
	if !released.Load() {
		t.Error("a WAL that somebody has locked counts as released")
	}
	f, err := os.Open(path)
	if err == nil {
		err = errors.Join(flock(f, unix.LOCK_EX|unix.LOCK_NB), f.Close())
	}
	if err != nil {
		t.Errorf("the WAL cannot be locked after it was released: %v", err)
	}
}

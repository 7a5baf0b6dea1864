package dbfile

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.etcd.io/etcd/server/v3/etcdserver/api/snap"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
)

// This file makes what a new cluster begins with: the rows that name its members, and each member's WAL and raft snapshot. They are
// those of etcdutl snapshot restore (TestFoundingAgreesWithEtcdutl), but that the raft log does not begin near 0.

// founding is a cluster that does not exist yet.
type founding struct {
	cluster *membership.RaftCluster
}

// found is the new cluster of the members in the form of --initial-cluster. Its ids follow from their peer URLs and the token.
func found(members, token string) (f founding, err error) {
	defer recovered(&err)
	urls, err := types.NewURLsMap(members)
	if err != nil {
		return f, err
	}
	if len(urls) == 0 {
		return f, errors.New("no members")
	}
	all := urls.URLs()
	slices.Sort(all)
	if distinct := slices.Compact(slices.Clone(all)); len(distinct) != len(all) {
		return f, fmt.Errorf("duplicate peer URL among %s", members)
	}
	f.cluster, err = membership.NewClusterFromURLsMap(quiet(), token, urls)
	return f, err
}

// quiet is a logger that says nothing, and panics where others would end the process: etcd's libraries do that on some errors.
func quiet() *zap.Logger { return zap.New(nil, zap.WithFatalHook(zapcore.WriteThenPanic)) }

// recovered makes a panic of etcd's libraries, or of bbolt on a file that it cannot read, an error.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("%v", p)
	}
}

// ids are those of the members, by name.
func (f founding) ids() map[string]uint64 {
	ids := make(map[string]uint64)
	for _, m := range f.cluster.Members() {
		ids[m.Name] = uint64(m.ID)
	}
	return ids
}

// write makes the database, which opens at revision, one of the cluster founded: nothing of its old membership stays, and its
// raft log begins above the old one.
func (f founding) write(tx *bolt.Tx, revision int64) error {
	for _, name := range [][]byte{schema.Members.Name(), schema.MembersRemoved.Name()} {
		if tx.Bucket(name) != nil {
			if err := tx.DeleteBucket(name); err != nil {
				return err
			}
		}
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	for _, m := range f.cluster.Members() {
		row, err := json.Marshal(m)
		if err != nil {
			return err
		}
		if err := tx.Bucket(schema.Members.Name()).Put(schema.BackendMemberKey(m.ID), row); err != nil {
			return err
		}
	}
	old, err := readPosition(tx)
	if err != nil {
		return err
	}
	return old.raised(revision).write(tx)
}

// bootstrap writes WAL and raft snapshot of one member, at the position that its prepared database has: a snapshot of the membership and no
// entry after it, as a member has them that was just sent a snapshot by its leader.
func bootstrap(d MemberDir, at position) (err error) {
	defer recovered(&err)
	if at.index == 0 {
		return errors.New("the database has no raft index: it was not prepared")
	}
	f, err := found(d.InitialCluster, d.Token)
	if err != nil {
		return err
	}
	self := f.cluster.MemberByName(d.Name)
	if self == nil {
		return fmt.Errorf("member %s is not in the initial cluster %s", d.Name, d.InitialCluster)
	}
	if own, err := types.NewURLs(d.PeerURLs); err != nil || !slices.Equal(own.StringSlice(), self.PeerURLs) {
		return fmt.Errorf("member %s has peer URLs %q, but %q in the initial cluster", d.Name, d.PeerURLs, self.PeerURLs)
	}
	var voters []uint64
	for _, m := range f.cluster.Members() {
		voters = append(voters, uint64(m.ID))
	}
	slices.SortFunc(voters, cmp.Compare[uint64])
	conf := &raftpb.ConfState{Voters: voters}
	index, term := proto.Uint64(at.index), proto.Uint64(at.term)

	metadata, err := proto.Marshal(&etcdserverpb.Metadata{NodeID: proto.Uint64(uint64(self.ID)), ClusterID: proto.Uint64(uint64(f.cluster.ID()))})
	if err != nil {
		return err
	}
	w, err := wal.Create(quiet(), d.wal(), metadata)
	if err != nil {
		return fmt.Errorf("create the WAL in %s: %w", d.wal(), err)
	}
	err = w.SaveSnapshot(&walpb.Snapshot{Index: index, Term: term, ConfState: conf})
	if err == nil {
		err = w.Save(&raftpb.HardState{Term: term, Vote: proto.Uint64(voters[0]), Commit: index}, nil)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		return fmt.Errorf("write the WAL in %s: %w", d.wal(), err)
	}
	if err := releaseWAL(d.wal()); err != nil {
		return fmt.Errorf("release the WAL in %s: %w", d.wal(), err)
	}
	return snap.New(quiet(), filepath.Join(d.DataDir, "member", "snap")).SaveSnap(&raftpb.Snapshot{
		Data:     etcdserver.GetMembershipInfoInV2Format(quiet(), f.cluster),
		Metadata: &raftpb.SnapshotMetadata{Index: index, Term: term, ConfState: conf},
	})
}

// releaseWAL returns when nobody holds the locks of a WAL that this process has closed. Closing is not enough: a process that is being started
// at that moment, whatever it is, has a copy of every descriptor until it runs its own program, and with it the locks. An etcd that finds its WAL
// locked ends at once.
func releaseWAL(dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range files {
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		err = flock(f, unix.LOCK_EX)
		if err == nil {
			err = flock(f, unix.LOCK_UN) // for the copies too
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// wal is where the WAL belongs.
func (d MemberDir) wal() string {
	if d.WALDir != "" {
		return d.WALDir
	}
	return filepath.Join(d.DataDir, "member", "wal")
}

// initialCluster is the members in the form of --initial-cluster.
func initialCluster(members []Member) string {
	var parts []string
	for _, m := range members {
		for _, u := range m.PeerURLs {
			parts = append(parts, m.Name+"="+u)
		}
	}
	return strings.Join(parts, ",")
}

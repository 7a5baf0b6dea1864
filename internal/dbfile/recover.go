package dbfile

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/raft/v3/raftpb"
)

// This file brings a member's database to where its write-ahead log ends. etcd's own way, --force-new-cluster, drops what the member did
// not know to be committed, although the leader may have acknowledged it, and needs a server of the version that wrote the directory.
// Here the entries that the database lacks are put behind the log of a new cluster of one, all of them committed, and a server of this
// program's own version applies them: what entries mean is the same in all versions of etcd 3.

// ErrLogGap says that a log does not begin where its database ends: the member was being sent a snapshot by its leader when it ended.
var ErrLogGap = errors.New("the log begins after the end of the database")

// A Recovery is what was put behind a database.
type Recovery struct {
	Log      Log
	Replayed int // entries that change keys, leases, users, roles or alarms
	Skipped  int // entries that change only the cluster: its members and its version
}

// StageRecovery builds, in dataDir, the data directory of a cluster of one: like StageAlone from db, a checked database file that stands
// at raft index at, and in its raft log the entries that log, written by [CopyLog] from the same index on, has beyond that. A server that is
// started on it, by member.Replay, applies them; [Recovery.Finish] makes the result the member's database again.
//
// A gap between database and log is ErrLogGap. An entry of a kind that this version does not know is an error. Memory holds the entries:
// a server writes its database ten times a second, or after ten thousand of them.
func StageRecovery(ctx context.Context, dataDir string, db io.Reader, at uint64, log io.Reader) (r Recovery, err error) {
	defer recovered(&err) // etcd's libraries end the process on some errors, by way of the logger
	l, entries, err := receiveLog(log)
	if err != nil {
		return r, err
	}
	r.Log = l
	for len(entries) > 0 && entries[0].GetIndex() <= at {
		entries = entries[1:]
	}
	if l.Index > at && (len(entries) == 0 || entries[0].GetIndex() != at+1) {
		first := l.Index
		if len(entries) > 0 {
			first = entries[0].GetIndex()
		}
		return r, fmt.Errorf("%w: the database stands at raft index %d, the log goes on at %d", ErrLogGap, at, first)
	}
	var replay [][]byte
	for _, e := range entries {
		data, err := replayable(e)
		if err != nil {
			return r, fmt.Errorf("entry %d of the raft log: %w", e.GetIndex(), err)
		}
		if data == nil {
			r.Skipped++
		} else {
			replay = append(replay, data)
		}
	}
	r.Replayed = len(replay)
	if err := StageAlone(ctx, dataDir, db); err != nil {
		return r, err
	}
	if err := appendEntries(filepath.Join(dataDir, "member", "wal"), replay); err != nil {
		return r, fmt.Errorf("write the raft log to be replayed: %w", err)
	}
	return r, nil
}

// replayable returns the request in an entry if it changes anything but the cluster itself, else nil.
func replayable(e *raftpb.Entry) ([]byte, error) {
	if e.GetType() != raftpb.EntryNormal || len(e.Data) == 0 { // members; what a new leader begins with
		return nil, nil
	}
	var r etcdserverpb.InternalRaftRequest
	if err := proto.Unmarshal(e.Data, &r); err != nil {
		return nil, nil // etcd 3.4 and 3.5 wrote names of members and the cluster's version as requests of etcd 2
	}
	switch {
	case r.Put != nil, r.DeleteRange != nil, r.Txn != nil, r.Compaction != nil, r.LeaseGrant != nil, r.LeaseRevoke != nil, r.LeaseCheckpoint != nil,
		r.Alarm != nil, r.AuthEnable != nil, r.AuthDisable != nil,
		r.AuthUserAdd != nil, r.AuthUserDelete != nil, r.AuthUserChangePassword != nil, r.AuthUserGrantRole != nil, r.AuthUserRevokeRole != nil,
		r.AuthRoleAdd != nil, r.AuthRoleDelete != nil, r.AuthRoleGrantPermission != nil, r.AuthRoleRevokePermission != nil:
		return e.Data, nil
	}
	const fieldV2 = 2 // of requests of etcd 2, as above
	for b := r.ProtoReflect().GetUnknown(); len(b) > 0; {
		num, _, n := protowire.ConsumeField(b)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		if num != fieldV2 {
			return nil, fmt.Errorf("a request of kind %d, which a newer etcd wrote: use a requorum that knows it", num)
		}
		b = b[n:]
	}
	return nil, nil
}

// appendEntries puts requests behind the write-ahead log of a lone member, as entries that are committed.
func appendEntries(dir string, requests [][]byte) (err error) {
	snaps, err := wal.ValidSnapshotEntries(quiet(), dir)
	if err != nil {
		return err
	}
	if len(snaps) == 0 {
		return errors.New("it has no snapshot to begin at")
	}
	begin := snaps[len(snaps)-1]
	w, err := wal.Open(quiet(), dir, begin)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close(), releaseWAL(dir)) }()
	w.SetUnsafeNoFsync()
	_, state, before, err := w.ReadAll()
	if err != nil {
		return err
	}
	last := begin.GetIndex()
	if len(before) > 0 {
		last = before[len(before)-1].GetIndex()
	}
	entries := make([]*raftpb.Entry, len(requests))
	for i, data := range requests {
		last++
		entries[i] = &raftpb.Entry{Type: raftpb.EntryNormal.Enum(), Term: proto.Uint64(state.GetTerm()), Index: proto.Uint64(last), Data: data}
	}
	state.Commit = proto.Uint64(last)
	return w.Save(state, entries)
}

// Finish returns the path of the database in dataDir, once a server has applied the staged log and was stopped in order, and makes it stand
// where the log ended.
func (r Recovery) Finish(dataDir string) (string, error) {
	path := filepath.Join(dataDir, "member", "snap", "db")
	err := update(path, func(tx *bolt.Tx) error {
		meta := tx.Bucket(schema.Meta.Name())
		return errors.Join(meta.Put(schema.MetaConsistentIndexKeyName, binary.BigEndian.AppendUint64(nil, r.Log.Index)),
			meta.Put(schema.MetaTermKeyName, binary.BigEndian.AppendUint64(nil, r.Log.Term)))
	})
	if err != nil {
		return "", fmt.Errorf("mark the recovered database %s: %w", path, err)
	}
	return path, nil
}

// A Position is how far a database file goes.
type Position struct {
	Revision    int64
	Index, Term uint64 // of the last raft entry applied; Term is 0 before etcd 3.5
	// ClusterVersion is the lowest of its servers' versions, without the patch: such as 3.5.0. It is empty if the file does not say.
	ClusterVersion string
}

// ReadPosition reads where the database file of a stopped member stands, without checking more of it than leads there.
func ReadPosition(path string) (Position, error) {
	revision, err := fileRevision(path)
	if err != nil {
		return Position{}, err
	}
	p := Position{Revision: revision}
	err = withPages(path, func(pages *pages, all map[string]bucket) error {
		m, err := pages.readMetaBucket(all)
		p.Index, p.Term = m.consistentIndex, m.term
		return errors.Join(err, pages.each(all, schema.Cluster.Name(), func(k, v []byte) error {
			if string(k) == string(schema.ClusterClusterVersionKeyName) {
				p.ClusterVersion = string(v)
			}
			return nil
		}))
	})
	return p, err
}

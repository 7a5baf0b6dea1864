package dbfile

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"

	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
)

// This file reads the write-ahead log of a member that is stopped, or that runs without a quorum, and takes it elsewhere. Nothing is
// locked and nothing written: a member that runs may go on.

// A Log is how far the write-ahead log of a member goes.
type Log struct {
	ClusterID uint64 `json:"cluster_id"`
	MemberID  uint64 `json:"member_id"`
	// Term and Index are those of the last entry, or of a later snapshot of the leader's. By these, the term first, raft judges which of
	// two members is further on: of those of a quorum the first holds everything that was ever acknowledged.
	Term  uint64 `json:"term"`
	Index uint64 `json:"index"`
	// Commit is the highest index that this member knew to be committed. What lies between it and Index may have been acknowledged all
	// the same: only the leader knew.
	Commit uint64 `json:"commit"`
	// Damage says where and why reading ended before the log did; empty if it was read to its end. A last record that was cut off while it
	// was written is no damage: nobody was told of it.
	Damage string `json:"damage,omitempty"`
}

// ReadLog reads the write-ahead log in dir, whose files end with .wal, to its end. A dir without any is fs.ErrNotExist. A file that ends
// where it should not, or whose checksums are wrong, is no error but the Log's Damage, as long as anything could be read before it.
func ReadLog(ctx context.Context, dir string) (Log, error) {
	log, _, err := readLog(ctx, dir, math.MaxUint64)
	return log, err
}

// CopyLog writes the entries of the write-ahead log in dir that lie above index after, with the log's own description, to w,
// for [StageRecovery] to read. Errors are those of ReadLog and of w.
func CopyLog(ctx context.Context, dir string, after uint64, w io.Writer) error {
	log, entries, err := readLog(ctx, dir, after)
	if err != nil {
		return err
	}
	b := bufio.NewWriter(w)
	if err := json.NewEncoder(b).Encode(log); err != nil { // with a line feed after it
		return err
	}
	for _, e := range entries {
		data, err := proto.Marshal(e)
		if err != nil {
			return err
		}
		if _, err := b.Write(binary.AppendUvarint(nil, uint64(len(data)))); err != nil {
			return err
		}
		if _, err := b.Write(data); err != nil {
			return err
		}
	}
	if err := b.WriteByte(0); err != nil { // an entry of no bytes is the end
		return err
	}
	return b.Flush()
}

// receiveLog reads what CopyLog wrote. That less arrives is io.ErrUnexpectedEOF.
func receiveLog(r io.Reader) (log Log, entries []*raftpb.Entry, err error) {
	defer func() {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			err = fmt.Errorf("receive the raft log: %w", err)
		}
	}()
	const longest = 1 << 30 // etcd's own limit of a request is 1.5 MB unless it is raised
	b := bufio.NewReader(r)
	line, err := b.ReadBytes('\n')
	if err != nil {
		return log, nil, err
	}
	if err := json.Unmarshal(line, &log); err != nil {
		return log, nil, err
	}
	for {
		n, err := binary.ReadUvarint(b)
		if err != nil || n == 0 {
			return log, entries, err
		}
		if n > longest {
			return log, nil, fmt.Errorf("an entry of %d bytes", n)
		}
		data := make([]byte, n)
		if _, err := io.ReadFull(b, data); err != nil {
			return log, nil, err
		}
		e := new(raftpb.Entry)
		if err := proto.Unmarshal(data, e); err != nil {
			return log, nil, err
		}
		entries = append(entries, e)
	}
}

// reading is a pass over a write-ahead log.
type reading struct {
	Log
	after   uint64
	entries []*raftpb.Entry // above after, without those that later ones replaced
	crc     uint32          // that the next file continues
}

func readLog(ctx context.Context, dir string, after uint64) (Log, []*raftpb.Entry, error) {
	names, err := logFiles(dir)
	if err != nil {
		return Log{}, nil, err
	}
	r := reading{after: after}
	for i, name := range names {
		if err := ctx.Err(); err != nil {
			return Log{}, nil, context.Cause(ctx)
		}
		err := r.file(filepath.Join(dir, name))
		if errors.Is(err, io.ErrUnexpectedEOF) && i == len(names)-1 {
			break // the last record was being written
		}
		if errors.Is(err, os.ErrNotExist) && i == 0 { // a member that runs removes old files
			continue
		}
		if err != nil {
			if r.Index == 0 {
				return Log{}, nil, fmt.Errorf("read the write-ahead log in %s: %s: %w", dir, name, err)
			}
			r.Damage = fmt.Sprintf("%s: %v", name, err)
			break
		}
	}
	if r.ClusterID == 0 {
		return Log{}, nil, fmt.Errorf("read the write-ahead log in %s: it does not say which cluster it is of", dir)
	}
	return r.Log, r.entries, nil
}

// logFiles are the names of the log's files, in order and without a gap before the last.
func logFiles(dir string) ([]string, error) {
	type file struct {
		name string
		seq  uint64
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []file
	for _, e := range entries {
		var seq, index uint64
		if _, err := fmt.Sscanf(e.Name(), "%016x-%016x.wal", &seq, &index); err == nil && filepath.Ext(e.Name()) == ".wal" {
			files = append(files, file{e.Name(), seq})
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s holds no write-ahead log: %w", dir, os.ErrNotExist)
	}
	slices.SortFunc(files, func(a, b file) int { return cmp.Compare(a.seq, b.seq) })
	var names []string
	for i, f := range files {
		if i > 0 && f.seq != files[i-1].seq+1 {
			names = nil // etcd reads from the last unbroken sequence, too
		}
		names = append(names, f.name)
	}
	return names, nil
}

// file reads one file to its end. io.ErrUnexpectedEOF is a record that is cut off.
func (r *reading) file(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	d := wal.NewDecoder(fileutil.NewFileReader(f))
	for {
		var rec walpb.Record
		switch err := d.Decode(&rec); {
		case errors.Is(err, io.EOF):
			r.crc = d.LastCRC()
			return nil
		case err != nil:
			return err
		}
		if rec.GetType() == wal.CrcType {
			if last := cmp.Or(d.LastCRC(), r.crc); last != 0 && rec.GetCrc() != last {
				return errors.New("it does not continue the file before it")
			}
			d.UpdateCRC(rec.GetCrc())
			continue
		}
		if err := r.record(&rec); err != nil {
			return err
		}
	}
}

func (r *reading) record(rec *walpb.Record) error {
	switch rec.GetType() {
	case wal.MetadataType:
		var m etcdserverpb.Metadata
		if err := proto.Unmarshal(rec.Data, &m); err != nil {
			return err
		}
		if r.ClusterID != 0 && (r.ClusterID != m.GetClusterID() || r.MemberID != m.GetNodeID()) {
			return errors.New("it is of another member than the file before it")
		}
		r.ClusterID, r.MemberID = m.GetClusterID(), m.GetNodeID()
	case wal.StateType:
		var s raftpb.HardState
		if err := proto.Unmarshal(rec.Data, &s); err != nil {
			return err
		}
		r.Commit = s.GetCommit()
	case wal.SnapshotType:
		var s walpb.Snapshot
		if err := proto.Unmarshal(rec.Data, &s); err != nil {
			return err
		}
		if s.GetIndex() > r.Index { // of the leader: it replaces all entries before it
			r.Term, r.Index, r.entries = s.GetTerm(), s.GetIndex(), nil
		}
	case wal.EntryType:
		e := new(raftpb.Entry)
		if err := proto.Unmarshal(rec.Data, e); err != nil {
			return err
		}
		r.entry(e)
	}
	return nil
}

// entry appends one. Whatever stood at its index and above is replaced by it.
func (r *reading) entry(e *raftpb.Entry) {
	r.Term, r.Index = e.GetTerm(), e.GetIndex()
	at, _ := slices.BinarySearchFunc(r.entries, e.GetIndex(), func(e *raftpb.Entry, index uint64) int { return cmp.Compare(e.GetIndex(), index) })
	r.entries = r.entries[:at]
	if e.GetIndex() > r.after {
		r.entries = append(r.entries, e)
	}
}

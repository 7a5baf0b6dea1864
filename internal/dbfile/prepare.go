package dbfile

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"

	"github.com/coreos/go-semver/semver"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/version"
	"go.etcd.io/etcd/server/v3/storage/schema"
)

// ErrCorruptAlarm refuses to prepare a file in which a CORRUPT alarm is raised: one member's data differed from the
// others', and nobody knows which was right.
var ErrCorruptAlarm = errors.New("a CORRUPT alarm is raised in the database: members disagreed, and this may be the wrong one's data; choose an older backup")

// Edit sets or deletes one key.
type Edit struct {
	Key, Value []byte // Value is ignored when Delete is set; a key that is set is unleased
	Delete     bool
}

// Member is a voting member of the cluster that a file is prepared for.
type Member struct {
	Name     string
	PeerURLs []string
}

// PrepareOptions says what becomes of a database file.
type PrepareOptions struct {
	// Edits, at most one for a key, are applied in the revision after the file's: deletions first, then puts, each in key
	// order. Deleting a key that is not there does nothing.
	Edits []Edit

	// DropLeases removes these leases. A key attached to one that no edit deletes or sets stays, in a new version without lease.
	// The same becomes of keys whose lease is not in the file: etcd would keep them for ever.
	DropLeases []int64

	// TargetRevision becomes the file's revision, and all below counts as compacted. It has to be above the revision of the
	// edits, which is the file's own and 1; 0 leaves the history as it is.
	TargetRevision int64

	// TargetVersion is the version of the servers that will start on the file, such as "3.5.35"; from 3.4 on.
	TargetVersion string

	Members []Member
	Token   string // initial cluster token

	// Index from the check of this very file spares a pass over it, unless an edit sets a key that it does not know.
	Index *Index
}

// Prepared says what Prepare made.
type Prepared struct {
	SourceRevision int64 // before
	OpenedRevision int64 // what a server opens at
	ClusterID      uint64
	MemberIDs      map[string]uint64 // by name
	Tombstones     int               // keys deleted
	Puts           int               // keys set by edits
	Unleased       int               // keys kept that lost their lease
	LeasesDropped  int
	AlarmsCleared  []Alarm
	Downgrade      bool // a cluster downgrade was under way and is no longer
}

// Prepare turns a database file that passed CheckInChild into the one with which every member of a new cluster starts:
// in place, in one transaction. The disk is not waited for, since Stage syncs what it makes of the file. It removes the trailer; applies edits; drops leases; clears all alarms but
// CORRUPT (ErrCorruptAlarm) and what a downgrade left; sets revision, compaction and membership; sets consistent index and term, above the
// file's own, at which the raft logs of the new cluster begin; and the marks by which servers of the target version know their storage. Auth is not touched. Nothing else may have the file open.
// When it fails, the file is as it was, perhaps without trailer; after a power cut nothing can be said of it.
func Prepare(ctx context.Context, path string, o PrepareOptions) (_ Prepared, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("prepare %s: %w", path, err)
		}
	}()
	defer recovered(&err)
	storage, err := storageVersion(o.TargetVersion)
	if err != nil {
		return Prepared{}, err
	}
	if err := stripTrailer(path); err != nil {
		return Prepared{}, err
	}
	index, err := liveKeys(path, o)
	if err != nil {
		return Prepared{}, err
	}
	changes, err := o.changes(index)
	if err != nil {
		return Prepared{}, err
	}
	if o.TargetRevision != 0 && o.TargetRevision <= index.revision+1 {
		return Prepared{}, fmt.Errorf("target revision %d is not above %d, the revision of the edits", o.TargetRevision, index.revision+1)
	}
	f, err := found(initialCluster(o.Members), o.Token)
	if err != nil {
		return Prepared{}, fmt.Errorf("found the new cluster: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return Prepared{}, context.Cause(ctx)
	}
	done := Prepared{SourceRevision: index.revision, ClusterID: uint64(f.cluster.ID()), MemberIDs: f.ids()}
	err = update(path, func(tx *bolt.Tx) error {
		for _, step := range []func(*bolt.Tx) error{
			done.clearAlarms,
			func(tx *bolt.Tx) error { return changes.write(tx, &done) },
			func(tx *bolt.Tx) error { return done.dropLeases(tx, o.DropLeases) },
			func(tx *bolt.Tx) error { return done.bump(tx, o.TargetRevision) },
			func(tx *bolt.Tx) error { return done.setMarks(tx, storage) },
			func(tx *bolt.Tx) error { return f.write(tx, done.OpenedRevision) },
		} {
			if err := step(tx); err != nil {
				return err
			}
		}
		return nil
	})
	return done, err
}

// update runs one transaction on the database at path. It does not sync it to disk. Unlike etcd it stores the list of free pages, so that
// whoever opens the file next need not visit every page to find them; a server drops the list with its first commit.
func update(path string, fn func(*bolt.Tx) error) error {
	db, err := bolt.Open(path, 0o600, &bolt.Options{
		Timeout:        lockTimeout,
		NoSync:         true,
		NoGrowSync:     true,                   // nor does it sync, or allocate, when it grows
		NoFreelistSync: true,                   // opening it writes nothing
		FreelistType:   bolt.FreelistArrayType, // the same pages each time: what is prepared again has the same bytes
	})
	if err != nil {
		return err
	}
	db.NoFreelistSync = false
	return errors.Join(db.Update(fn), db.Close())
}

// stripTrailer truncates the sha256 trailer away, if there is one.
func stripTrailer(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !hasTrailer(info.Size()) {
		return nil
	}
	return os.Truncate(path, info.Size()-sha256.Size)
}

// storageVersion is what the meta bucket has to say to servers of a version: nothing before 3.6.
func storageVersion(target string) (string, error) {
	v, err := semver.NewVersion(target)
	if err != nil {
		return "", fmt.Errorf("target version %q: %w", target, err)
	}
	minor := semver.Version{Major: v.Major, Minor: v.Minor}
	newest := semver.New(version.Version)
	switch {
	case v.Major != 3 || v.Minor < 4:
		return "", fmt.Errorf("target version %s: only 3.4 and later versions of etcd 3 are known", target)
	case minor.LessThan(version.V3_6):
		return "", nil
	case newest.LessThan(minor): // it will migrate from the newest that this program knows
		minor = semver.Version{Major: newest.Major, Minor: newest.Minor}
	}
	return minor.String(), nil
}

// liveKeys returns all leased keys and the current state of every key that an edit touches: from the index if it knows
// enough, else by a pass over the file.
func liveKeys(path string, o PrepareOptions) (*Index, error) {
	current, err := fileRevision(path)
	if err != nil {
		return nil, err
	}
	if o.Index != nil {
		if o.Index.revision != current {
			return nil, fmt.Errorf("the index given is of revision %d, the file of %d", o.Index.revision, current)
		}
		if o.enough(o.Index) {
			return o.Index, nil
		}
	}
	exact := make(map[string]bool)
	for _, e := range o.Edits {
		exact[string(e.Key)] = true
	}
	return readLive(path, exact)
}

// enough reports whether the index says all that the changes need.
func (o PrepareOptions) enough(x *Index) bool {
	for _, e := range o.Edits {
		if _, known := x.get(string(e.Key)); !known {
			return false
		}
	}
	return !x.truncated || !slices.ContainsFunc(x.keys, func(kv *mvccpb.KeyValue) bool { return len(kv.Value) == 0 && o.losesLease(x, kv) })
}

// losesLease reports whether a live key that no edit touches has to go on without its lease.
func (o PrepareOptions) losesLease(x *Index, kv *mvccpb.KeyValue) bool {
	if kv.Lease == 0 {
		return false
	}
	_, granted := x.leases[kv.Lease]
	return !granted || slices.Contains(o.DropLeases, kv.Lease)
}

// changes are the rows of the revision after the file's.
type changes struct {
	revision   int64
	tombstones [][]byte // keys
	puts       []*mvccpb.KeyValue
	edited     int // puts that are edits
}

func (o PrepareOptions) changes(x *Index) (changes, error) {
	c := changes{revision: x.revision + 1}
	edited := make(map[string]bool, len(o.Edits))
	for _, e := range o.Edits {
		if len(e.Key) == 0 {
			return changes{}, errors.New("an edit has no key")
		}
		if edited[string(e.Key)] {
			return changes{}, fmt.Errorf("two edits of key %q", e.Key)
		}
		edited[string(e.Key)] = true
		now, _ := x.get(string(e.Key))
		switch {
		case !e.Delete:
			c.puts = append(c.puts, c.put(e.Key, e.Value, now))
			c.edited++
		case now != nil:
			c.tombstones = append(c.tombstones, e.Key)
		}
	}
	for _, kv := range x.keys {
		if !edited[string(kv.Key)] && o.losesLease(x, kv) {
			c.puts = append(c.puts, c.put(kv.Key, kv.Value, kv))
		}
	}
	slices.SortFunc(c.tombstones, bytes.Compare)
	slices.SortFunc(c.puts, func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) })
	return c, nil
}

// put is the new version of a key, now being its current one or nil.
func (c changes) put(key, value []byte, now *mvccpb.KeyValue) *mvccpb.KeyValue {
	kv := &mvccpb.KeyValue{Key: key, Value: value, CreateRevision: c.revision, ModRevision: c.revision, Version: 1}
	if now != nil {
		kv.CreateRevision, kv.Version = now.CreateRevision, now.Version+1
	}
	return kv
}

// write adds the rows as a transaction of etcd would.
func (c changes) write(tx *bolt.Tx, done *Prepared) error {
	rows := tx.Bucket(schema.Key.Name())
	rows.FillPercent = 0.9 // as etcd has it: revisions only grow
	var sub int64
	add := func(tombstone bool, kv *mvccpb.KeyValue) error {
		v, err := proto.Marshal(kv)
		if err != nil {
			return err
		}
		k := rowKey{main: c.revision, sub: sub, tombstone: tombstone}
		sub++
		return rows.Put(k.bytes(), v)
	}
	for _, key := range c.tombstones {
		if err := add(true, &mvccpb.KeyValue{Key: key}); err != nil {
			return err
		}
	}
	for _, kv := range c.puts {
		if err := add(false, kv); err != nil {
			return err
		}
	}
	done.Tombstones, done.Puts, done.Unleased = len(c.tombstones), c.edited, len(c.puts)-c.edited
	done.OpenedRevision = done.SourceRevision
	if sub > 0 {
		done.OpenedRevision = c.revision
	}
	return nil
}

func (done *Prepared) clearAlarms(tx *bolt.Tx) error {
	alarms := tx.Bucket(schema.Alarm.Name())
	if alarms == nil {
		return nil
	}
	err := alarms.ForEach(func(k, _ []byte) error {
		a, err := parseAlarm(k)
		if err == nil && a.Type == "CORRUPT" {
			err = fmt.Errorf("%w (member %x)", ErrCorruptAlarm, a.Member)
		}
		done.AlarmsCleared = append(done.AlarmsCleared, a)
		return err
	})
	if err != nil || len(done.AlarmsCleared) == 0 {
		return err
	}
	if err := tx.DeleteBucket(schema.Alarm.Name()); err != nil {
		return err
	}
	_, err = tx.CreateBucket(schema.Alarm.Name())
	return err
}

func (done *Prepared) dropLeases(tx *bolt.Tx, ids []int64) error {
	rows := tx.Bucket(schema.Lease.Name())
	if rows == nil {
		return nil
	}
	for _, id := range ids {
		k := binary.BigEndian.AppendUint64(nil, uint64(id))
		if rows.Get(k) == nil {
			continue
		}
		if err := rows.Delete(k); err != nil {
			return err
		}
		done.LeasesDropped++
	}
	return nil
}

// bump moves the revision on and has the server compact all below it when it starts, as etcdutl snapshot restore
// --bump-revision --mark-compacted does.
func (done *Prepared) bump(tx *bolt.Tx, target int64) error {
	if target == 0 {
		return nil
	}
	done.OpenedRevision = target
	k := rowKey{main: target}.bytes()
	if err := tx.Bucket(schema.Key.Name()).Put(k, nil); err != nil {
		return err
	}
	return tx.Bucket(schema.Meta.Name()).Put(schema.ScheduledCompactKeyName, k)
}

// setMarks removes what binds the file to the version and membership of the servers that wrote it. The cluster bucket holds the
// cluster's version and the mark of a downgrade.
func (done *Prepared) setMarks(tx *bolt.Tx, storage string) error {
	if b := tx.Bucket(schema.Cluster.Name()); b != nil {
		if v := b.Get(schema.ClusterDowngradeKeyName); v != nil {
			var err error
			if done.Downgrade, err = parseDowngrade(v); err != nil {
				return fmt.Errorf("mark of a downgrade: %w", err)
			}
		}
		if err := tx.DeleteBucket(schema.Cluster.Name()); err != nil {
			return err
		}
	}
	meta := tx.Bucket(schema.Meta.Name())
	if err := meta.Delete(schema.MetaConfStateName); err != nil {
		return err
	}
	if storage == "" {
		return meta.Delete(schema.MetaStorageVersionName)
	}
	return meta.Put(schema.MetaStorageVersionName, []byte(storage))
}

// fileRevision is the revision that a server would open the database at.
func fileRevision(path string) (int64, error) {
	var r int64
	err := withPages(path, func(p *pages, all map[string]bucket) error {
		m, err := p.readMetaBucket(all)
		if err != nil {
			return err
		}
		s := newScan(m.compactRevision(), Select{})
		stop := errors.New("newest row found")
		err = p.leaves(all[string(schema.Key.Name())], descending, func(g page) error {
			if g.count == 0 {
				return nil
			}
			k, _, _ := g.element(g.count - 1)
			s.newest, err = parseRowKey(k)
			return errors.Join(err, stop)
		})
		if err != nil && !errors.Is(err, stop) {
			return err
		}
		r, err = s.checkRevision(m)
		return err
	})
	return r, err
}

// readLive reads the whole file for its leases, its leased keys and the live ones among exact.
func readLive(path string, exact map[string]bool) (*Index, error) {
	x := &Index{leases: make(map[int64]int64)}
	err := withPages(path, func(p *pages, all map[string]bucket) error {
		m, err := p.readMetaBucket(all)
		if err != nil {
			return err
		}
		err = p.each(all, schema.Lease.Name(), func(k, v []byte) error {
			l, err := parseLease(k, v)
			x.leases[l.ID] = l.TTL
			return err
		})
		if err != nil {
			return err
		}
		s := newScan(m.compactRevision(), Select{})
		s.exact, s.valueBudget = exact, math.MaxInt
		if err := p.leaves(all[string(schema.Key.Name())], descending, s.leaf); err != nil {
			return err
		}
		x.keys = s.index()
		x.revision, err = s.checkRevision(m)
		return err
	})
	return x, err
}

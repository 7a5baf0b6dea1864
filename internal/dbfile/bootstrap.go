package dbfile

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.etcd.io/etcd/server/v3/storage/schema"
)

// This file has etcd's own restore make what it knows best - WAL, raft snapshot, the rows that name the members - on an empty
// database, so that a large one is written only once.

// bootstrap restores an empty database into the data directory of one member.
func bootstrap(d MemberDir) (err error) {
	// etcd's libraries end the process on some errors, by way of the logger.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("restore an empty database: %v", p)
		}
	}()
	scratch, err := os.MkdirTemp(filepath.Dir(filepath.Clean(d.DataDir)), ".requorum-empty-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	empty := filepath.Join(scratch, "db")
	db, err := bolt.Open(empty, 0o600, &bolt.Options{NoSync: true})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, b := range schema.AllBuckets {
			if _, err := tx.CreateBucket(b.Name()); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	return snapshot.NewV3(quiet()).Restore(snapshot.RestoreConfig{
		SnapshotPath:        empty,
		SkipHashCheck:       true, // it has no trailer
		Name:                d.Name,
		OutputDataDir:       d.DataDir,
		OutputWALDir:        d.WALDir,
		PeerURLs:            d.PeerURLs,
		InitialCluster:      d.InitialCluster,
		InitialClusterToken: d.Token,
	})
}

// quiet is a logger that says nothing, and panics where others would end the process.
func quiet() *zap.Logger { return zap.New(nil, zap.WithFatalHook(zapcore.WriteThenPanic)) }

// founding is what a restore writes into the database of every member alike.
type founding struct {
	members [][2][]byte // rows of the members bucket
	marks   [][2][]byte // rows of the meta bucket: consistent_index and term
	cluster uint64
	ids     map[string]uint64
}

// found finds out what a restore would write for these members, by doing one in a directory beside path.
func found(path string, members []Member, token string) (founding, error) {
	if len(members) == 0 {
		return founding{}, errors.New("no members")
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), ".requorum-found-")
	if err != nil {
		return founding{}, err
	}
	defer os.RemoveAll(dir)
	d := MemberDir{DataDir: filepath.Join(dir, "data"), Name: members[0].Name, PeerURLs: members[0].PeerURLs, InitialCluster: initialCluster(members), Token: token}
	if err := bootstrap(d); err != nil {
		return founding{}, err
	}
	urls, err := types.NewURLsMap(d.InitialCluster)
	if err != nil {
		return founding{}, err
	}
	cl, err := membership.NewClusterFromURLsMap(quiet(), token, urls)
	if err != nil {
		return founding{}, err
	}
	f := founding{cluster: uint64(cl.ID()), ids: make(map[string]uint64)}
	for _, m := range cl.Members() {
		f.ids[m.Name] = uint64(m.ID)
	}
	db, err := bolt.Open(filepath.Join(d.DataDir, "member", "snap", "db"), 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		return founding{}, err
	}
	defer db.Close()
	err = db.View(func(tx *bolt.Tx) error {
		meta := tx.Bucket(schema.Meta.Name())
		for _, k := range [][]byte{schema.MetaConsistentIndexKeyName, schema.MetaTermKeyName} {
			f.marks = append(f.marks, [2][]byte{k, bytes.Clone(meta.Get(k))})
		}
		return tx.Bucket(schema.Members.Name()).ForEach(func(k, v []byte) error {
			f.members = append(f.members, [2][]byte{bytes.Clone(k), bytes.Clone(v)})
			return nil
		})
	})
	return f, err
}

// write makes the database one of the cluster founded: nothing of its old membership stays.
func (f founding) write(tx *bolt.Tx) error {
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
	meta, err := tx.CreateBucketIfNotExists(schema.Meta.Name())
	if err != nil {
		return err
	}
	for _, row := range f.marks {
		if err := meta.Put(row[0], row[1]); err != nil {
			return err
		}
	}
	for _, row := range f.members {
		if err := tx.Bucket(schema.Members.Name()).Put(row[0], row[1]); err != nil {
			return err
		}
	}
	return nil
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

package dbfile

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"

	"go.etcd.io/etcd/api/v3/version"
)

// lockTimeout is how long to wait for whoever has a database file locked, which nobody should.
const lockTimeout = 5 * time.Second

// MemberDir is the data directory of one member to be staged.
type MemberDir struct {
	DataDir  string // must not exist, or be empty
	WALDir   string // the same; empty: member/wal in DataDir
	Name     string
	PeerURLs []string

	InitialCluster string // "name=url,…": all members
	Token          string // initial cluster token
}

// Stage builds the data directory of one member with a prepared database, read from db to its end: WAL and raft snapshot of a new
// cluster as etcdutl snapshot restore makes them, but at the index and term that the database has, and the database. Members, peer URLs and token must be those that the database was
// prepared for. Everything is readable for the owner only and synced to disk, directories included, when Stage returns. When it fails
// or ctx ends, what it made is removed. A db that is an *os.File is copied by the kernel, shared where the file system can.
func Stage(ctx context.Context, d MemberDir, db io.Reader) error {
	err := stage(d, func(f *os.File) error {
		w := NewWriting(f)
		defer w.End()
		return copyInto(ctx, f, db, w.Advance)
	}, settle)
	if err != nil {
		return fmt.Errorf("stage member %s in %s: %w", d.Name, d.DataDir, err)
	}
	return nil
}

// aloneMember is the one member of a cluster that StageAlone makes. Nothing ever listens at its address.
var aloneMember = Member{Name: "alone", PeerURLs: []string{"http://127.0.0.1:2380"}}

// StageAlone builds the data directory of a cluster of one for servers of this program's own etcd version, with a copy of a checked
// database file, trailer or not, read from db to its end: to find out what a server makes of it. History, leases, auth and alarms
// are as in the file; only membership and marks are replaced. For the rest it is like Stage, but does not sync to disk.
func StageAlone(ctx context.Context, dataDir string, db io.Reader) error {
	d := MemberDir{DataDir: dataDir, Name: aloneMember.Name, PeerURLs: aloneMember.PeerURLs, InitialCluster: initialCluster([]Member{aloneMember}), Token: "requorum-alone"}
	err := stage(d, func(f *os.File) error {
		if err := copyInto(ctx, f, db, func(int64) {}); err != nil {
			return err
		}
		if err := stripTrailer(f.Name()); err != nil {
			return err
		}
		storage, err := storageVersion(version.Version)
		if err != nil {
			return err
		}
		cluster, err := found(d.InitialCluster, d.Token)
		if err != nil {
			return err
		}
		return update(f.Name(), func(tx *bolt.Tx) error {
			return errors.Join(new(Prepared).setMarks(tx, storage), cluster.write(tx, 0))
		})
	}, func(string) error { return nil })
	if err != nil {
		return fmt.Errorf("stage a lone member in %s: %w", dataDir, err)
	}
	return nil
}

// stage builds a data directory with the database as fill writes it, and calls finish for every directory that it made.
func stage(d MemberDir, fill func(db *os.File) error, finish func(dir string) error) error {
	return build(d, func(d MemberDir) error {
		f, err := os.OpenFile(filepath.Join(d.DataDir, "member", "snap", "db"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		if err := errors.Join(fill(f), f.Close()); err != nil {
			return err
		}
		at, err := positionOf(f.Name())
		if err != nil {
			return err
		}
		return bootstrap(d, at)
	}, finish)
}

// build makes the directories of a member, has fill put into them what they shall hold, and calls finish for every directory that it made.
// When that fails, what it made is removed.
func build(d MemberDir, fill func(d MemberDir) error, finish func(dir string) error) (err error) {
	d.DataDir = filepath.Clean(d.DataDir)
	tops := []string{d.DataDir}
	if d.WALDir != "" {
		d.WALDir = filepath.Clean(d.WALDir)
		tops = append(tops, d.WALDir)
	}
	for _, dir := range tops {
		if err := vacant(dir); err != nil {
			return err
		}
	}
	defer func() {
		if err != nil {
			for _, dir := range tops {
				err = errors.Join(err, os.RemoveAll(dir))
			}
		}
	}()
	defer recovered(&err)
	for _, dir := range []string{filepath.Join(d.DataDir, "member", "snap"), filepath.Dir(d.wal())} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	if err := fill(d); err != nil {
		return err
	}
	for _, dir := range tops {
		if err := finish(dir); err != nil {
			return err
		}
	}
	return nil
}

// vacant makes sure that dir does not exist; an empty one is removed.
func vacant(dir string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case len(entries) > 0:
		return fmt.Errorf("%s exists and is not empty", dir)
	}
	return os.Remove(dir)
}

// copyInto copies all of db into f and calls copied after every stretch of it.
func copyInto(ctx context.Context, f *os.File, db io.Reader, copied func(n int64)) error {
	const chunk = 32 << 20
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		n, err := io.CopyN(f, db, chunk)
		copied(n)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("copy the database: %w", err)
		}
	}
}

// settle gives everything below dir to its owner alone and syncs it to disk, the entry of dir in its parent included.
func settle(dir string) error {
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o600)
		if e.IsDir() {
			mode = 0o700
		}
		if err := os.Chmod(path, mode); err != nil {
			return err
		}
		return Sync(path)
	})
	if err != nil {
		return err
	}
	return Sync(filepath.Dir(dir))
}

// Sync waits until what a file or directory holds is on disk.
func Sync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// AddTrailer makes a raw database file, such as member/snap/db, a snapshot that etcdutl takes: it appends the sha256 that the
// file's report holds. A file that has a trailer stays as it is. f must be open for writing; its offset moves.
func AddTrailer(f *os.File, r Report) error {
	if r.Trailer {
		return nil
	}
	sum, err := hex.DecodeString(r.SHA256)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(sum, r.Size); err != nil {
		return fmt.Errorf("append the sha256 trailer: %w", err)
	}
	return nil
}

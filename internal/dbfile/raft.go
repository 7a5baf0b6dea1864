package dbfile

import (
	"encoding/binary"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"go.etcd.io/etcd/server/v3/storage/schema"
)

// This file says where the raft log of a new cluster begins: above that of the old one. An etcd with simple tokens, its default,
// names in every token the index at which it was given, and judges a token only when its own log has come that far (server/auth:
// isValidSimpleToken). A restored cluster that began near 0, as after etcdutl snapshot restore, would let every client wait that had logged
// in before; from above it says at once that the token is not known, and the client logs in again.

// raftBump is how far above the index in the file a new cluster begins: more entries than any cluster writes
// between its backup and its end.
const raftBump = 1_000_000_000

// position is where a raft log stands: index and term of the last entry applied.
type position struct{ index, term uint64 }

// raised is where the log of a new cluster begins, whose file stands at p and opens at revision. Twice the revision makes it rise
// from restore to restore, whatever file each is from: the revision is a billion above all that is known, and so are both above
// what the cluster between wrote, of which perhaps no file is left.
func (p position) raised(revision int64) position {
	const most = 1 << 62 // no log comes that far: it is no index, and adding must not wrap
	return position{index: max(min(p.index, most)+raftBump, 2*uint64(revision)), term: min(p.term, most) + 1}
}

// readPosition is what the meta bucket says. Servers of version 3.4 write no term.
func readPosition(tx *bolt.Tx) (p position, err error) {
	meta := tx.Bucket(schema.Meta.Name())
	if meta == nil {
		return p, nil
	}
	for _, row := range []struct {
		key []byte
		to  *uint64
	}{{schema.MetaConsistentIndexKeyName, &p.index}, {schema.MetaTermKeyName, &p.term}} {
		v := meta.Get(row.key)
		if v == nil {
			continue
		}
		if *row.to, err = parseUint64(v); err != nil {
			return position{}, fmt.Errorf("bucket meta, key %s: %w", row.key, err)
		}
	}
	return p, nil
}

// write makes the database stand at p.
func (p position) write(tx *bolt.Tx) error {
	meta, err := tx.CreateBucketIfNotExists(schema.Meta.Name())
	if err != nil {
		return err
	}
	return errors.Join(meta.Put(schema.MetaConsistentIndexKeyName, binary.BigEndian.AppendUint64(nil, p.index)),
		meta.Put(schema.MetaTermKeyName, binary.BigEndian.AppendUint64(nil, p.term)))
}

// positionOf is where the database at path stands, which may be damaged.
func positionOf(path string) (p position, err error) {
	err = withPages(path, func(pages *pages, all map[string]bucket) error {
		m, err := pages.readMetaBucket(all)
		p = position{index: m.consistentIndex, term: m.term}
		return err
	})
	return p, err
}

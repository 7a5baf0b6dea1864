package dbfile

import (
	"context"
	"errors"
)

// ErrCorruptAlarm refuses to prepare a file in which a CORRUPT alarm is raised: one member's data differed from the
// others', and nobody knows which was right.
var ErrCorruptAlarm = errors.New("a CORRUPT alarm is raised in the database")

// Edit sets or deletes one key.
type Edit struct {
	Key, Value []byte // Value is ignored when Delete is set; the key becomes unleased
	Delete     bool
}

// Member is a voting member of the cluster that a file is prepared for.
type Member struct {
	Name     string
	PeerURLs []string
}

// PrepareOptions says what becomes of a database file.
type PrepareOptions struct {
	// Edits are applied at the file's revision + 1, deletions first, in key order. Deleting a key that is not there does nothing.
	Edits []Edit

	// DropLeases removes leases. Keys still attached to one lose their lease (they stay, unleased) unless Edits delete them.
	DropLeases []int64

	// TargetRevision becomes the file's revision, and everything below it counts as compacted. It must exceed the
	// revision of the edits. 0 leaves the history as it is.
	TargetRevision int64

	// TargetVersion is the version of the servers that will start on the file, "3.5.35".
	TargetVersion string

	Members []Member
	Token   string // initial cluster token

	// Index, from the check of this very file, spares a pass over it.
	Index *Index
}

// Prepared says what Prepare made.
type Prepared struct {
	OpenedRevision int64 // the revision a server will open at
	ClusterID      uint64
	MemberIDs      map[string]uint64 // by name
	Tombstones     int               // keys deleted
	Puts           int               // keys set by Edits
	Unleased       int               // keys kept whose lease was dropped or missing
	LeasesDropped  int
	AlarmsCleared  int
	ClearedMarks   []string // downgrade and other marks removed, for the report
}

// Prepare edits the database file at path in place.
func Prepare(ctx context.Context, path string, o PrepareOptions) (Prepared, error) {
	return Prepared{}, errors.ErrUnsupported
}

package dbfile

import (
	"fmt"
	"time"
)

// HashKV identifies the content of the key bucket as etcd's Maintenance.HashKV does. Two of them are comparable only
// when CompactRevision and Revision agree.
type HashKV struct {
	Hash            uint32
	CompactRevision int64 // -1 when the history was never compacted
	Revision        int64 // all rows up to and including this revision are covered
}

// Alarm is one raised alarm.
type Alarm struct {
	Member uint64
	Type   string // "NOSPACE", "CORRUPT", or the number of a type unknown to this version
}

// Report is what a check found in a database file.
type Report struct {
	Size    int64  // bytes, trailer included
	SHA256  string // hex, of the whole file, trailer included
	Trailer bool   // the file ends with the sha256 of all before, and it is right

	Revision        int64 // current revision of a server started on the file
	CompactRevision int64 // as such a server knows it; -1 when never compacted
	HashKV          HashKV
	Keys            int64 // live keys at Revision, as a count of the whole key space answers
	Rows            int64 // rows of the key bucket, tombstones and superseded versions included

	Leases      int
	LeaseHash   string // hex sha256 of the lease bucket, see bucketHash
	AuthHash    string // hex sha256 of the buckets auth, authUsers, authRoles, see bucketHash
	AuthEnabled bool

	StorageVersion  string // "3.6.0"; empty before 3.6
	Alarms          []Alarm
	Downgrade       bool // a cluster downgrade was under way
	RaftTerm        uint64
	ConsistentIndex uint64
	Members         []string // names of the members in the file, or their ids where they have no name

	Index *Index
}

// Stages of a check, in the order in which a file can fail them. Structure, rows and trailer are checked at the same
// time; the first to fail is reported.
const (
	StageOpen      = "open"      // the child could not be started or could not read the file
	StageSize      = "size"      // too short, or shorter than the database says
	StageTrailer   = "trailer"   // the sha256 trailer is missing or does not match
	StageStructure = "structure" // pages, their order and their references
	StageRows      = "rows"      // a row of a bucket that etcd could not have written
	StageRevision  = "revision"  // revisions that contradict each other
	StageCrash     = "crash"     // the child died or made no progress; CheckError.During says in which stage
)

// CheckError is the verdict on a database file that did not pass: the file is damaged, incomplete or no etcd database.
type CheckError struct {
	Stage  string // one of the Stage constants
	During string // for StageCrash: the stage that was under way
	Err    error
}

func (e *CheckError) Error() string {
	if e.During != "" {
		return fmt.Sprintf("check database file: %s during %s: %v", e.Stage, e.During, e.Err)
	}
	return fmt.Sprintf("check database file: %s: %v", e.Stage, e.Err)
}

func (e *CheckError) Unwrap() error { return e.Err }

// CheckOptions says what a check expects and what it shall bring back.
type CheckOptions struct {
	Select Select

	// TrailerRequired refuses a file without the sha256 trailer: set it for whatever came from the Snapshot RPC.
	TrailerRequired bool

	// Unhashed leaves the sha256 to a caller who has a Sum of the same bytes: the report has none, and its Trailer says only that
	// there is one. It saves the check half of its work.
	Unhashed bool

	// Progress, if set, is told several times a second how much of the file has been dealt with, in bytes. Calls come
	// one at a time.
	Progress func(done, total int64)

	// Stall is how long the check may make no progress before it is given up; 0 means one minute.
	Stall time.Duration
}

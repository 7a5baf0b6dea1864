package dbfile

import (
	"context"
	"errors"
	"io"
	"os"
)

// MemberDir is the data directory of one member to be staged.
type MemberDir struct {
	DataDir  string // must not exist, or be empty
	WALDir   string // empty: member/wal in DataDir
	Name     string
	PeerURLs []string

	InitialCluster string // "name=url,name=url,…" of all members
	Token          string
}

// Stage builds the data directory of one member on a prepared database, read from db until EOF.
func Stage(ctx context.Context, dir MemberDir, db io.Reader) error {
	return errors.ErrUnsupported
}

// StageAlone builds the data directory of a cluster of one on a copy of a checked database file, its history untouched.
func StageAlone(ctx context.Context, dataDir string, db io.Reader) error {
	return errors.ErrUnsupported
}

// AddTrailer appends the sha256 trailer to a raw database file, and does nothing if it has one.
func AddTrailer(ctx context.Context, f *os.File) error {
	return errors.ErrUnsupported
}

package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/restore"
)

// kept are the directories of database and WAL as the place's run keeps them, wherever it put them.
func (p *place) kept() (unit, wal string, err error) {
	units := p.paths()
	unit = units[0].Before
	if p.apart {
		return unit, units[1].Before, nil
	}
	rel, err := filepath.Rel(p.unitDir(), p.wal)
	return unit, filepath.Join(unit, rel), err
}

// inspectLog finds out how far the member's dirs go: those that the run keeps, else the present ones.
func (p *place) inspectLog(ctx context.Context, s *restore.State) error {
	unit, wal := p.unitDir(), p.wal
	switch {
	case s.Before != "":
		var err error
		if unit, wal, err = p.kept(); err != nil {
			return fmt.Errorf("%s: %w", p.member.Name, err)
		}
	case s.Place != restore.PlaceOld:
		return nil // there was none
	}
	info, err := os.Stat(p.db(unit))
	if gone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", p.member.Name, err)
	}
	l := &restore.RaftLog{Written: newestWrite(wal).UTC(), DBBytes: info.Size()}
	at, err := positionOf(p.db(unit))
	if err == nil && at != nil {
		l.DBIndex, l.DBRevision, l.Version = at.Index, at.Revision, at.ClusterVersion
	}
	log, logErr := dbfile.ReadLog(ctx, wal)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case logErr == nil:
		l.ClusterID, l.Term, l.Index, l.Commit, l.Damage = fmt.Sprintf("%016x", log.ClusterID), log.Term, log.Index, log.Commit, log.Damage
	default:
		l.Problem = logErr.Error()
		if at != nil {
			l.Term, l.Index = at.Term, at.Index
		}
	}
	if err != nil {
		l.Problem = errors.Join(err, logErr).Error()
	}
	s.Log = l
	return nil
}

// positionOf is where a database stands, nil if a process has it open.
func positionOf(path string) (*dbfile.Position, error) {
	unlock, free, err := lockDB(path)
	if err != nil || !free {
		return nil, err
	}
	defer unlock()
	at, err := dbfile.ReadPosition(path)
	return &at, err
}

// fetchLog writes the entries above an index of one of the member's raft logs.
func (p *place) fetchLog(ctx context.Context, req restore.FetchRequest, w io.Writer) error {
	wal := p.wal
	if req.Before != "" {
		var err error
		if _, wal, err = p.kept(); err != nil {
			return fmt.Errorf("%s: %w", p.member.Name, err)
		}
	}
	if err := dbfile.CopyLog(ctx, wal, req.After, w); err != nil {
		return fmt.Errorf("%s: %w", p.member.Name, err)
	}
	return nil
}

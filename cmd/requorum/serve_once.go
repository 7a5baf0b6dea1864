package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/internal/member"
)

// serveOnce starts an etcd of one member on a copy of a database, asks it what it
// makes of that at a revision (0: the current one), and removes the copy. The
// server listens to nobody. dir holds the copy meanwhile.
func serveOnce(ctx context.Context, dir string, db io.Reader, revision int64) (member.Served, error) {
	sweepTrials(dir)
	trial, err := holdTrial(dir)
	if err != nil {
		return member.Served{}, fmt.Errorf("a directory to start etcd in: %w", err)
	}
	defer func() {
		_ = os.RemoveAll(trial.Name()) // a sweep takes what is left
		_ = trial.Close()              // nothing was written to it
	}()
	data := filepath.Join(trial.Name(), "data")
	if err := dbfile.StageAlone(ctx, data, db); err != nil {
		return member.Served{}, fmt.Errorf("a data dir to start etcd on: %w", err)
	}
	served, err := member.HashOf(ctx, data, revision)
	if err != nil {
		return served, fmt.Errorf("starting etcd on the database: %w", err)
	}
	return served, nil
}

const trialPrefix = "trial-"

// holdTrial makes a directory below dir that no sweep removes until it is closed or the process ends.
func holdTrial(dir string) (*os.File, error) {
	for range 10 {
		path, err := os.MkdirTemp(dir, trialPrefix)
		if err != nil {
			return nil, err
		}
		f, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) { // a sweep that met it before it was held
			continue
		}
		if err != nil {
			return nil, err
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			held, err := f.Stat()
			now, nowErr := os.Stat(path)
			if err == nil && nowErr == nil && os.SameFile(held, now) {
				return f, nil
			}
		}
		_ = f.Close() // nothing was written to it
	}
	return nil, fmt.Errorf("other processes remove what is made in %s", dir)
}

// sweepTrials removes from dir what processes left there that were killed while an etcd of theirs ran.
func sweepTrials(dir string) {
	found, err := filepath.Glob(filepath.Join(dir, trialPrefix+"*"))
	if err != nil {
		return // dir's own name is no pattern that Glob reads
	}
	for _, path := range found {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = os.RemoveAll(path) // the next sweep takes what is left
		}
		_ = f.Close() // nothing was written to it
	}
}

// predict is what every member must serve that starts on the prepared database at path.
func predict(ctx context.Context, path string, revision int64) (dbfile.HashKV, error) {
	db, err := os.Open(path)
	if err != nil {
		return dbfile.HashKV{}, err
	}
	defer db.Close()
	served, err := serveOnce(ctx, filepath.Dir(path), db, revision)
	return dbfile.HashKV(served.Hash), err
}

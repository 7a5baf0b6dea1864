package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/requorum/requorum/internal/claim"
	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/internal/member"
)

// serveOnce starts an etcd of one member on a copy of a database, asks it what it
// makes of that at a revision (0: the current one), and removes the copy. The
// server listens to nobody. dir holds the copy meanwhile.
func serveOnce(ctx context.Context, dir string, db io.Reader, revision int64) (member.Served, error) {
	sweepTrials(dir)
	trial, err := claim.Dir(dir, trialPrefix)
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

// sweepTrials removes from dir what processes left there that were killed while an etcd of theirs ran.
func sweepTrials(dir string) {
	claim.Sweep(dir, trialPrefix+"*", func(path string) { _ = os.RemoveAll(path) }) // the next sweep takes what is left
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

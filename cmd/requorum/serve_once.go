package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/internal/member"
)

// serveOnce starts an etcd of one member on a copy of a database, tells what it
// makes of that at a revision (0: the current one), and removes the copy. The
// server listens to nobody. dir holds the copy meanwhile.
func serveOnce(ctx context.Context, dir string, db io.Reader, revision int64, tell func(member.Served)) (err error) {
	tmp, err := os.MkdirTemp(dir, "trial-")
	if err != nil {
		return fmt.Errorf("a directory to start etcd in: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	data := filepath.Join(tmp, "data")
	if err := dbfile.StageAlone(ctx, data, db); err != nil {
		return fmt.Errorf("a data dir to start etcd on: %w", err)
	}
	served, err := member.HashOf(ctx, data, revision)
	if err != nil {
		return fmt.Errorf("starting etcd on the database: %w", err)
	}
	tell(served)
	return nil
}

// predict tells what every member must serve that starts on the prepared database at path.
func predict(ctx context.Context, path string, revision int64, tell func(dbfile.HashKV)) error {
	db, err := os.Open(path)
	if err != nil {
		return err
	}
	defer db.Close()
	return serveOnce(ctx, filepath.Dir(path), db, revision, func(s member.Served) { tell(dbfile.HashKV(s.Hash)) })
}

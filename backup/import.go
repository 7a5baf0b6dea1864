package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/storage/catalog"
)

// StageRead is the reading of the file that Import was given.
const StageRead = "read"

// Import stores a database file that something else made: a snapshot of etcdctl, or a raw member/snap/db of a member that is
// stopped, which gets the sha256 trailer that a snapshot has. It is checked like any other, and opens a line of its own, which no
// backup continues and no restore chooses unless it is named. Its time is the file's.
//
// Of the options Client, Prove, Idle, RefuseHeld and Run are not used. Results and errors are those of Take.
func Import(ctx context.Context, path string, o TakeOptions) (Result, error) {
	t := newTaking(o, "import")
	return t.finish(ctx, func() (Result, error) {
		result, err := t.importFile(ctx, path)
		if err != nil && !errors.Is(err, ErrPartial) {
			err = fmt.Errorf("import %s: %w", path, err)
		}
		return result, err
	})
}

// Examine checks the file as Import does, and stores nothing.
func Examine(ctx context.Context, path string, o TakeOptions) (dbfile.Report, error) {
	t := newTaking(o, "import")
	in, err := t.spoolFile(ctx, path)
	if err != nil {
		return dbfile.Report{}, fmt.Errorf("check %s: %w", path, err)
	}
	return in.report, in.spool.file.Close()
}

// A spooledFile is a checked copy of a file to import, in the spool.
type spooledFile struct {
	spool  *spooled
	made   time.Time // when its contents were last changed
	report dbfile.Report
}

// spoolFile checks a copy of the file: the file itself is not ours to change, and may change under us. The caller closes the copy.
func (t *taking) spoolFile(ctx context.Context, path string) (_ *spooledFile, err error) {
	source, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer source.Close()
	info, err := source.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("it is not a regular file but %s: name a snapshot, or member/snap/db in a data dir", info.Mode().Type())
	}
	file, err := t.Spool.Create(info.Size())
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close())
		}
	}()
	in := &spooledFile{spool: newSpooled(file), made: minTime(info.ModTime(), t.started)}
	if err := t.read(ctx, source, in.spool, info.Size()); err != nil {
		return nil, err
	}
	if in.report, err = t.check(ctx, file, dbfile.CheckOptions{}); err != nil {
		return nil, err
	}
	return in, nil
}

func (t *taking) importFile(ctx context.Context, path string) (Result, error) {
	in, err := t.spoolFile(ctx, path)
	if err != nil {
		return Result{}, err
	}
	file := in.spool.file
	defer file.Close()
	if !in.report.Trailer {
		if err := dbfile.AddTrailer(file, in.report); err != nil {
			return Result{}, err
		}
		t.warn("%s has no sha256 trailer, so it is a member's own file: whatever that member had only in its WAL is not in it", filepath.Base(path))
	}
	info, err := file.Stat()
	if err != nil {
		return Result{}, err
	}
	in.spool.size = info.Size()
	in.spool.end(nil)
	return t.keepImport(ctx, path, info.Size(), in.made, in.spool, in.report)
}

// keepImport stores a checked file.
func (t *taking) keepImport(ctx context.Context, path string, size int64, made time.Time, spool *spooled, report dbfile.Report) (Result, error) {
	line := catalog.Line{
		Format: catalog.Format, Line: catalog.NewID(catalog.KindLine), Cluster: t.Cluster, Time: t.started.UTC().Truncate(time.Second),
		FirstRevision: report.Revision, RaftTerm: report.RaftTerm, Reason: "import of " + filepath.Base(path), Source: catalog.LineImport,
	}
	manifest := catalog.Manifest{
		Revision: report.Revision, Source: catalog.SourceImport, Version: t.Version, Host: t.Host, RaftTerm: report.RaftTerm, Config: t.Config,
	}
	describeFile(&manifest, report)
	if !report.Trailer {
		manifest.Proofs[0].Detail = "added by the import: the file had none"
	}
	facts, warnings := t.Agents.makeFacts(ctx, report.Index)
	for _, w := range warnings {
		t.warn("%s", w)
	}
	working, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	up, err := t.upload(working, stop, spool, catalog.NewSnapshot(line.Line, made, report.Revision, false), size)
	if err != nil {
		return Result{}, err
	}
	defer up.abandon(working, stop)
	if manifest, err = t.commit(working, &source{line: line, opens: true}, up, manifest, facts); err != nil {
		return Result{}, err
	}
	return t.copies(ctx, up, manifest)
}

// read copies the file into the spool.
func (t *taking) read(ctx context.Context, from *os.File, spool *spooled, size int64) error {
	done := t.begin(StageRead, size)
	w := &counted{w: spool, advance: func(n int64) { t.Progress.Advance(StageRead, n) }}
	buffer := make([]byte, tellEvery)
	for {
		n, err := from.Read(buffer)
		if _, writeErr := w.Write(buffer[:n]); writeErr != nil {
			done("failed")
			return writeErr
		}
		if err == nil {
			err = ctx.Err()
		}
		if err == io.EOF {
			w.flush()
			done(catalog.Size(spool.size))
			return nil
		}
		if err != nil {
			done("failed")
			return err
		}
	}
}

func minTime(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

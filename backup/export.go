package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/repository"
)

// ExportOptions say how to export.
type ExportOptions struct {
	Repository *repository.Repository
	Progress   Progress
}

// Export writes the database of a backup to path as a plain etcd snapshot that etcdutl takes, after the checks of a full
// verification. The file appears whole and synced or not at all, with mode 0600, and never in place of another one: then the error
// is fs.ErrExist.
func Export(ctx context.Context, snap catalog.Snapshot, path string, o ExportOptions) (err error) {
	progress := orQuiet(o.Progress)
	defer func() {
		if err != nil {
			err = fmt.Errorf("export %s: %w", snap.ID, err)
		}
	}()
	taken := fmt.Errorf("%s is there already (choose another name, or remove it): %w", path, fs.ErrExist)
	if _, err := os.Lstat(path); err == nil {
		return taken
	}
	m, err := o.Repository.Manifest(ctx, snap)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".unfinished-")
	if err != nil {
		return err
	}
	defer func() {
		if removeErr := os.Remove(file.Name()); removeErr != nil && !errors.Is(removeErr, fs.ErrNotExist) {
			err = errors.Join(err, removeErr)
		}
	}()
	defer file.Close()
	progress.Start(StageFetch, m.Data.Bytes)
	err = o.Repository.Fetch(ctx, snap, m, file, func(n int64) { progress.Advance(StageFetch, n) })
	progress.Done(StageFetch, "")
	if err != nil {
		return err
	}
	progress.Start(StageCheck, m.Data.Bytes)
	report, err := dbfile.CheckInChild(ctx, file, dbfile.CheckOptions{TrailerRequired: true})
	progress.Done(StageCheck, "")
	if err != nil {
		return err
	}
	for _, c := range compareReport(m, report) {
		if !c.OK {
			return fmt.Errorf("%w: %s: %s", ErrVerify, c.Name, c.Detail)
		}
	}
	if err := file.Sync(); err != nil {
		return err
	}
	if err := publish(file.Name(), path); errors.Is(err, fs.ErrExist) {
		return taken
	} else if err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// publish gives the file at temporary the name path, which must be free. A hard link takes a name atomically; where there are none
// (vfat, some network file systems) an empty file claims the name first.
func publish(temporary, path string) error {
	err := os.Link(temporary, path)
	if !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	claim, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(claim.Close(), os.Rename(temporary, path)); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// syncDir makes a new name in dir survive a power loss.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

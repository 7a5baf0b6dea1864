package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/restore"
)

// stand is where the directories of one unit are.
type stand struct {
	live, staged, before string // their identities, empty if nothing is there
}

func look(u restore.Unit) (stand, error) {
	var s stand
	var err error
	for _, at := range []struct {
		path string
		id   *string
	}{{u.Live, &s.live}, {u.Staged, &s.staged}, {u.Before, &s.before}} {
		if *at.id, err = identify(at.path); err != nil {
			return s, err
		}
	}
	return s, nil
}

// placeOf judges the units together. Before a swap has begun, whatever is there is the old.
func (p *place) placeOf(here restore.Here) (restore.Place, string, error) {
	if here.SwapBegun.IsZero() {
		return restore.PlaceOld, "", nil
	}
	var olds, news int
	for _, u := range here.Units {
		s, err := look(u)
		if err != nil {
			return "", "", err
		}
		switch {
		case s.live == u.New && s.staged != u.Old || s.live == u.New && u.Old == "":
			news++
		case s.live == u.Old && s.staged == u.New && s.before == "":
			olds++
		case s.live == u.New, // exchanged, the old one not yet moved to its final name
			s.live == u.Old && s.before == u.New,                   // the same on the way back
			s.live == "" && s.before == u.Old && s.staged == u.New, // between two renames
			s.live == u.Old && s.staged == u.New:
		case s.live == "" && s.staged == u.New: // the old one was removed by somebody: nothing to lose any more
			olds++
		default:
			return restore.PlaceUnknown, fmt.Sprintf("%s is neither the directory that was there before the run nor the one that it staged", u.Live), nil
		}
	}
	switch len(here.Units) {
	case olds:
		return restore.PlaceOld, "", nil
	case news:
		return restore.PlaceNew, "", nil
	}
	return restore.PlaceHalf, "an exchange was cut off", nil
}

// forward takes a unit's exchange to its end from wherever it was cut off.
func forward(u restore.Unit, swap func(a, b string) (bool, error)) error {
	for range 5 { // at most: back to its name, set aside, put in place, final name, look
		s, err := look(u)
		if err != nil {
			return err
		}
		switch {
		case s.live == u.New && u.Old != "" && s.staged == u.Old:
			err = rename(u.Staged, u.Before)
		case s.live == u.New:
			return nil
		case s.live == "" && s.staged == u.New:
			err = rename(u.Staged, u.Live)
		case s.live == u.Old && s.staged == u.New:
			var done bool
			if done, err = swap(u.Live, u.Staged); err == nil && !done {
				err = rename(u.Live, u.Before)
			}
		case s.live == u.Old && s.before == u.New && u.New != "": // on the way back it was cut off
			err = rename(u.Before, u.Staged)
		default:
			return fmt.Errorf("%s is neither the directory that was there before the run nor the one that it staged", u.Live)
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("%s changes while it is exchanged", u.Live)
}

// backward undoes a unit's exchange from wherever it stands; the staged directory gets its name back.
func backward(u restore.Unit, swap func(a, b string) (bool, error)) error {
	for range 5 {
		s, err := look(u)
		if err != nil {
			return err
		}
		switch {
		case s.live == u.Old && s.before == u.New && u.New != "":
			err = rename(u.Before, u.Staged)
		case s.live == u.Old:
			return nil
		case s.live == "" && s.before == u.Old && u.Old != "":
			err = rename(u.Before, u.Live)
		case s.live == u.New && s.staged == u.Old && u.Old != "":
			var done bool
			if done, err = swap(u.Live, u.Staged); err == nil && !done {
				err = rename(u.Staged, u.Before)
			}
		case s.live == u.New && s.before == u.Old && u.Old != "":
			var done bool
			if done, err = swap(u.Live, u.Before); err == nil && !done {
				err = rename(u.Live, u.Staged)
			}
		case s.live == u.New && u.Old == "":
			err = rename(u.Live, u.Staged)
		case s.live == u.New, s.live == "" && s.staged == u.New:
			return fmt.Errorf("the directory that was at %s before the run is gone", u.Live)
		default:
			return fmt.Errorf("%s is neither the directory that was there before the run nor the one that it staged", u.Live)
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("%s changes while it is put back", u.Live)
}

// rename never replaces anything, and is durable.
func rename(from, to string) error {
	if id, err := identify(to); err != nil {
		return err
	} else if id != "" {
		return fmt.Errorf("rename %s: %s is in the way", from, to)
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return syncDir(filepath.Dir(to))
}

// lockDB takes the lock that etcd takes on its database, so that no etcd can open it meanwhile.
// free is false if somebody holds it. A missing database is free.
func lockDB(path string) (unlock func(), free bool, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if gone(err) {
		return func() {}, true, nil
	}
	if err != nil {
		return nil, false, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return func() {}, false, nil
		}
		return nil, false, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, true, nil
}

// stamps lists the files of the units. ctime cannot be set, so it shows every later write.
func stamps(units []string) ([]restore.FileStamp, error) {
	var found []restore.FileStamp
	for i, root := range units {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			found = append(found, restore.FileStamp{Unit: i, Path: rel, Size: info.Size(), Mtime: info.ModTime().UnixNano(), Ctime: ctime(info)})
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

func ctime(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return changeTime(st)
	}
	return 0
}

// intact compares the new directories, wherever they are, with what was staged, and says what differs.
func (p *place) intact(ctx context.Context, here restore.Here) (bool, string, error) {
	if here.Staged == nil {
		return false, "nothing is staged", nil
	}
	var roots []string
	for _, u := range here.Units {
		at := ""
		for _, path := range []string{u.Staged, u.Live, u.Before} {
			if id, err := identify(path); err != nil {
				return false, "", err
			} else if id != "" && id == u.New {
				at = path
			}
		}
		if at == "" {
			return false, u.Staged + " is gone", nil
		}
		roots = append(roots, at)
	}
	found, err := stamps(roots)
	if errors.Is(err, fs.ErrNotExist) { // a file that was listed is no longer there: an etcd runs on it
		return false, "files come and go in it: " + err.Error(), nil
	}
	if err != nil {
		return false, "", err
	}
	now := map[string]restore.FileStamp{}
	for _, f := range found {
		now[fmt.Sprint(f.Unit, f.Path)] = f
	}
	for _, was := range here.Staged.Files {
		key := fmt.Sprint(was.Unit, was.Path)
		is, ok := now[key]
		if !ok {
			return false, filepath.Join(roots[was.Unit], was.Path) + " is gone", nil
		}
		if is != was {
			return false, filepath.Join(roots[was.Unit], was.Path) + " was written to since it was staged", nil
		}
		delete(now, key)
	}
	for _, extra := range now {
		return false, filepath.Join(roots[extra.Unit], extra.Path) + " is new", nil
	}
	if boot := bootID(); boot != here.Staged.Boot && here.Staged.DB != "" {
		// The machine went down since: what was durable is to be seen, not believed.
		sum, _, err := restore.ChecksumOf(ctx, filepath.Join(roots[0], here.Staged.DB))
		if err != nil {
			return false, "", err
		}
		if sum != here.Staged.Checksum {
			return false, filepath.Join(roots[0], here.Staged.DB) + " has another content than when it was staged", nil
		}
	}
	return true, "", nil
}

// newestWrite is the last change of a WAL file.
func newestWrite(wal string) time.Time {
	entries, err := os.ReadDir(wal)
	if err != nil {
		return time.Time{}
	}
	var newest time.Time
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".wal" {
			continue
		}
		if info, err := e.Info(); err == nil && info.ModTime().After(newest) {
			newest = info.ModTime()
		}
	}
	return newest
}

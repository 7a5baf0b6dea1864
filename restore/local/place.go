package local

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/requorum/requorum/restore"
)

// A place is where one member lives on this machine, with all symbolic links resolved.
type place struct {
	member restore.Member
	run    string // may be empty
	data   string // the data dir
	wal    string // the WAL dir, also if it lies in the data dir
	apart  bool   // the WAL dir is a unit of its own
	mount  bool   // the data dir is a mount point
	state  string // directory of lock, journals and marker
	child  Child  // in the place of the service, or nil
}

func newPlace(m restore.Member, run string) (*place, error) {
	if strings.ContainsAny(run, "/\x00") || run == "." || run == ".." {
		return nil, fmt.Errorf("%s: %q is no run id", m.Name, run)
	}
	p := &place{member: m, run: run}
	var err error
	if p.data, err = resolve(m.DataDir); err != nil {
		return nil, fmt.Errorf("%s: data_dir %s: %w", m.Name, m.DataDir, err)
	}
	p.state = p.data + ".requorum"
	if p.mount, err = isMountPoint(p.data); err != nil {
		return nil, fmt.Errorf("%s: data_dir %s: %w", m.Name, m.DataDir, err)
	}
	p.wal = filepath.Join(p.data, "member", "wal")
	if m.WALDir != "" {
		if p.wal, err = resolve(m.WALDir); err != nil {
			return nil, fmt.Errorf("%s: wal_dir %s: %w", m.Name, m.WALDir, err)
		}
	}
	p.apart = !within(p.wal, p.unitDir())
	if within(p.data, p.wal) {
		return nil, fmt.Errorf("%s: data_dir %s lies in wal_dir %s: give them places of their own", m.Name, m.DataDir, m.WALDir)
	}
	return p, nil
}

// unitDir is the directory that is exchanged for the data dir.
func (p *place) unitDir() string {
	if p.mount {
		return filepath.Join(p.data, "member")
	}
	return p.data
}

// paths are the units with their paths, without identities.
func (p *place) paths() []restore.Unit {
	unit := func(live string) restore.Unit {
		return restore.Unit{Live: live, Staged: live + ".staged-" + p.run, Before: live + ".before-" + p.run}
	}
	units := []restore.Unit{unit(p.unitDir())}
	if p.apart {
		units = append(units, unit(p.wal))
	}
	return units
}

// db is the database in the directory that a unit of the data dir is, wherever it has been renamed to.
func (p *place) db(unit string) string {
	if p.mount {
		return filepath.Join(unit, "snap", "db")
	}
	return filepath.Join(unit, "member", "snap", "db")
}

// holds says whether the member's data dir holds a database.
func (p *place) holds() bool {
	_, err := os.Stat(p.db(p.unitDir()))
	return err == nil
}

func (p *place) marker() string { return filepath.Join(p.state, "inhibited") }

// resolve follows symbolic links; the last element need not exist.
func resolve(path string) (string, error) {
	path = filepath.Clean(path)
	real, err := filepath.EvalSymlinks(path)
	if err == nil {
		return real, nil
	}
	if !gone(err) {
		return "", err
	}
	if info, lerr := os.Lstat(path); lerr == nil && info.Mode()&fs.ModeSymlink != 0 {
		return "", fmt.Errorf("it is a symbolic link to nowhere: %w", err)
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return "", fmt.Errorf("the directory that it should lie in: %w", err)
	}
	return filepath.Join(parent, filepath.Base(path)), nil
}

// within tells whether path is dir or lies below it.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// syncDir makes the entries of a directory durable.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// writeFile replaces a file durably: at any moment either the old or the new content is there.
func writeFile(path string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	return finish(tmp, err, path)
}

// finish makes a temporary file durable, and then the one at path, unless writing it failed.
func finish(tmp *os.File, err error, path string) error {
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	return err
}

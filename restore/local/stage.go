package local

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/restore"
)

// Stage implements [restore.Host].
func (h *Host) Stage(ctx context.Context, req restore.StageRequest, db io.Reader) error {
	p, err := h.place(req.Member, req.Run)
	if err != nil {
		return err
	}
	return p.alone(ctx, func() error {
		if err := p.owned(req.Run, req.Owner, h.now()); err != nil {
			return err
		}
		return h.stage(ctx, p, req, db)
	})
}

func (h *Host) stage(ctx context.Context, p *place, req restore.StageRequest, db io.Reader) error {
	j, err := p.ownJournal()
	if err != nil {
		return err
	}
	if j.Here.Staged != nil && j.Here.Staged.Checksum == req.Checksum {
		if ok, _, err := p.intact(ctx, j.Here); err != nil {
			return fmt.Errorf("%s: look at what is staged: %w", p.member.Name, err)
		} else if ok {
			return nil
		}
	}
	if !j.Here.SwapBegun.IsZero() {
		return p.fault(restore.HostChanged, "", "stage: the exchange has begun already")
	}
	j.Here.Staged, j.Here.StageBegun = nil, h.now().UTC()
	if err := p.writeJournal(j); err != nil {
		return err
	}
	if err := p.discardUnits(j.Here); err != nil {
		return err
	}
	if err := p.build(ctx, req, db, &j.Here); err != nil {
		return errors.Join(fmt.Errorf("%s: stage: %w", p.member.Name, err), p.discardUnits(j.Here))
	}
	if err := p.writeJournal(j); err != nil {
		return errors.Join(err, p.discardUnits(j.Here))
	}
	return nil
}

// build makes the staged units and records them in here.
func (p *place) build(ctx context.Context, req restore.StageRequest, db io.Reader, here *restore.Here) error {
	units := p.paths()
	data := units[0].Staged + ".part" // a whole data dir, of which the unit may be the inner part
	unit := data
	if p.mount {
		unit = filepath.Join(data, "member")
	}
	dir := dbfile.MemberDir{DataDir: data, Name: p.member.Name, PeerURLs: req.InitialCluster[p.member.Name],
		InitialCluster: initialCluster(req.InitialCluster), Token: req.Token}
	switch {
	case p.apart:
		dir.WALDir = units[1].Staged + ".part"
	case p.wal != filepath.Join(p.data, "member", "wal"):
		rel, err := filepath.Rel(p.unitDir(), p.wal)
		if err != nil {
			return err
		}
		dir.WALDir = filepath.Join(unit, rel)
	}
	if err := p.fill(ctx, dir, db, req); err != nil {
		return err
	}
	built := []string{unit}
	if p.apart {
		built = append(built, dir.WALDir)
	}
	for i, b := range built {
		if err := p.likeOld(ctx, b, units[i].Live); err != nil {
			return err
		}
		if err := rename(b, units[i].Staged); err != nil {
			return err
		}
	}
	if p.mount {
		if err := os.RemoveAll(data); err != nil {
			return err
		}
	}
	return p.describe(req, units, here)
}

// join builds the data dir of a member that a cluster has added.
func join(dir dbfile.MemberDir, who restore.Join) error {
	ids := [2]uint64{}
	for i, text := range []string{who.ClusterID, who.MemberID} {
		var err error
		if ids[i], err = strconv.ParseUint(text, 16, 64); err != nil {
			return fmt.Errorf("id %q: %w", text, err)
		}
	}
	return dbfile.StageJoining(dir, ids[0], ids[1])
}

// fill builds the data dir and makes sure that its database is the announced one. A file is copied by the kernel, and compared
// by size: both are on this machine.
func (p *place) fill(ctx context.Context, dir dbfile.MemberDir, db io.Reader, req restore.StageRequest) error {
	if req.Join != nil {
		return join(dir, *req.Join)
	}
	if f, ok := db.(*os.File); ok {
		if info, err := f.Stat(); err != nil {
			return err
		} else if info.Size() != req.Size {
			return fmt.Errorf("the database has %d bytes, not %d", info.Size(), req.Size)
		}
		if req.Take {
			if moved, err := p.take(dir, f.Name()); moved || err != nil {
				return err
			}
		}
		return dbfile.Stage(ctx, dir, f)
	}
	if t, ok := db.(restore.Transfer); ok {
		if err := receive(ctx, p.arriving(), t, req); err != nil {
			return err
		}
		return dbfile.StageMoved(dir, p.arriving())
	}
	sum := restore.NewChecksum()
	count := &counter{r: io.TeeReader(db, sum)}
	if err := dbfile.Stage(ctx, dir, count); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); count.n != req.Size || got != req.Checksum {
		return fmt.Errorf("the database arrived with %d bytes and checksum %s, not %d and %s", count.n, got, req.Size, req.Checksum)
	}
	return nil
}

// take builds the data dir around the database at path itself, unless that lies on another file system.
func (p *place) take(dir dbfile.MemberDir, path string) (moved bool, err error) {
	err = os.Rename(path, p.arriving())
	if errors.Is(err, syscall.EXDEV) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := dbfile.StageMoved(dir, p.arriving()); err != nil {
		return false, err
	}
	return true, copyLabel(dir.DataDir, dir.DataDir) // not that of where the file was
}

// describe records the staged units.
func (p *place) describe(req restore.StageRequest, units []restore.Unit, here *restore.Here) error {
	var roots []string
	for i := range units {
		id, err := identify(units[i].Staged)
		if err != nil {
			return err
		}
		units[i].New = id
		if units[i].Old, err = identify(units[i].Live); err != nil {
			return err
		}
		roots = append(roots, units[i].Staged)
	}
	files, err := stamps(roots)
	if err != nil {
		return err
	}
	here.Units = units
	here.Staged = &restore.Staged{Checksum: req.Checksum, Boot: bootID(), Files: files}
	if req.Join == nil {
		if here.Staged.DB, err = filepath.Rel(units[0].Staged, p.db(units[0].Staged)); err != nil {
			return err
		}
	}
	return nil
}

// likeOld gives a staged unit the owner, the SELinux label and, at its top, the mode of the directory that it will replace, or, where there is
// none, whom the service runs etcd as, else the owner of the directory around it: etcd must be able to open it.
func (p *place) likeOld(ctx context.Context, staged, live string) error {
	info, err := os.Stat(live)
	mode := fs.FileMode(0o700)
	var of *owner
	switch {
	case err == nil:
		mode = info.Mode().Perm()
	case gone(err):
		if of = p.service().look(ctx).owner; of != nil {
			break
		}
		if info, err = os.Stat(filepath.Dir(live)); err != nil {
			return err
		}
	default:
		return err
	}
	if of == nil {
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return fmt.Errorf("the owner of %s cannot be told", info.Name())
		}
		of = &owner{int(st.Uid), int(st.Gid)}
	}
	if of.uid != os.Geteuid() || of.gid != os.Getegid() {
		err := filepath.WalkDir(staged, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if err := os.Lchown(path, of.uid, of.gid); err != nil {
				return err
			}
			return syncDir(path) // or a file: a lost owner would keep etcd from opening it
		})
		if err != nil {
			return fmt.Errorf("give it the owner that %s has or should have: %w", live, err)
		}
	}
	if err := os.Chmod(staged, mode); err != nil {
		return err
	}
	if err := copyLabel(staged, live); err != nil {
		return err
	}
	return syncDir(staged)
}

// discard removes what the run staged here. What has been exchanged is not touched.
func (p *place) discard() error {
	j, err := p.ownJournal()
	if err != nil {
		return err
	}
	if where, detail, err := p.placeOf(j.Here); err != nil {
		return err
	} else if where != restore.PlaceOld {
		return p.fault(restore.HostChanged, "", "discard what is staged: the place is %s; %s", where, detail)
	}
	j.Here.Staged = nil
	if err := p.writeJournal(j); err != nil {
		return err
	}
	if err := os.Remove(p.arriving()); err != nil && !gone(err) {
		return fmt.Errorf("%s: %w", p.member.Name, err)
	}
	return p.discardUnits(j.Here)
}

// discardUnits removes staged and half-staged dirs, never the old one under a staged name.
func (p *place) discardUnits(here restore.Here) error {
	for i, u := range p.paths() {
		id, err := identify(u.Staged)
		if err != nil {
			return fmt.Errorf("%s: %w", p.member.Name, err)
		}
		if id != "" && i < len(here.Units) && id == here.Units[i].Old {
			return p.fault(restore.HostChanged, "", "%s is the directory that was there before the run; it is not removed", u.Staged)
		}
		for _, path := range []string{u.Staged, u.Staged + ".part"} {
			if err := os.RemoveAll(path); err != nil {
				return fmt.Errorf("%s: remove %s: %w", p.member.Name, path, err)
			}
		}
	}
	return nil
}

// Fetch implements [restore.Host].
func (h *Host) Fetch(ctx context.Context, req restore.FetchRequest, w io.Writer) error {
	p, err := h.place(req.Member, req.Before)
	if err != nil {
		return err
	}
	if req.Log {
		return p.fetchLog(ctx, req, w)
	}
	unit := p.unitDir()
	if req.Before != "" {
		unit = p.paths()[0].Before
	}
	path := p.db(unit)
	unlock, free, err := lockDB(path)
	if err != nil {
		return fmt.Errorf("%s: %w", p.member.Name, err)
	}
	defer unlock()
	if !free {
		return p.fault(restore.HostRunning, "stop it first", "a process uses %s", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("%s: %w", p.member.Name, err)
	}
	defer f.Close()
	if _, err := io.Copy(w, reader{ctx, f}); err != nil {
		return fmt.Errorf("%s: read %s: %w", p.member.Name, path, err)
	}
	return nil
}

func initialCluster(members map[string][]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(members)) {
		for _, u := range members[name] {
			parts = append(parts, name+"="+u)
		}
	}
	return strings.Join(parts, ",")
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// reader ends with its context.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

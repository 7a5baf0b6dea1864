package local

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/restore"
)

// Inspect implements [restore.Host].
func (h *Host) Inspect(ctx context.Context, req restore.InspectRequest) (restore.State, error) {
	p, err := h.place(req.Member, req.Run)
	if err != nil {
		return restore.State{}, err
	}
	return h.inspect(ctx, p, req)
}

func (h *Host) inspect(ctx context.Context, p *place, req restore.InspectRequest) (restore.State, error) {
	s := restore.State{Member: p.member.Name, DataDir: p.data, Marker: p.marker(), Place: restore.PlaceOld}
	if strconv.IntSize == 32 {
		s.MaxDatabase = math.MaxInt32 // bbolt maps the whole file
	}
	s.Host, _ = os.Hostname()
	var err error
	if s.Lock, err = p.readLock(); err != nil {
		return s, err
	}
	s.Dead = s.Lock != nil && dead(s.Lock)
	if req.Run == "" {
		s.Journal, err = p.newestJournal()
	} else {
		s.Journal, err = p.journal(req.Run)
	}
	if err != nil {
		return s, err
	}
	by, err := p.inhibitedBy()
	if err != nil {
		return s, err
	}
	s.Inhibited = by != ""
	if s.Journal != nil {
		if err := h.inspectRun(ctx, p, req, &s); err != nil {
			return s, err
		}
	}
	u, err := p.inUse(ctx)
	if err != nil {
		return s, err
	}
	s.Active, s.StatusOutput, s.Exits, s.Running, s.Ports = u.active, u.output, u.exits, u.processes, u.ports

	if info, err := os.Stat(p.db(p.unitDir())); err == nil {
		s.Exists, s.DataBytes = true, info.Size()
	}
	s.LastWrite = newestWrite(p.wal).UTC()
	if req.Deep {
		h.inspectDeep(ctx, p, &s)
	}
	if req.Log {
		return s, p.inspectLog(ctx, &s)
	}
	return s, nil
}

// inspectRun looks at the dirs of the journal's run.
func (h *Host) inspectRun(ctx context.Context, p *place, req restore.InspectRequest, s *restore.State) error {
	here := s.Journal.Here
	var err error
	if s.Place, s.Detail, err = p.placeOf(here); err != nil {
		return fmt.Errorf("%s: %w", p.member.Name, err)
	}
	if here.Staged != nil {
		s.Staged = here.Staged.Checksum
	}
	if len(here.Units) > 0 {
		if id, err := identify(here.Units[0].Before); err == nil && id != "" {
			s.Before = here.Units[0].Before
		}
	}
	if req.Verify && here.Staged != nil {
		var why string
		if s.Intact, why, err = p.intact(ctx, here); err != nil {
			return fmt.Errorf("%s: look at what is staged: %w", p.member.Name, err)
		}
		if !s.Intact && s.Detail == "" {
			s.Detail = why
		}
	}
	return nil
}

func (h *Host) inspectDeep(ctx context.Context, p *place, s *restore.State) {
	problem := func(check, format string, args ...any) {
		s.Problems = append(s.Problems, restore.Problem{Check: check, Detail: fmt.Sprintf(format, args...)})
	}
	beside := filepath.Dir(p.unitDir())
	var err error
	if s.FreeBytes, err = free(beside); err != nil {
		problem("disk space", "%v", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(beside, &st); err == nil {
		s.Device = fmt.Sprint(st.Dev)
	}
	dirs := []string{beside, filepath.Dir(p.state)}
	if p.apart {
		beside := filepath.Dir(p.wal)
		dirs = append(dirs, beside)
		if s.WALFree, err = free(beside); err != nil {
			problem("disk space", "%v", err)
		}
		if mount, err := isMountPoint(p.wal); err == nil && mount {
			problem("wal dir", "%s is a mount point, so it cannot be exchanged, and etcd could not make it either: use a directory inside it", p.wal)
		}
	}
	for _, d := range dirs {
		if err := unix.Access(d, unix.W_OK|unix.X_OK); err != nil {
			problem("permissions", "%s cannot be written to: %v; run requorum as a user who may", d, err)
		}
	}
	if info, err := os.Stat(p.data); err == nil && !info.IsDir() {
		problem("data dir", "%s is not a directory", p.data)
	}
	o := p.service().look(ctx)
	s.Problems = append(s.Problems, o.problems...)
	if dir := p.unitDir(); o.owner.shutOut(dir) {
		problem("owner", "%s belongs to somebody else than whom etcd is run as, user %d, who may not write there: it would not start, and the new dir gets the old one's owner: chown -R %[2]d:%[3]d %[1]s", dir, o.owner.uid, o.owner.gid)
	}
	runs := p.processFlags(s.Running)
	switch s.Flags = o.flags; {
	case runs != nil && o.flags != nil && o.flags.Complete:
		s.Problems = append(s.Problems, compare(runs, o.flags)...)
	case runs != nil:
		s.Flags = runs
	}
	for _, f := range []*restore.Flags{s.Flags, runs} {
		if f != nil && s.Version == "" {
			s.Version = versionOf(ctx, f.Program)
		}
	}
	if s.Version == "" {
		s.Version = o.version
	}
	if s.Flags != nil {
		s.Problems = append(s.Problems, tlsProblems(s.Flags.TLSFiles, h.now())...)
	}
}

// free is what a process without privileges can still write to the file system of dir, in bytes.
func free(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

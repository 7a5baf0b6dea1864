package local

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/requorum/requorum/restore"
)

// A service is how one member's etcd is run on this machine. There is a file for each kind.
type service interface {
	// status says what the service manager knows. An error is no answer: then nobody knows whether etcd runs.
	status(ctx context.Context) (status, error)

	// do is one of [restore.ActInhibit], [restore.ActStop], [restore.ActAllow], [restore.ActStart] and [restore.ActResume]. Each may
	// come when it is done already, and completes one that was cut off. Starting returns when etcd runs or will without
	// further help; it need not be ready, since that may take a quorum.
	do(ctx context.Context, a restore.Action) error

	// look tells how etcd would be started, and what would keep it from that. It changes nothing.
	look(ctx context.Context) outlook
}

// status is what a service manager says.
type status struct {
	active bool   // etcd runs, or will without further asking
	output string // what a person would be shown
	exits  int    // how often etcd has ended by itself since somebody started it, where that is counted
	waits  bool   // etcd does not run, until the service manager starts it again
	// open says, of a service whose starts are forbidden, what would let it start nevertheless. It is empty where nothing
	// would, and where that cannot be told.
	open string
}

// outlook is how etcd would be started.
type outlook struct {
	flags    *restore.Flags // nil if they cannot be told
	version  string         // of etcd, where the service itself names it
	problems []restore.Problem
	owner    *owner // whom etcd runs as, nil if that cannot be told
}

// owner is a user and a group by their numbers.
type owner struct{ uid, gid int }

// shutOut says whether a directory is there and the owner, nil if not known, may not write in it.
func (o *owner) shutOut(dir string) bool {
	if o == nil || o.uid == 0 {
		return false
	}
	info, err := os.Stat(dir)
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	mode := info.Mode().Perm()
	return ok && int(st.Uid) != o.uid && (int(st.Gid) != o.gid || mode&0o020 == 0) && mode&0o002 == 0
}

func (o *outlook) problem(check, format string, args ...any) {
	o.problems = append(o.problems, restore.Problem{Check: check, Detail: fmt.Sprintf(format, args...)})
}

func (o *outlook) warn(check, format string, args ...any) {
	o.problems = append(o.problems, restore.Problem{Check: check, Detail: fmt.Sprintf(format, args...), Warn: true})
}

// service is that of the place's member.
func (p *place) service() service {
	s := p.member.Service
	switch {
	case p.child != nil:
		return child{p, p.child}
	case s.Systemd != "":
		return systemd{p, unitName(s.Systemd)}
	case s.StaticPod != "":
		return staticPod{p, filepath.Clean(s.StaticPod)}
	}
	return commands{p}
}

// compare finds what the running etcd has otherwise than the one that would be started: the restore builds the latter's data dir.
func compare(runs, would *restore.Flags) []restore.Problem {
	var found []restore.Problem
	for _, f := range []struct{ what, runs, would string }{
		{"name", runs.Name, would.Name}, {"data dir", runs.DataDir, would.DataDir}, {"WAL dir", runs.WALDir, would.WALDir},
	} {
		if f.runs != f.would && f.runs != "" && f.would != "" {
			found = append(found, restore.Problem{Check: "flags", Detail: fmt.Sprintf("%s has %s %s, but %s would start it with %s: "+
				"see which is right, and let both be the same", runs.From, f.what, f.runs, would.From, f.would)})
		}
	}
	return found
}

// home gives a dir in etcd's settings the member's configured name if it is the same one, seen through a link or from a container
// whose file system lies at root.
func (p *place) home(root, dir string) string {
	if dir == "" {
		return ""
	}
	for _, mine := range []string{p.member.DataDir, p.member.WALDir} {
		if mine == "" || mine == dir {
			continue
		}
		if real, err := resolve(dir); root == "" && err == nil && (real == p.data || p.apart && real == p.wal) {
			if (real == p.data) == (mine == p.member.DataDir) {
				return mine
			}
		}
		a, err := os.Stat(filepath.Join(root, dir))
		b, berr := os.Stat(mine)
		if err == nil && berr == nil && os.SameFile(a, b) {
			return mine
		}
	}
	return dir
}

package local

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/restore"
)

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// startTime is the start of a process in clock ticks since boot, empty if it is not known.
func startTime(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The command, in parentheses, may hold anything; field 22 is the 20th after it.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 20 {
		return ""
	}
	return fields[19]
}

// processExists tells whether a process lives. One that ended and waits for its parent does not.
func processExists(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ESRCH)
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	return len(fields) == 0 || (fields[0] != "Z" && fields[0] != "X")
}

// identify names a directory itself, wherever it is renamed to: by inode and time of birth, since
// inode numbers alone are used again. It is empty if nothing is there.
func identify(path string) (string, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_INO|unix.STATX_BTIME|unix.STATX_TYPE, &st)
	if errors.Is(err, unix.ENOENT) {
		return "", nil
	}
	if err != nil {
		return "", &fs.PathError{Op: "statx", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return "", fmt.Errorf("%s is not a directory", path)
	}
	id := fmt.Sprintf("%d", st.Ino)
	if st.Mask&unix.STATX_BTIME != 0 {
		id += fmt.Sprintf("-%d.%09d", st.Btime.Sec, st.Btime.Nsec)
	}
	return id, nil
}

func isMountPoint(path string) (bool, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return false, err
	}
	defer f.Close()
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for s := bufio.NewScanner(f); s.Scan(); {
		if fields := strings.Fields(s.Text()); len(fields) > 4 && unescape.Replace(fields[4]) == path {
			return true, nil
		}
	}
	return false, nil
}

// processes finds who uses the place: a process that has a file open below it, wherever its dirs have been renamed to, or
// one whose command line or environment names the data dir. This process is none of them.
func (p *place) processes() ([]restore.Process, error) {
	var dirs []string
	for _, u := range p.paths() {
		dirs = append(dirs, u.Live)
		if p.run != "" {
			dirs = append(dirs, u.Staged, u.Before)
		}
	}
	db, _ := os.Stat(p.db(p.unitDir()))
	return scan(func(pid int) string {
		if pid == os.Getpid() {
			return ""
		}
		if how := opens(pid, dirs, db); how != "" {
			return how
		}
		return p.named(pid)
	})
}

// holders finds the other processes that have a file open below dir.
func holders(dir string) ([]restore.Process, error) {
	return scan(func(pid int) string {
		if pid == os.Getpid() {
			return ""
		}
		return opens(pid, []string{dir}, nil)
	})
}

// programs finds processes by their command lines, which are not empty.
func programs(how func(argv []string) string) ([]restore.Process, error) {
	return scan(func(pid int) string {
		if argv := cmdline(pid); len(argv) > 0 {
			return how(argv)
		}
		return ""
	})
}

func scan(how func(pid int) string) ([]restore.Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []restore.Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if why := how(pid); why != "" && processExists(pid) {
			found = append(found, restore.Process{PID: pid, Command: commandOf(pid), How: why})
		}
	}
	return found, nil
}

// opens says which file below dirs the process has open; db is recognised in other mount namespaces too.
func opens(pid int, dirs []string, db os.FileInfo) string {
	base := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(base)
	if err != nil {
		return "" // it ended, or belongs to somebody else
	}
	for _, fd := range fds {
		path := filepath.Join(base, fd.Name())
		target, err := os.Readlink(path)
		if err != nil || !strings.HasPrefix(target, "/") {
			continue
		}
		target = strings.TrimSuffix(target, " (deleted)")
		for _, d := range dirs {
			if within(target, d) {
				return "has " + target + " open"
			}
		}
		if db != nil && filepath.Base(target) == "db" {
			if info, err := os.Stat(path); err == nil && os.SameFile(info, db) {
				return "has " + target + " open"
			}
		}
	}
	return ""
}

// named tells whether the process's own settings name the data dir.
func (p *place) named(pid int) string {
	if fileSystem(pid) != "" {
		return "" // its paths mean other places
	}
	argv := cmdline(pid)
	if len(argv) == 0 {
		return ""
	}
	set := settings(argv[1:], environ(pid))
	dir, ok := set["data-dir"]
	if !ok {
		return ""
	}
	if !filepath.IsAbs(dir) {
		cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
		if err != nil {
			return ""
		}
		dir = filepath.Join(cwd, dir)
	}
	if real, err := resolve(dir); err != nil || real != p.data {
		return ""
	}
	return "runs with data dir " + dir
}

func cmdline(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(b) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
}

// fileSystem is where the file system of a process lies that has another one than this, such as a container's; else it is empty.
func fileSystem(pid int) string {
	ours, err := os.Readlink("/proc/self/ns/mnt")
	theirs, terr := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil || terr != nil || ours == theirs {
		return ""
	}
	return fmt.Sprintf("/proc/%d/root", pid)
}

// environ is empty for processes of other users.
func environ(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil || len(b) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
}

// commandOf is the program's name: arguments may hold secrets.
func commandOf(pid int) string {
	argv := cmdline(pid)
	if len(argv) == 0 {
		return "unknown"
	}
	return filepath.Base(argv[0])
}

// listening finds who listens on the ports of URLs, by the kernel's tables.
func listening(ctx context.Context, urls ...string) ([]restore.Port, error) {
	all, err := listeners()
	if err != nil {
		return nil, err
	}
	var ports []restore.Port
	for _, raw := range urls {
		addrs, port, err := hostPort(ctx, raw)
		if err != nil {
			return nil, err
		}
		var sockets []string
		for _, l := range all {
			if l.port == port && matches(l.ip, addrs) {
				sockets = append(sockets, l.socket)
			}
		}
		if len(sockets) == 0 {
			continue
		}
		owners, err := scan(func(pid int) string {
			base := fmt.Sprintf("/proc/%d/fd", pid)
			fds, _ := os.ReadDir(base)
			for _, fd := range fds {
				if target, err := os.Readlink(filepath.Join(base, fd.Name())); err == nil && slices.Contains(sockets, target) {
					return "listens"
				}
			}
			return ""
		})
		if err != nil {
			return nil, err
		}
		found := restore.Port{URL: raw}
		if len(owners) > 0 {
			found.PID, found.Owner = owners[0].PID, owners[0].Command
		}
		ports = append(ports, found)
	}
	return ports, nil
}

//go:build unix && !linux

package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/requorum/requorum/restore"
)

// Without /proc a member counts as running by its status command, its ports and the lock that etcd
// holds on its database.

func bootID() string { return "" }

func startTime(int) string { return "" }

func processExists(pid int) bool {
	return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

func identify(path string) (string, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() {
		return "", fmt.Errorf("%s is not a directory", path)
	}
	return strconv.FormatUint(uint64(st.Ino), 10), nil
}

func isMountPoint(path string) (bool, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	parent, err := os.Stat(path + "/..")
	if err != nil {
		return false, err
	}
	a, ok := info.Sys().(*syscall.Stat_t)
	b, okb := parent.Sys().(*syscall.Stat_t)
	return ok && okb && a.Dev != b.Dev, nil
}

func (p *place) processes() ([]restore.Process, error) {
	unlock, free, err := lockDB(p.db(p.unitDir()))
	if err != nil {
		return nil, err
	}
	unlock()
	if free {
		return nil, nil
	}
	return []restore.Process{{Command: "etcd", How: "holds the lock of the database"}}, nil
}

func holders(string) ([]restore.Process, error) { return nil, nil }

func programs(func([]string) string) ([]restore.Process, error) { return nil, nil }

func cmdline(int) []string { return nil }

func environ(int) []string { return nil }

func fileSystem(int) string { return "" }

func listening(ctx context.Context, urls ...string) (ports []restore.Port, err error) {
	for _, raw := range urls {
		addrs, port, err := hostPort(ctx, raw)
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", net.JoinHostPort(a.String(), strconv.Itoa(port)))
			if err == nil {
				conn.Close()
				ports = append(ports, restore.Port{URL: raw})
				break
			}
		}
	}
	return ports, nil
}

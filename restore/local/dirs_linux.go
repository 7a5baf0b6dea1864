package local

import (
	"errors"
	"fmt"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// swap exchanges two directories in one step, durably; false if the file system cannot.
func swap(a, b string) (bool, error) {
	err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
	switch {
	case err == nil:
		return true, syncDir(filepath.Dir(a))
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.ENOTSUP):
		return false, nil
	}
	return false, fmt.Errorf("exchange %s and %s: %w", a, b, err)
}

func changeTime(st *syscall.Stat_t) int64 { return st.Ctim.Nano() }

package local

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const selinux = "security.selinux"

// copyLabel gives all that is in staged the SELinux label of live. Where there is none, the kernel's own choice stays.
func copyLabel(staged, live string) error {
	label := make([]byte, 4096)
	n, err := unix.Lgetxattr(live, selinux, label)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the SELinux label of %s: %w", live, err)
	}
	return filepath.WalkDir(staged, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := unix.Lsetxattr(path, selinux, label[:n], 0); err != nil {
			return fmt.Errorf("give %s the SELinux label of %s: %w", path, live, err)
		}
		return nil
	})
}

package file

import (
	"os"

	"golang.org/x/sys/unix"
)

// forget asks the kernel to drop a file from its cache, so that what is read next comes from the disk. It is a
// wish: where it is not granted the bytes are compared all the same.
func forget(name string) {
	f, err := os.Open(name)
	if err != nil {
		return // reading it will say why
	}
	defer f.Close()
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

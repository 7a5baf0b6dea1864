// Package claim holds files and directories for as long as the process lives that made them. What a killed process leaves is known by
// that nobody holds it, and swept by the next one.
//
// A claim is a flock(2): the kernel gives it up when the process ends, however that ends. Not for file systems that several machines share.
package claim

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// ErrHeld says that another process holds what was to be claimed.
var ErrHeld = errors.New("another process holds it")

// sweepTime is how long a sweep may hold what it removes.
const sweepTime = 5 * time.Second

// File claims the file at path, which is made if it is not there. The claim ends when the file is closed. The error is ErrHeld if another process has
// the claim, and goes on having it for some seconds.
func File(path string) (*os.File, error) {
	return claimed(func() (*os.File, error) { return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) })
}

// Dir makes a directory in parent whose name begins with prefix, and claims it. The claim ends when the directory's file is closed.
func Dir(parent, prefix string) (*os.File, error) {
	return claimed(func() (*os.File, error) {
		path, err := os.MkdirTemp(parent, prefix)
		if err != nil {
			return nil, err
		}
		return os.Open(path)
	})
}

// claimed claims what open opens. A sweep may meet that before it is claimed, and remove it: then it is opened anew.
func claimed(open func() (*os.File, error)) (*os.File, error) {
	for deadline := time.Now().Add(sweepTime); ; time.Sleep(10 * time.Millisecond) {
		f, err := open()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err == nil {
			if err = lock(f); err == nil {
				return f, nil
			}
			err = fmt.Errorf("claim %s: %w", f.Name(), err)
			_ = f.Close() // nothing was written to it
		}
		if time.Now().After(deadline) {
			return nil, err
		}
	}
}

// lock claims what f is, which must still have its name.
func lock(f *os.File) error {
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return ErrHeld
	} else if err != nil {
		return err
	}
	mine, err := f.Stat()
	if err != nil {
		return err
	}
	now, err := os.Stat(f.Name())
	if err != nil {
		return err
	}
	if !os.SameFile(mine, now) {
		return fmt.Errorf("it was removed and made again meanwhile: %w", fs.ErrNotExist)
	}
	return nil
}

// Sweep has remove take away each file or directory in dir that matches a pattern of filepath.Match and that nobody has claimed. No other
// process can claim it meanwhile. What cannot be looked at is left to the next sweep.
func Sweep(dir, pattern string, remove func(path string)) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, entry := range entries {
		if match, err := filepath.Match(pattern, entry.Name()); err != nil || !match {
			continue
		}
		f, err := os.Open(filepath.Join(dir, entry.Name()))
		if err != nil {
			continue
		}
		if lock(f) == nil {
			remove(f.Name())
		}
		_ = f.Close() // nothing was written to it
	}
}

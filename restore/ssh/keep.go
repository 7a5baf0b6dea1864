package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// partAge is from when on a half-brought program is one that nobody brings any more.
const partAge = time.Hour

// errReplaced says that a program was removed, by the last of its former users, just before it was to be used.
var errReplaced = errors.New("the program was removed meanwhile")

// Keep guards the program that a coordinator brought to this host, as long as that is heard: then it removes the program, unless another coordinator uses it as
// well. It runs on the host, and sweeps at its start what killed ones left there. It returns after that; what cannot be removed is left to the next one.
func Keep(ctx context.Context, in io.Reader, out io.Writer, version string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	f, err := os.Open(self)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
		return fmt.Errorf("hold %s: %w", self, err)
	}
	if now, err := os.Stat(self); err != nil {
		return errReplaced
	} else if held, err := f.Stat(); err != nil || !os.SameFile(now, held) {
		return errReplaced
	}
	sweep(filepath.Dir(self), self)
	if _, err := io.WriteString(out, "\n"+greeting); err != nil {
		return err
	}
	if err := (&frames{w: out}).writeJSON(frameHello, hello{Version: version, OS: runtime.GOOS, Arch: runtime.GOARCH}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	heard := make(chan struct{}, 1)
	go watch(ctx, heard, cancel)
	go func() {
		for {
			if _, _, err := readFrame(in, nil); err != nil {
				cancel(err)
				return
			}
			select {
			case heard <- struct{}{}:
			default:
			}
		}
	}()
	<-ctx.Done()
	if filepath.Base(filepath.Dir(self)) != fmt.Sprintf("requorum-%d", os.Getuid()) {
		return nil // it was not brought here
	}
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
		_ = os.Remove(self)
		_ = os.Remove(filepath.Dir(self)) // unless something else is in it
	}
	return nil
}

// sweep removes programs in dir that nobody holds.
func sweep(dir, self string) {
	files, err := filepath.Glob(filepath.Join(dir, "requorum-*"))
	if err != nil || filepath.Base(dir) != fmt.Sprintf("requorum-%d", os.Getuid()) {
		return
	}
	for _, path := range files {
		if path == self {
			continue
		}
		if strings.Contains(filepath.Base(path), ".part.") {
			if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > partAge {
				_ = os.Remove(path)
			}
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = os.Remove(path)
		}
		_ = f.Close() // nothing was written
	}
}

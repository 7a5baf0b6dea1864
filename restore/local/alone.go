package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// aloneWithin is how long a request waits for an earlier one to end. That of a coordinator which lost its connection notices within half a minute.
const aloneWithin = time.Minute

// alone runs f while no other request works on the place: an earlier one, whose coordinator lost the connection to this machine or was killed, may not
// have come to its end yet. Nothing is left behind when the process dies.
func (p *place) alone(ctx context.Context, f func() error) error {
	file, err := os.OpenFile(filepath.Join(p.state, "working"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("%s: %w", p.member.Name, err)
	}
	defer file.Close()
	deadline := time.NewTimer(aloneWithin)
	defer deadline.Stop()
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f()
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("%s: lock %s: %w", p.member.Name, file.Name(), err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: wait for an earlier request: %w", p.member.Name, context.Cause(ctx))
		case <-deadline.C:
			return fmt.Errorf("%s: an earlier request still works here after %s: see what keeps the requorum processes on that host (a disk that hangs?), and run the same command again", p.member.Name, aloneWithin)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

package halt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A Point is where processes are halted: each waits, in the kernel, to open a file. It ends with the test, or with the process that runs
// it: then everybody goes on.
type Point struct {
	group *os.File
	there func() bool
	work  sync.WaitGroup

	mu      sync.Mutex // held while somebody looks whether the moment has come
	arrived bool

	reached  chan struct{} // closed when somebody is halted
	refused  chan struct{} // closed by Refuse
	released chan struct{} // closed by Release
	release  sync.Once
}

// When halts, from the moment at which there says so, whoever opens a file that lies directly in one of the dirs, which are made if they are not there. It is
// asked at every such opening, before that has succeeded (a file that is made by it is there by then, empty); what it opens itself halts nobody. The test is skipped where the kernel does not let this be done.
func When(t testing.TB, dirs []string, there func() bool) *Point {
	t.Helper()
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY|unix.O_LARGEFILE|unix.O_CLOEXEC)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
		t.Skipf("processes cannot be halted here: fanotify: %v", err)
	}
	if err != nil {
		t.Fatalf("halt processes: %v", err)
	}
	p := &Point{group: os.NewFile(uintptr(fd), "fanotify"), there: there,
		reached: make(chan struct{}), refused: make(chan struct{}), released: make(chan struct{})}
	t.Cleanup(p.Release)
	p.work.Go(p.read)
	for _, dir := range dirs {
		if err := os.Mkdir(dir, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
		if err := unix.FanotifyMark(fd, unix.FAN_MARK_ADD|unix.FAN_MARK_ONLYDIR, unix.FAN_OPEN_PERM|unix.FAN_EVENT_ON_CHILD, unix.AT_FDCWD, dir); err != nil {
			t.Fatalf("halt who opens files in %s: %v", dir, err)
		}
	}
	return p
}

// Reached is closed as soon as somebody is halted.
func (p *Point) Reached() <-chan struct{} { return p.reached }

// Refuse lets those who are halted, and all who follow, fail to open their file, until Release: whatever they were about to do is not done.
func (p *Point) Refuse() { close(p.refused) }

// Release lets everybody go on, and ends the point. It may be called again.
func (p *Point) Release() {
	p.release.Do(func() {
		close(p.released)
		_ = p.group.Close() // the kernel lets go on who still waits
		p.work.Wait()
	})
}

// read takes the kernel's questions until the point ends. It must not open a file itself, nor wait for who does.
func (p *Point) read() {
	buf := make([]byte, 4096)
	for {
		n, err := p.group.Read(buf)
		if err != nil {
			return // Release
		}
		for events := bytes.NewReader(buf[:n]); events.Len() > 0; {
			var e unix.FanotifyEventMetadata
			if err := binary.Read(events, binary.NativeEndian, &e); err != nil {
				panic(fmt.Sprintf("the kernel's question is cut off: %v", err)) // it never is
			}
			if int(e.Pid) == os.Getpid() {
				p.answer(e.Fd, unix.FAN_ALLOW)
				continue
			}
			p.work.Go(func() { p.answer(e.Fd, p.judge()) })
		}
	}
}

// judge waits, if the moment has come, for what is to happen then.
func (p *Point) judge() (answer uint32) {
	if !p.come() {
		return unix.FAN_ALLOW
	}
	select {
	case <-p.released:
		return unix.FAN_ALLOW
	case <-p.refused:
		return unix.FAN_DENY
	}
}

// come says whether the moment has come.
func (p *Point) come() bool {
	select {
	case <-p.released:
		return false
	default:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.arrived && p.there() {
		p.arrived = true
		close(p.reached)
	}
	return p.arrived
}

// answer tells the kernel. An answer that comes after the end of the point is of no use to anybody.
func (p *Point) answer(fd int32, response uint32) {
	var b bytes.Buffer
	_ = binary.Write(&b, binary.NativeEndian, unix.FanotifyResponse{Fd: fd, Response: response})
	_, _ = p.group.Write(b.Bytes())
	_ = unix.Close(int(fd))
}

// Await waits for a point, for as long as anything may take on a busy machine, and fails the test if it is not reached: ended is closed, if
// not nil, when nobody will reach it any more, and says is what there is to say about it then.
func (p *Point) Await(t testing.TB, ended <-chan struct{}, says func() string) {
	t.Helper()
	select {
	case <-p.reached:
	case <-ended:
		select {
		case <-p.reached: // both
		default:
			t.Fatalf("it ended before it was where it is to be halted: %s", says())
		}
	case <-time.After(5 * time.Minute):
		t.Fatalf("waited for five minutes for it to be where it is to be halted: %s", says())
	}
}

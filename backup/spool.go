package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/storage/catalog"
)

// A Spool is where whole databases pass through the local disk, in plain text.
type Spool struct {
	// Dir is made when it is missing, with mode 0700. Files in it have no name: they vanish with the
	// process, however it ends.
	Dir string
	// AllowMemory allows a Dir that lies in memory (tmpfs), where a database takes from what etcd and
	// everything else need.
	AllowMemory bool
}

// What must stay free beside a spooled database: a part of it, because it grows until the stream opens,
// and a fixed amount for everyone else on that disk.
const (
	spareShare = 20 // a twentieth
	spareBytes = 64 << 20
)

// ErrSpool means that the spool directory cannot take the database: no space, memory, no rights.
var ErrSpool = errors.New("spool directory")

// File systems in memory, from linux/magic.h.
const (
	tmpfsMagic = 0x01021994
	ramfsMagic = 0x858458f6
)

// Create returns a file without a name, readable and writable by this process alone, on a disk with room for size bytes.
// The caller closes it.
func (s Spool) Create(size int64) (f *os.File, err error) {
	if err := s.Ready(size); err != nil {
		return nil, err
	}
	// A directory of its own keeps the file from others for the instant in which it has a name,
	// whatever the mode of Dir, which may be an ordinary one such as /var/tmp.
	dir, err := os.MkdirTemp(s.Dir, "spool-")
	if err != nil {
		return nil, fmt.Errorf("%w %s: %w (choose another with spool_dir)", ErrSpool, s.Dir, err)
	}
	name := filepath.Join(dir, "db")
	f, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w %s: %w", ErrSpool, s.Dir, err), os.Remove(dir))
	}
	if err := errors.Join(os.Remove(name), os.Remove(dir)); err != nil {
		return nil, errors.Join(fmt.Errorf("%w %s: %w", ErrSpool, s.Dir, err), f.Close())
	}
	return f, nil
}

// Ready makes the directory if it is missing, and refuses one in memory and one without room for size bytes and some to spare.
func (s Spool) Ready(size int64) error {
	if s.Dir == "" {
		return fmt.Errorf("%w: none is configured (spool_dir)", ErrSpool)
	}
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return fmt.Errorf("%w %s: %w (choose another with spool_dir)", ErrSpool, s.Dir, err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(s.Dir, &fs); err != nil {
		return fmt.Errorf("%w %s: %w", ErrSpool, s.Dir, err)
	}
	if kind := uint32(fs.Type); !s.AllowMemory && (kind == tmpfsMagic || kind == ramfsMagic) {
		return fmt.Errorf("%w %s lies in memory (tmpfs), where a database takes from what etcd needs: set spool_dir to a directory on disk, or allow it with allow_tmpfs_spool",
			ErrSpool, s.Dir)
	}
	free := int64(fs.Bavail) * int64(fs.Bsize)
	if need := size + size/spareShare + spareBytes; free < need {
		return fmt.Errorf("%w %s has %s free, and this database needs %s with some room to spare: free some space, or set spool_dir to another disk",
			ErrSpool, s.Dir, catalog.Size(free), catalog.Size(need))
	}
	return nil
}

// A spooled is a spool file while it grows: one writer, and readers that follow it. The writer never
// waits for a reader.
type spooled struct {
	file *os.File

	mu      sync.Mutex
	grown   sync.Cond
	size    int64 // written so far
	told    int64 // what readers were last told
	ended   bool
	failure error // why it ended early
}

// tellEvery is how many new bytes wake the readers: they work in far larger pieces than a stream arrives in.
const tellEvery = 1 << 20

func newSpooled(f *os.File) *spooled {
	s := &spooled{file: f}
	s.grown.L = &s.mu
	return s
}

// Write appends. Only one goroutine writes.
func (s *spooled) Write(p []byte) (int, error) {
	n, err := s.file.WriteAt(p, s.size) // only the writer changes size
	s.mu.Lock()
	s.size += int64(n)
	tell := s.size-s.told >= tellEvery
	if tell {
		s.told = s.size
	}
	s.mu.Unlock()
	if tell {
		s.grown.Broadcast()
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		err = fmt.Errorf("%w: the disk is full after %s: free some space, or set spool_dir to another disk: %w", ErrSpool, catalog.Size(s.size), err)
	}
	return n, err
}

// end says that nothing more comes: err is nil when the file is complete. Readers then end with io.EOF or err.
func (s *spooled) end(err error) {
	s.mu.Lock()
	s.ended, s.failure, s.told = true, err, s.size
	s.mu.Unlock()
	s.grown.Broadcast()
}

// follow returns a reader of the file from its start, which waits for what is still to be written. It ends with ctx.
// It is for one goroutine; close it.
func (s *spooled) follow(ctx context.Context) *follower {
	f := &follower{ctx: ctx, spool: s, sum: dbfile.NewSum()}
	f.stop = context.AfterFunc(ctx, func() {
		s.mu.Lock() // so that the wake-up cannot fall between a look at ctx and the wait
		defer s.mu.Unlock()
		s.grown.Broadcast()
	})
	return f
}

type follower struct {
	ctx     context.Context // of one reading; a reader has no other way to be told
	stop    func() bool
	spool   *spooled
	at      int64
	sum     *dbfile.Sum   // of what was read
	advance func(n int64) // told of what was read; may be nil
}

func (f *follower) Read(p []byte) (int, error) {
	s := f.spool
	s.mu.Lock()
	for f.at >= s.told && !s.ended && f.ctx.Err() == nil {
		s.grown.Wait()
	}
	available, ended, failure := s.told-f.at, s.ended, s.failure
	s.mu.Unlock()
	switch {
	case f.ctx.Err() != nil:
		return 0, context.Cause(f.ctx)
	case failure != nil:
		return 0, failure
	case available == 0 && ended:
		return 0, io.EOF
	}
	n, err := s.file.ReadAt(p[:min(int64(len(p)), available)], f.at)
	f.at += int64(n)
	_, _ = f.sum.Write(p[:n]) // never fails
	if f.advance != nil {
		f.advance(int64(n))
	}
	if err == io.EOF && n > 0 {
		err = nil
	}
	return n, err
}

// SHA256 is that of what was read, in hex: see [repository.Source].
func (f *follower) SHA256() string { return f.sum.SHA256() }

func (f *follower) Close() error {
	f.stop()
	return nil
}

package ssh

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/restore"
)

// An archive is a database packed once for all hosts, in a file that has no name, piece by piece: each host reads at its own speed, and the
// first pieces go out before the last are packed.
type archive struct {
	sum    string // checksum of the database
	raw    io.ReaderAt
	close  func() error // of raw
	size   int64
	packed *os.File

	mu    sync.Mutex
	grown chan struct{} // closed, and replaced, whenever the fields below change
	ends  []int64       // of the pieces in packed
	err   error
	quit  bool
	done  chan struct{} // closed when packing has ended
}

// newArchive begins to pack a database of which sum is the checksum. Files of its own are made in dir.
func newArchive(dir, sum string, size int64, db io.Reader) (*archive, error) {
	a := &archive{sum: sum, size: size, grown: make(chan struct{}), done: make(chan struct{})}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the spool directory: %w", err)
	}
	var err error
	if a.packed, err = unnamed(dir); err != nil {
		return nil, err
	}
	f, ok := db.(*os.File)
	if ok {
		f, err = again(f)
	} else {
		f, err = spooled(dir, db)
	}
	if err != nil {
		return nil, errors.Join(err, a.packed.Close())
	}
	a.raw, a.close = f, f.Close
	go a.pack()
	return a, nil
}

// unnamed makes a file that is gone when it is closed.
func unnamed(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "transfer-*")
	if err != nil {
		return nil, fmt.Errorf("make a file in the spool: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// again opens a file once more, whatever has become of its name.
func again(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s again: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// spooled copies what is no file, so that it can be read more than once.
func spooled(dir string, db io.Reader) (*os.File, error) {
	f, err := unnamed(dir)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(f, db); err != nil {
		return nil, errors.Join(fmt.Errorf("copy the database into the spool: %w", err), f.Close())
	}
	return f, nil
}

func (a *archive) pack() {
	defer close(a.done)
	err := func() error {
		encoder, err := newEncoder()
		if err != nil {
			return err
		}
		defer encoder.Close()
		buf, packed, end := make([]byte, pieceSize), []byte(nil), int64(0)
		for at := int64(0); at < a.size; at += pieceSize {
			piece := buf[:min(pieceSize, a.size-at)]
			if _, err := a.raw.ReadAt(piece, at); err != nil {
				return fmt.Errorf("read the database: %w", err)
			}
			packed = encoder.EncodeAll(piece, packed[:0])
			if _, err := a.packed.WriteAt(packed, end); err != nil {
				return fmt.Errorf("pack the database into the spool: %w", err)
			}
			end += int64(len(packed))
			if !a.grow(func() { a.ends = append(a.ends, end) }) {
				return errors.New("packing was stopped")
			}
		}
		return nil
	}()
	if err != nil {
		a.grow(func() { a.err = err })
	}
}

// grow changes what readers wait for, and says whether to go on.
func (a *archive) grow(change func()) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
	close(a.grown)
	a.grown = make(chan struct{})
	return !a.quit
}

// piece reads the i-th piece, packed, once it is there. After the last one it is io.EOF.
func (a *archive) piece(ctx context.Context, i int, buf []byte) ([]byte, error) {
	if int64(i)*pieceSize >= a.size {
		return nil, io.EOF
	}
	for {
		a.mu.Lock()
		ends, err, grown := a.ends, a.err, a.grown
		a.mu.Unlock()
		switch {
		case i < len(ends):
			begin := int64(0)
			if i > 0 {
				begin = ends[i-1]
			}
			n := int(ends[i] - begin)
			if n > cap(buf) {
				buf = make([]byte, n)
			}
			_, err := a.packed.ReadAt(buf[:n], begin)
			return buf[:n], err
		case err != nil:
			return nil, err
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// holds says whether a part is how this database begins.
func (a *archive) holds(ctx context.Context, p part) (bool, error) {
	if p.Size <= 0 || p.Size > a.size {
		return false, nil
	}
	sum, buf := restore.NewChecksum(), make([]byte, pieceSize)
	for at := int64(0); at < p.Size; at += pieceSize {
		if err := context.Cause(ctx); err != nil {
			return false, err
		}
		b := buf[:min(pieceSize, p.Size-at)]
		if _, err := a.raw.ReadAt(b, at); err != nil {
			return false, fmt.Errorf("read the database: %w", err)
		}
		sum.Write(b)
	}
	return hex.EncodeToString(sum.Sum(nil)) == p.Checksum, nil
}

// send sends the database from an offset on, and tells how many bytes of it, unpacked, each message carried.
func (a *archive) send(ctx context.Context, from int64, write func(packed []byte) error, sent func(n int64)) error {
	var buf []byte
	if from >= a.size {
		return nil
	}
	if over := from % pieceSize; over != 0 { // the rest of a piece that was cut
		rest := make([]byte, min(pieceSize-over, a.size-from))
		if _, err := a.raw.ReadAt(rest, from); err != nil {
			return fmt.Errorf("read the database: %w", err)
		}
		encoder, err := newEncoder()
		if err != nil {
			return err
		}
		packed := encoder.EncodeAll(rest, nil)
		if err := errors.Join(encoder.Close(), write(packed)); err != nil {
			return err
		}
		sent(int64(len(rest)))
		from += int64(len(rest))
	}
	for i := int(from / pieceSize); ; i++ {
		var err error
		if buf, err = a.piece(ctx, i, buf); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := write(buf); err != nil {
			return err
		}
		sent(min(pieceSize, a.size-int64(i)*pieceSize))
	}
}

// end stops packing and gives the files back.
func (a *archive) end() error {
	a.mu.Lock()
	a.quit = true
	a.mu.Unlock()
	<-a.done
	return errors.Join(a.packed.Close(), a.close())
}

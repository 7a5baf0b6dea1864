package local

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/requorum/requorum/restore"
)

// arriving is the database of the run as far as it came from another machine. It lies where it is staged, so that it is moved, not copied.
func (p *place) arriving() string { return p.paths()[0].Staged + ".db" }

// receive completes the file with what arrives, from where an earlier attempt broke off. When it breaks off again, what came is kept;
// when it is not the announced database, nothing.
func receive(ctx context.Context, path string, t restore.Transfer, req restore.StageRequest) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum := restore.NewChecksum()
	size, err := io.Copy(sum, reader{ctx, f})
	if err != nil {
		return fmt.Errorf("read what arrived before: %w", err)
	}
	from, err := t.Resume(size, hex.EncodeToString(sum.Sum(nil)))
	if err != nil {
		return err
	}
	if from != size {
		sum.Reset()
		size = 0
		if err := f.Truncate(0); err != nil {
			return err
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
	n, err := io.Copy(f, io.TeeReader(reader{ctx, t}, sum))
	if err != nil {
		return fmt.Errorf("receive the database: %w", err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); size+n != req.Size || got != req.Checksum {
		return errors.Join(fmt.Errorf("the database arrived with %d bytes and checksum %s, not %d and %s", size+n, got, req.Size, req.Checksum), os.Remove(path))
	}
	return nil
}

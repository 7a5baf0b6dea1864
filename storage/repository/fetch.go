package repository

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"

	"github.com/requorum/requorum/internal/seal"
	"github.com/requorum/requorum/storage/catalog"
)

// maxFacts bounds what is read of facts, in bytes before sealing.
const maxFacts = 64 << 20

// VerifyError says how what is stored differs from what the manifest says. It matches [ErrVerify].
type VerifyError struct {
	Backup string // id
	Store  string
	Key    string
	Stage  string // missing, manifest, decrypt, decompress, stored size, stored sha256, swapped, raw sha256
	What   string // what was found, for people
	Err    error  // what lies below, may be nil
}

func (e *VerifyError) Error() string {
	return fmt.Sprintf("%s in store %s: %s", e.Key, e.Store, e.What)
}

// Is makes every VerifyError match [ErrVerify].
func (e *VerifyError) Is(target error) bool { return target == ErrVerify }

// Unwrap returns what lies below.
func (e *VerifyError) Unwrap() error { return e.Err }

// Fetch reads the database of a backup into dst, from its start, and checks all of it in the one pass: size and sha256 of the
// stored bytes, decryption, decompression, size and sha256 of the plain ones. Only if it returns nil is what dst
// holds the database of the backup; otherwise dst is empty. Progress, which may be nil, is told how many bytes were
// written since it was last told; a copy in another store begins anew, which it is told by a negative number.
//
// A copy that fails, whether its store or its contents, is given up for that in the next store. Contents that are not
// those of the manifest are a [VerifyError], which says in what way; no fitting identity is [seal.ErrCannotDecrypt].
func (r *Repository) Fetch(ctx context.Context, snap catalog.Snapshot, m catalog.Manifest, dst *os.File, progress func(n int64)) error {
	if progress == nil {
		progress = func(int64) {}
	}
	if err := preallocate(dst, m.Data.Bytes); err != nil {
		return fmt.Errorf("fetching %s: %s needs %d bytes: %w", snap.ID, dst.Name(), m.Data.Bytes, err)
	}
	err := r.first(ctx, snap, func(s Named) error {
		out := &fileWriter{f: dst, progress: progress}
		err := r.read(ctx, s, snap, m, m.Data, out)
		if out.err != nil {
			err = &localError{fmt.Errorf("writing %s: %w", dst.Name(), out.err)}
		}
		if err != nil {
			progress(-out.n)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("fetching %s: %w", snap.ID, errors.Join(err, dst.Truncate(0)))
	}
	if err := dst.Truncate(m.Data.Bytes); err != nil {
		return fmt.Errorf("fetching %s: %w", snap.ID, err)
	}
	return nil
}

// Facts reads the facts of a backup, as checked as Fetch does it. A backup without facts has empty ones.
func (r *Repository) Facts(ctx context.Context, snap catalog.Snapshot, m catalog.Manifest) (catalog.Facts, error) {
	if m.Facts == nil {
		return catalog.Facts{Format: catalog.Format}, nil
	}
	if m.Facts.Bytes > maxFacts {
		return catalog.Facts{}, fmt.Errorf("facts of %s: %d bytes, more than the %d that are read", snap.ID, m.Facts.Bytes, maxFacts)
	}
	var f catalog.Facts
	err := r.first(ctx, snap, func(s Named) error {
		var b bytes.Buffer
		if err := r.read(ctx, s, snap, m, *m.Facts, &b); err != nil {
			return err
		}
		var err error
		if f, err = catalog.ParseFacts(b.Bytes()); err != nil {
			return &VerifyError{snap.ID, s.Name, m.Facts.Key, "facts", err.Error(), err}
		}
		return nil
	})
	if err != nil {
		return catalog.Facts{}, fmt.Errorf("facts of %s: %w", snap.ID, err)
	}
	return f, nil
}

// read gives the contents of one object in one store to w, checked. What w was given is right only if read returns nil.
func (r *Repository) read(ctx context.Context, s Named, snap catalog.Snapshot, m catalog.Manifest, want catalog.Object, w io.Writer) error {
	bad := func(stage string, err error, format string, args ...any) error {
		return &VerifyError{snap.ID, s.Name, want.Key, stage, fmt.Sprintf(format, args...), err}
	}
	body, err := s.Store.Get(ctx, want.Key, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return bad("missing", err, "it is missing although there is a manifest")
	}
	if err != nil {
		return err
	}
	defer body.Close()
	stored, plain := &meter{r: body, h: sha256.New()}, &sink{w: w, h: sha256.New()}
	arriving := readAhead(stored)
	opened, failure := seal.Open(arriving, r.identities, m.Sealed())
	if failure == nil {
		decoded := readAhead(io.LimitReader(opened, want.Bytes+1)) // one more tells that there is more
		failure = pour(plain, decoded)
		decoded.end()
		_ = opened.Close() // it ends the reading; what it can say was said by the reads
	}
	arriving.end()
	switch {
	case stored.err != nil:
		return stored.err
	case errors.Is(failure, seal.ErrCannotDecrypt) && seal.Fits(r.identities, m.Recipients):
		return bad("decrypt", nil, "it is encrypted to others than the manifest says, to whom the identity given belongs: it is not the object of this backup")
	case errors.Is(failure, seal.ErrCannotDecrypt):
		return fmt.Errorf("%s: %w; it is encrypted to %s", want.Key, failure, strings.Join(m.Recipients, ", "))
	case failure != nil && !errors.Is(failure, seal.ErrDamaged):
		return failure // of w
	}
	if _, err := io.Copy(io.Discard, stored); err != nil { // what decoding left
		return err
	}
	switch {
	case stored.n == want.StoredBytes && stored.sum() == want.StoredSHA256:
		if failure != nil {
			return bad("decompress", failure, "its bytes are those of the manifest, but they cannot be opened: %v", failure)
		}
		if plain.n != want.Bytes || plain.sum() != want.SHA256 {
			return bad("raw sha256", nil, "its bytes are those of the manifest, but hold other contents: %s", differ(plain.n, plain.sum(), want.Bytes, want.SHA256))
		}
		return nil
	case failure == nil:
		return bad("swapped", nil, "it is whole, but not the object of this backup: another was put in its place (%s)", differ(stored.n, stored.sum(), want.StoredBytes, want.StoredSHA256))
	case errors.Is(failure, seal.ErrOtherKind):
		return bad("decrypt", failure, "another object was put in its place: %v", failure)
	case stored.n < want.StoredBytes:
		return bad("stored size", failure, "it is cut off: %d bytes of %d are there", stored.n, want.StoredBytes)
	case stored.n > want.StoredBytes:
		return bad("stored size", failure, "it has %d bytes more than the %d that were stored", stored.n-want.StoredBytes, want.StoredBytes)
	}
	return bad("stored sha256", failure, "its bytes have changed: %s", differ(stored.n, stored.sum(), want.StoredBytes, want.StoredSHA256))
}

// differ says in what size and sum are not what was expected.
func differ(size int64, sum string, wantSize int64, wantSum string) string {
	if size != wantSize {
		return fmt.Sprintf("%d bytes, expected %d", size, wantSize)
	}
	return fmt.Sprintf("sha256 %s, expected %s", sum, wantSum)
}

// pieceSize is how much is worked on at a time.
const pieceSize = 1 << 20

// pour copies in large pieces.
func pour(w io.Writer, r io.Reader) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, pieceSize))
	return err
}

// meter counts and hashes what is read through it, and remembers why that ended early.
type meter struct {
	r   io.Reader
	h   hash.Hash // nil if r is hashed itself
	n   int64
	err error
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.n += int64(n)
	if m.h != nil {
		_, _ = m.h.Write(p[:n]) // a hash never fails
	}
	if err != nil && err != io.EOF {
		m.err = err
	}
	return n, err
}

func (m *meter) sum() string {
	if m.h == nil {
		return m.r.(hashed).SHA256()
	}
	return hex.EncodeToString(m.h.Sum(nil))
}

// sink counts and hashes what is written through it, the latter while w takes it.
type sink struct {
	w io.Writer
	h hash.Hash
	n int64
}

func (s *sink) Write(p []byte) (int, error) {
	var hashed sync.WaitGroup
	hashed.Go(func() { _, _ = s.h.Write(p) }) // a hash never fails
	n, err := s.w.Write(p)
	hashed.Wait()
	s.n += int64(n)
	return n, err
}

func (s *sink) sum() string { return hex.EncodeToString(s.h.Sum(nil)) }

// fileWriter writes a file from its start.
type fileWriter struct {
	f        *os.File
	n        int64
	err      error
	progress func(int64)
}

func (w *fileWriter) Write(p []byte) (int, error) {
	n, err := w.f.WriteAt(p, w.n)
	w.n += int64(n)
	w.progress(int64(n))
	if err != nil {
		w.err = err
	}
	return n, err
}

package dbfile

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
)

// A Sum hashes a database file while it goes by from its start, as a whole and without its trailer, so that a check need not read
// all of it once more: see CheckOptions.Unhashed. It is an io.Writer that never fails; the zero value is not ready, see NewSum.
type Sum struct {
	before hash.Cloner // of all but the last bytes
	last   []byte      // at most as many as a trailer has
	size   int64
}

// NewSum returns a Sum of nothing so far.
func NewSum() *Sum {
	return &Sum{before: sha256.New().(hash.Cloner), last: make([]byte, 0, sha256.Size)}
}

func (s *Sum) Write(p []byte) (int, error) {
	s.size += int64(len(p))
	if n := len(s.last) + len(p) - sha256.Size; n > 0 {
		old := min(n, len(s.last))
		s.before.Write(s.last[:old])
		s.before.Write(p[:n-old])
		s.last = append(s.last[:0], s.last[old:]...)
		s.last = append(s.last, p[n-old:]...)
	} else {
		s.last = append(s.last, p...)
	}
	return len(p), nil
}

// SHA256 is that of all that was written, in hex.
func (s *Sum) SHA256() string {
	whole, err := s.before.Clone()
	if err != nil {
		return "" // the standard library's hashes can be cloned
	}
	whole.Write(s.last)
	return hex.EncodeToString(whole.(hash.Hash).Sum(nil))
}

// CheckTrailer compares the file's end with the sha256 of all before. A difference is a *CheckError.
func (s *Sum) CheckTrailer() error {
	if !hasTrailer(s.size) {
		return noTrailer(s.size)
	}
	if sum := s.before.Sum(nil); !bytes.Equal(sum, s.last) {
		return wrongTrailer(s.last, sum)
	}
	return nil
}

func noTrailer(size int64) error {
	return &CheckError{Stage: StageTrailer, Err: fmt.Errorf("a snapshot of %d bytes has no sha256 trailer: it is truncated, or no snapshot", size)}
}

func wrongTrailer(trailer, sum []byte) error {
	return &CheckError{Stage: StageTrailer, Err: fmt.Errorf("the file ends with sha256 %x, but its content has %x", trailer, sum)}
}

// Package seal turns bytes into what is stored, and back: zstd, then age if there are recipients. Its output needs no
// requorum: "age -d | zstd -d" gives the bytes back.
//
// Both directions stream, with memory that does not grow with the amount: some 25 MiB for both together.
package seal

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
)

const (
	// window is how far back the compressor looks: it bounds the memory of both sides. On records like those of etcd
	// more than this, which is what "zstd -1" takes, gains nothing.
	window = 512 << 10
	// maxWindow is what Open accepts: that of zstd's own command up to level 19.
	maxWindow = 8 << 20
	// workers compress at once, each a stretch of four windows. More would take the processor from the etcd member that may run beside.
	workers = 2
)

const ageMagic = "age-encryption.org/"

var zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}

var (
	// ErrCannotDecrypt means that no identity fits, or that none was given. The stored bytes may be fine.
	ErrCannotDecrypt = errors.New("cannot decrypt")

	// ErrDamaged means that the bytes are not what Seal made: cut off, altered, followed by others, or of another
	// kind altogether.
	ErrDamaged = errors.New("not what was sealed")

	// ErrOtherKind is the ErrDamaged of what is encrypted and should be plain, or the other way round.
	ErrOtherKind = fmt.Errorf("%w", ErrDamaged)
)

// Seal returns a writer whose compressed and, if there are recipients, encrypted contents go to w. Nothing is whole before
// Close returned nil; Close does not close w.
func Seal(w io.Writer, to []age.Recipient) (io.WriteCloser, error) {
	s := &sealer{}
	if len(to) > 0 {
		encrypted, err := age.Encrypt(w, to...)
		if err != nil {
			return nil, fmt.Errorf("encrypt: %w", err)
		}
		s.encrypted, w = encrypted, encrypted
	}
	var err error
	s.compressed, err = zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(window),
		zstd.WithEncoderConcurrency(workers), zstd.WithConcurrentBlocks(true), zstd.WithAllLitEntropyCompression(true), zstd.WithZeroFrames(true))
	if err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	return s, nil
}

type sealer struct {
	compressed *zstd.Encoder
	encrypted  io.WriteCloser // nil without recipients
}

func (s *sealer) Write(p []byte) (int, error) { return s.compressed.Write(p) }

func (s *sealer) Close() error {
	if err := s.compressed.Close(); err != nil {
		return err
	}
	if s.encrypted != nil {
		return s.encrypted.Close()
	}
	return nil
}

// Open returns the bytes that Seal was given. Encrypted says whether there were recipients; ids may hold identities
// that do not fit.
//
// The reader ends with io.EOF only if r held exactly what Seal made: anything cut off, altered or added is [ErrDamaged]. No
// fitting identity is [ErrCannotDecrypt], from Open itself. An error of r is returned as it is. Close does not close r, but when it has
// returned r is no longer read.
func Open(r io.Reader, ids []age.Identity, encrypted bool) (io.ReadCloser, error) {
	source := &source{r: r}
	buffered := bufio.NewReaderSize(source, 64<<10)
	head, _ := buffered.Peek(len(ageMagic)) // a short one is told by what follows
	if source.err != nil {
		return nil, source.err
	}
	isAge := bytes.HasPrefix(head, []byte(ageMagic))
	var plain io.Reader = buffered
	switch {
	case isAge && !encrypted:
		return nil, fmt.Errorf("%w: it is encrypted, and plain was expected", ErrOtherKind)
	case !isAge && encrypted && bytes.HasPrefix(head, zstdMagic):
		return nil, fmt.Errorf("%w: it is not encrypted, and should be", ErrOtherKind)
	case !isAge && encrypted:
		return nil, fmt.Errorf("%w: it does not begin as an age file does", ErrDamaged)
	case encrypted && len(ids) == 0:
		return nil, fmt.Errorf("%w: no identity was given", ErrCannotDecrypt)
	case encrypted:
		var err error
		plain, err = age.Decrypt(buffered, ids...)
		if failure := source.err; failure != nil {
			return nil, failure
		}
		if _, ok := errors.AsType[*age.NoIdentityMatchError](err); ok {
			return nil, fmt.Errorf("%w: none of the %d identities given fits", ErrCannotDecrypt, len(ids))
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
	}
	compressed := bufio.NewReader(plain)
	if head, _ := compressed.Peek(len(zstdMagic)); !bytes.Equal(head, zstdMagic) {
		if err := source.err; err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%w: it does not begin as a zstd file does", ErrDamaged)
	}
	// Without goroutines of its own the decoder needs a third less processor time: whoever reads in one goroutine and works in another gains as much.
	d, err := zstd.NewReader(compressed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		if failure := source.err; failure != nil {
			return nil, failure
		}
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return &opener{d, source}, nil
}

// source remembers the error of the caller's reader, which is not one of the contents.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

type opener struct {
	d      *zstd.Decoder
	source *source
}

func (o *opener) Read(p []byte) (int, error) {
	n, err := o.d.Read(p)
	if err == nil || err == io.EOF {
		return n, err
	}
	if failure := o.source.err; failure != nil {
		return n, failure
	}
	return n, fmt.Errorf("%w: %w", ErrDamaged, err)
}

func (o *opener) Close() error {
	o.d.Close()
	return nil
}

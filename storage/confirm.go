package storage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
)

// Want is what an object must be.
type Want struct {
	Size     int64  // bytes
	SHA256   string // of the whole object, lower-case hexadecimal
	Checksum string // Object.Checksum as Put returned it; empty when the store gave none
}

// Confirmer is implemented by stores that can prove what they hold more cheaply than by sending all of it,
// or that know a better way to read it back.
type Confirmer interface {
	// Confirm proves that the object under key is what want says, asking the store itself and not the memory of
	// an upload wherever the rights allow it. It returns how it was proven, in words for a manifest:
	// "server checksum CRC64NVME", "read back sha256". An object that differs is [ErrMismatch], a missing one
	// fs.ErrNotExist; any other error means that nothing is known. Calls may run at once.
	Confirm(ctx context.Context, key string, want Want) (how string, err error)
}

// Confirm proves that s holds what want says by the best means that s has: its own, or by reading back.
func Confirm(ctx context.Context, s Store, key string, want Want) (how string, err error) {
	if c, ok := s.(Confirmer); ok {
		return c.Confirm(ctx, key, want)
	}
	return ReadBack(ctx, s, key, want)
}

// ReadBack reads the whole object and compares its size and sha256 with want. See [Confirmer] for the errors.
func ReadBack(ctx context.Context, s Store, key string, want Want) (how string, err error) {
	r, err := s.Get(ctx, key, 0)
	if err != nil {
		return "", err
	}
	defer r.Close()
	h := sha256.New()
	n, err := io.Copy(h, r)
	if err != nil {
		return "", fmt.Errorf("reading back %s: %w", key, err)
	}
	if n != want.Size {
		return "", fmt.Errorf("reading back %s: %w: %d bytes, expected %d", key, ErrMismatch, n, want.Size)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want.SHA256 {
		return "", fmt.Errorf("reading back %s: %w: sha256 %s, expected %s", key, ErrMismatch, got, want.SHA256)
	}
	return "read back sha256", nil
}

// Package storage is where bytes are kept: a store of immutable objects with four methods, the errors that
// every store speaks, and decorators over stores. It knows nothing of backups.
//
// The adapters are storage/s3, storage/file and storage/memory; each passes the suite storage/storagetest.
// This package imports none of them: whoever wires a program reads a URL with [ParseURL] and hands it to
// the adapter of its scheme.
//
// What an adapter can do beyond [Store] is an optional second interface: [Confirmer] to prove what is
// stored, [Sweeper] to find uploads that never finished. The functions and decorators of this package
// keep both working through any number of layers.
package storage

import (
	"context"
	"io"
	"iter"
	"time"
)

// Object is one stored object as a store lists it.
type Object struct {
	Key      string
	Size     int64     // bytes
	Modified time.Time // by the store's own clock, never ours

	// Checksum is the digest of the whole object that the store itself worked out or checked, as
	// "algorithm:base64", for instance "crc64nvme:OOJZ0D8xKts=". Only Put fills it in; it is empty when the
	// store vouched for nothing.
	Checksum string
}

// Store keeps immutable objects under keys. A Store is safe for concurrent use.
//
// Keys satisfy [CheckKey]; any other is refused with [ErrKey]. No key may be the directory of another
// ("a" and "a/b"): a store may refuse the second one. Errors are described at [Error].
type Store interface {
	// Put stores everything that r gives until io.EOF under key. It is atomic: the object becomes visible,
	// whole and durable, before Put returns nil, and until then it is in no listing and cannot be read.
	//
	// A key that is taken is [ErrExists], and the old object stays as it is; of several Puts of one key
	// at once exactly one succeeds. If r fails, ctx ends or the store fails, Put returns that error, nothing is
	// visible and what was sent so far is removed; what could not be removed is found by a [Sweeper]. One
	// case is left open, as everywhere: if the store's answer to the last, committing request is lost,
	// the whole object may be there although Put returned an error. A part of it never is.
	//
	// Put is never called again for the same reader by a decorator; adapters repeat their own requests.
	// Cancellation takes effect between two reads of r: a reader that can block for long must
	// itself end with ctx.
	Put(ctx context.Context, key string, r io.Reader) (Object, error)

	// Get opens the object from offset (bytes, not negative) to its end. At or beyond the end there is nothing
	// to read and no error. A missing key is fs.ErrNotExist, at once and not at the first Read. A stream
	// that breaks ends with an error other than io.EOF. The context governs the reading too: when it
	// ends, Read fails. The caller closes the reader.
	Get(ctx context.Context, key string, offset int64) (io.ReadCloser, error)

	// List yields the objects whose keys begin with prefix and are greater than after, in ascending order
	// of the keys' bytes. Prefix need not end at a slash; both may be empty. An error is yielded once, as the
	// last pair, with a zero Object; what came before it is true. Objects that come or go while a listing
	// runs may or may not be in it; all others are, exactly once.
	List(ctx context.Context, prefix, after string) iter.Seq2[Object, error]

	// Delete removes the object itself: in a bucket with versions, every version and marker of the key, so that
	// nothing of it is kept and paid for. A missing key is no error. An object that a retention or a
	// legal hold protects is [ErrLocked] and stays; missing rights are [ErrDenied].
	Delete(ctx context.Context, key string) error
}

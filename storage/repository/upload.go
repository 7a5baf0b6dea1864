package repository

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"filippo.io/age"

	"github.com/requorum/requorum/internal/seal"
	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/catalog"
)

// abortTime is how long tidying up may take once the context has ended.
const abortTime = 30 * time.Second

// Source gives the contents of a database from its start, each time it is called: a spool file, perhaps still growing.
// Reads block until there is more, end with io.EOF when all is there, and with an error if the stream failed or ctx has
// ended. If one store refuses the upload, the next one is offered it from a fresh Source.
//
// A reader with a method SHA256() string hashes what it gives by itself, and is asked when it has ended with io.EOF.
type Source func(ctx context.Context) (io.ReadCloser, error)

// A hashed reader knows the sha256, in hex, of what was read from it.
type hashed interface{ SHA256() string }

// Upload is a backup on its way into one store: the data, the facts, a proof of what is stored, and last the manifest that makes
// it exist. Its methods are called one after the other. Whoever begins an upload ends it with Commit or Abort.
type Upload struct {
	r       *Repository
	snap    catalog.Snapshot
	store   Named
	refused []error

	data, facts       *catalog.Object
	dataSum, factsSum string // the stores' own checksums
	proof             *catalog.Proof
}

// Begin names a new backup; see [catalog.NewSnapshot]. It is encrypted if the repository has recipients, whatever snap says. Nothing is
// stored yet.
func (r *Repository) Begin(ctx context.Context, snap catalog.Snapshot) (*Upload, error) {
	snap.Encrypted = len(r.recipients) > 0
	if err := snap.Check(); err != nil {
		return nil, fmt.Errorf("beginning a backup: %w", err)
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("beginning backup %s: %w", snap.ID, context.Cause(ctx))
	}
	return &Upload{r: r, snap: snap}, nil
}

// Snapshot returns the backup as it is named so far: its revision is the final one after Facts or Commit.
func (u *Upload) Snapshot() catalog.Snapshot { return u.snap }

// Store returns the name of the store that took the data, "" before.
func (u *Upload) Store() string { return u.store.Name }

// Refused returns a [StoreError] for each store that was tried before the one that took the data.
func (u *Upload) Refused() []error { return u.refused }

// Data compresses, encrypts and stores the database in the first store that takes it, while it is read, with memory that does not
// grow with its size. An error of the source or of ctx ends it; if every store refuses, the error is [ErrNoStore] and
// what each said.
func (u *Upload) Data(ctx context.Context, open Source) (catalog.Object, error) {
	for _, s := range u.r.stores {
		object, sum, err := u.put(ctx, s, u.snap.DataKey(), open)
		if err == nil {
			u.store, u.data, u.dataSum = s, &object, sum
			return object, nil
		}
		if own, ok := errors.AsType[*localError](err); ok {
			return catalog.Object{}, fmt.Errorf("uploading %s to store %s: %w", u.snap.ID, s.Name, own.err)
		}
		u.r.log.Warn("the store did not take the backup", "backup", u.snap.ID, "store", s.Name, "error", err)
		u.refused = append(u.refused, &StoreError{s.Name, err})
	}
	return catalog.Object{}, fmt.Errorf("uploading %s: %w: %w", u.snap.ID, ErrNoStore, errors.Join(u.refused...))
}

// Facts stores the facts beside the data. Revision is the snapshot's own, known now that its file was checked.
func (u *Upload) Facts(ctx context.Context, revision int64, f catalog.Facts) error {
	if err := u.settle(revision); err != nil {
		return err
	}
	f.Format = catalog.Format
	b, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("facts of %s: %w", u.snap.ID, err)
	}
	object, sum, err := u.put(ctx, u.store, u.snap.FactsKey(), func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b)), nil
	})
	if own, ok := errors.AsType[*localError](err); ok {
		err = own.err
	}
	if err != nil {
		return fmt.Errorf("facts of %s: %w", u.snap.ID, &StoreError{u.store.Name, err})
	}
	u.facts, u.factsSum = &object, sum
	return nil
}

// settle fixes the snapshot's own revision.
func (u *Upload) settle(revision int64) error {
	if u.data == nil {
		return fmt.Errorf("backup %s: its data is not stored yet", u.snap.ID)
	}
	snap := u.snap.At(revision)
	if err := snap.Check(); err != nil {
		return err
	}
	if u.facts != nil && snap.Revision != u.snap.Revision {
		return fmt.Errorf("backup %s: revision %d, but its facts are stored at %d", u.snap.ID, revision, u.snap.Revision)
	}
	u.snap = snap
	return nil
}

// Confirm proves that the store holds the data and the facts: by its own checksums, or by reading them back. What differs is
// [ErrVerify]. Commit puts the proof into the manifest.
func (u *Upload) Confirm(ctx context.Context) (catalog.Proof, error) {
	if u.data == nil {
		return catalog.Proof{}, fmt.Errorf("backup %s: its data is not stored yet", u.snap.ID)
	}
	proof := catalog.Proof{Name: "stored bytes", OK: true, Where: "stored"}
	for _, o := range []struct {
		object *catalog.Object
		sum    string
	}{{u.data, u.dataSum}, {u.facts, u.factsSum}} {
		if o.object == nil {
			continue
		}
		how, err := u.r.confirm(ctx, u.store, u.snap, *o.object, o.sum)
		if err != nil {
			return catalog.Proof{}, err
		}
		if proof.Detail == "" {
			proof.Detail = how
		}
	}
	u.proof = &proof
	return proof, nil
}

func (r *Repository) confirm(ctx context.Context, s Named, snap catalog.Snapshot, o catalog.Object, sum string) (how string, err error) {
	how, err = storage.Confirm(ctx, s.Store, o.Key, storage.Want{Size: o.StoredBytes, SHA256: o.StoredSHA256, Checksum: sum})
	if errors.Is(err, storage.ErrMismatch) {
		return "", &VerifyError{snap.ID, s.Name, o.Key, "stored sha256", "it is not what was sent: " + err.Error(), err}
	}
	if err != nil {
		return "", fmt.Errorf("confirming what is stored of %s: %w", snap.ID, &StoreError{s.Name, err})
	}
	return how, nil
}

// Commit writes the manifest, with which the backup exists. Of m it fills in format, cluster, line, id, time, objects, codec and
// recipients, and the proof of Confirm, which it calls if that was not done; the caller gives the rest. It returns the manifest
// as it stands in the store.
//
// If it fails the backup does not exist, and its objects are removed as by Abort.
func (u *Upload) Commit(ctx context.Context, m catalog.Manifest) (catalog.Manifest, error) {
	m, err := u.commit(ctx, m)
	if err != nil {
		u.Abort(ctx)
		return catalog.Manifest{}, fmt.Errorf("committing %s: %w", u.snap.ID, err)
	}
	return m, nil
}

func (u *Upload) commit(ctx context.Context, m catalog.Manifest) (catalog.Manifest, error) {
	if err := u.settle(m.Revision); err != nil {
		return m, err
	}
	if u.proof == nil {
		if _, err := u.Confirm(ctx); err != nil {
			return m, err
		}
	}
	m.Format, m.Cluster = catalog.Format, u.r.cluster
	m.Line, m.ID, m.Time = u.snap.Line, u.snap.ID, u.snap.Time
	m.Data, m.Facts = *u.data, u.facts
	m.Codec, m.Recipients = catalog.CodecZstd, nil
	if u.snap.Encrypted {
		m.Codec, m.Recipients = catalog.CodecZstdAge, seal.Names(u.r.recipients)
	}
	m.Proofs = append(m.Proofs[:len(m.Proofs):len(m.Proofs)], *u.proof)
	key := u.snap.ManifestKey()
	if err := m.Check(key); err != nil {
		return m, err
	}
	b, err := m.Encode()
	if err != nil {
		return m, err
	}
	if ctx.Err() != nil {
		return m, context.Cause(ctx)
	}
	if err := put(ctx, u.store.Store, key, b); err != nil {
		return m, &StoreError{u.store.Name, err}
	}
	u.snap.Committed, u.snap.Stores = true, []string{u.store.Name}
	return m, nil
}

// Abort removes what the upload has stored, unless it was committed. It works after ctx has ended, for a limited time. What
// cannot be removed is only logged: without a manifest it is invisible, and a sweep finds it.
func (u *Upload) Abort(ctx context.Context) {
	if u.snap.Committed || u.data == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTime)
	defer cancel()
	// The manifest may be there if the answer to its Put was lost, so it goes first, as in every deletion.
	keys := []string{u.snap.ManifestKey(), u.data.Key}
	if u.facts != nil {
		keys = append(keys, u.facts.Key)
	}
	for _, key := range keys {
		err := u.store.Store.Delete(ctx, key)
		if err == nil {
			continue
		}
		u.r.log.Warn("an object of an unfinished backup was left behind; a sweep will remove it", "store", u.store.Name, "key", key, "error", err)
		if key == u.snap.ManifestKey() {
			return
		}
	}
}

// put seals what open gives and stores it, hashing both sides. The error is a localError if it is not the store's.
func (u *Upload) put(ctx context.Context, s Named, key string, open Source) (catalog.Object, string, error) {
	var to []age.Recipient
	if u.snap.Encrypted {
		to = u.r.recipients
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, w := io.Pipe()
	raw := &meter{}
	sealed := make(chan error, 1)
	go func() {
		err := sealInto(ctx, w, raw, open, to)
		sealed <- err
		w.CloseWithError(err) // nil is io.EOF
	}()
	stored := &meter{r: r, h: sha256.New()}
	object, err := s.Store.Put(ctx, key, stored)
	// A store that gave up leaves the other side waiting: both ways out are closed, then it is waited for.
	outer := context.Cause(ctx)
	cancel()
	r.CloseWithError(errAbandoned)
	if sealErr := <-sealed; sealErr != nil && !errors.Is(sealErr, errAbandoned) && (outer != nil || !errors.Is(sealErr, context.Canceled)) {
		return catalog.Object{}, "", &localError{sealErr}
	}
	if outer != nil && err != nil {
		return catalog.Object{}, "", &localError{outer}
	}
	if err != nil {
		return catalog.Object{}, "", err
	}
	return catalog.Object{Key: key, Bytes: raw.n, SHA256: raw.sum(), StoredBytes: stored.n, StoredSHA256: stored.sum()}, object.Checksum, nil
}

// errAbandoned ends the sealing for a store that takes no more.
var errAbandoned = errors.New("the store takes no more")

func sealInto(ctx context.Context, w io.Writer, raw *meter, open Source, to []age.Recipient) error {
	source, err := open(ctx)
	if err != nil {
		return err
	}
	defer source.Close()
	raw.r = source
	if _, ok := source.(hashed); !ok {
		raw.h = sha256.New()
	}
	sealer, err := seal.Seal(w, to)
	if err != nil {
		return err
	}
	if err := pour(sealer, raw); err != nil {
		_ = sealer.Close() // ends its workers; what they made is of no use
		return err
	}
	return sealer.Close()
}

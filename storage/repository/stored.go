package repository

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/requorum/requorum/storage/catalog"
)

// Stored reads the objects of a backup back as they are stored and compares sizes and sha256 with the manifest. It needs no
// identity, and says nothing about what the bytes hold. Progress, which may be nil, is told how many bytes were read since it was
// last told. All stores that snap names are read; see [catalog.Snapshot.In] for one copy. What differs or is missing is a
// [VerifyError]; any other error is no verdict.
func (r *Repository) Stored(ctx context.Context, snap catalog.Snapshot, m catalog.Manifest, progress func(n int64)) error {
	if progress == nil {
		progress = func(int64) {}
	}
	stores, err := r.of(snap.Stores)
	if err != nil {
		return err
	}
	objects := []catalog.Object{m.Data}
	if m.Facts != nil {
		objects = append(objects, *m.Facts)
	}
	var errs []error
	for _, s := range stores {
		for _, o := range objects {
			if err := r.stored(ctx, s, snap, o, progress); err != nil {
				errs = append(errs, err)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("reading back what is stored of %s: %w", snap.ID, err)
	}
	return nil
}

func (r *Repository) stored(ctx context.Context, s Named, snap catalog.Snapshot, want catalog.Object, progress func(int64)) error {
	body, err := s.Store.Get(ctx, want.Key, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return &VerifyError{snap.ID, s.Name, want.Key, "missing", "it is missing although there is a manifest", err}
	}
	if err != nil {
		return &StoreError{s.Name, err}
	}
	defer body.Close()
	got := &meter{r: body, h: sha256.New()}
	if err := pour(countingWriter(progress), got); err != nil {
		return &StoreError{s.Name, err}
	}
	switch {
	case got.n != want.StoredBytes:
		return &VerifyError{snap.ID, s.Name, want.Key, "stored size", fmt.Sprintf("%d bytes are stored, expected %d", got.n, want.StoredBytes), nil}
	case got.sum() != want.StoredSHA256:
		return &VerifyError{snap.ID, s.Name, want.Key, "stored sha256", "its bytes have changed: " + differ(got.n, got.sum(), want.StoredBytes, want.StoredSHA256), nil}
	}
	return nil
}

// countingWriter only counts.
type countingWriter func(n int64)

var _ io.Writer = countingWriter(nil)

func (c countingWriter) Write(p []byte) (int, error) {
	c(int64(len(p)))
	return len(p), nil
}

package repository

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/catalog"
)

// Copy brings a backup to one more store: the line that it is of, the stored bytes as they are, checked against the manifest
// on their way, and the manifest last. Nothing needs to be decrypted. If the store has the backup already, nothing is
// done; an object that an earlier try left there is confirmed and kept. Verdicts stay behind: they are about one copy.
//
// The first of the other stores whose copy is good is copied from. Progress, which may be nil, is told how many stored bytes
// went over since it was last told; a source that fails half-way is taken back by a negative number.
func (r *Repository) Copy(ctx context.Context, snap catalog.Snapshot, toStore string, progress func(n int64)) error {
	if progress == nil {
		progress = func(int64) {}
	}
	i := slices.IndexFunc(r.stores, func(s Named) bool { return s.Name == toStore })
	if i < 0 {
		return fmt.Errorf("copying %s: store %q is none of those of cluster %s: %q", snap.ID, toStore, r.cluster, r.Stores())
	}
	to := r.stores[i]
	from := slices.DeleteFunc(r.Stores(), func(name string) bool {
		return name == toStore || len(snap.Stores) > 0 && !slices.Contains(snap.Stores, name)
	})
	if len(from) == 0 {
		return fmt.Errorf("copying %s to store %s: %w: no other store has it", snap.ID, toStore, ErrNoStore)
	}
	there, err := sizes(ctx, to, snap)
	if err != nil {
		return fmt.Errorf("copying %s: %w", snap.ID, &StoreError{toStore, err})
	}
	if there[snap.ManifestKey()] > 0 {
		return nil
	}
	err = r.first(ctx, snap.In(from...), func(s Named) error { return r.copyFrom(ctx, s, to, snap, there, progress) })
	if err != nil {
		return fmt.Errorf("copying %s to store %s: %w", snap.ID, toStore, err)
	}
	return nil
}

// sizes lists the objects of a backup in one store.
func sizes(ctx context.Context, s Named, snap catalog.Snapshot) (map[string]int64, error) {
	there := map[string]int64{}
	for o, err := range s.Store.List(ctx, snap.Stem(), "") {
		if err != nil {
			return nil, err
		}
		if snap.Owns(o.Key) {
			there[o.Key] = o.Size
		}
	}
	return there, nil
}

func (r *Repository) copyFrom(ctx context.Context, from, to Named, snap catalog.Snapshot, there map[string]int64, progress func(int64)) error {
	m, manifest, err := r.manifest(ctx, from, snap)
	if err != nil {
		return err
	}
	objects := []catalog.Object{m.Data}
	if m.Facts != nil {
		objects = append(objects, *m.Facts)
	}
	if err := r.copyLine(ctx, from, to, snap.Line); err != nil {
		return err
	}
	for _, o := range objects {
		if _, left := there[o.Key]; left {
			_, err := r.confirm(ctx, to, snap, o, "")
			if err == nil {
				continue
			}
			// Without a manifest it belongs to nothing: a damaged one makes room.
			if errors.Is(err, ErrVerify) {
				err = to.Store.Delete(ctx, o.Key)
			}
			if err != nil {
				return &localError{&StoreError{to.Name, err}}
			}
			delete(there, o.Key)
		}
		sum, err := r.copyObject(ctx, from, to, snap, o, progress)
		if err != nil {
			return err
		}
		if _, err := r.confirm(ctx, to, snap, o, sum); err != nil {
			return &localError{err}
		}
	}
	if err := put(ctx, to.Store, snap.ManifestKey(), manifest); err != nil {
		return &localError{&StoreError{to.Name, err}}
	}
	return nil
}

// copyObject streams one object and returns the checksum of the store it went to.
func (r *Repository) copyObject(ctx context.Context, from, to Named, snap catalog.Snapshot, o catalog.Object, progress func(int64)) (string, error) {
	body, err := from.Store.Get(ctx, o.Key, 0)
	if err != nil {
		return "", err
	}
	defer body.Close()
	checked := &checkedReader{meter: meter{r: body, h: sha256.New()}, want: o, progress: progress}
	stored, err := to.Store.Put(ctx, o.Key, checked)
	if err == nil {
		return stored.Checksum, nil
	}
	progress(-checked.n)
	switch {
	case checked.wrong != "":
		return "", &VerifyError{snap.ID, from.Name, o.Key, "stored sha256", "it is not what the manifest says: " + checked.wrong, nil}
	case checked.err != nil:
		return "", checked.err // of the source, and not of the store that could not be fed
	case errors.Is(err, storage.ErrExists):
		return "", nil // another copy run was faster; what it stored is confirmed next
	}
	return "", &localError{&StoreError{to.Name, err}}
}

// checkedReader ends with an error, and so keeps the copy from becoming visible, unless it gave exactly what is wanted.
type checkedReader struct {
	meter
	want     catalog.Object
	wrong    string
	progress func(int64)
}

func (c *checkedReader) Read(p []byte) (int, error) {
	n, err := c.meter.Read(p)
	c.progress(int64(n))
	if c.n > c.want.StoredBytes || err == io.EOF && (c.n != c.want.StoredBytes || c.sum() != c.want.StoredSHA256) {
		c.wrong = differ(c.n, c.sum(), c.want.StoredBytes, c.want.StoredSHA256)
		return n, errors.New("not what the manifest says: " + c.wrong)
	}
	return n, err
}

// copyLine brings the object that opens a line, if it is not there.
func (r *Repository) copyLine(ctx context.Context, from, to Named, line string) error {
	key, err := findLine(ctx, to, line)
	if err != nil {
		return &localError{&StoreError{to.Name, err}}
	}
	if key != "" {
		return nil
	}
	key, err = findLine(ctx, from, line)
	if err != nil {
		return err
	}
	if key == "" {
		r.log.Warn("the line of this backup has no object in the store it is copied from", "line", line, "store", from.Name)
		return nil
	}
	b, err := get(ctx, from.Store, key)
	if err != nil {
		return err
	}
	if _, err := catalog.ParseLine(key, b); err != nil {
		return err
	}
	if err := put(ctx, to.Store, key, b); err != nil {
		return &localError{&StoreError{to.Name, err}}
	}
	return nil
}

// findLine returns the key of the object that opens a line, "" if there is none.
func findLine(ctx context.Context, s Named, line string) (string, error) {
	for o, err := range s.Store.List(ctx, catalog.LinesPrefix, "") {
		if err != nil {
			return "", err
		}
		if id, _, ok := catalog.ParseLineKey(o.Key); ok && id == line {
			return o.Key, nil
		}
	}
	return "", nil
}

package s3

import (
	"context"
	"path"

	"github.com/requorum/requorum/storage"
)

// Probe implements [storage.Prober] by an upload in parts that is begun and given up: it needs the rights of a Put,
// and nothing of it is ever an object.
func (s *Store) Probe(ctx context.Context) error {
	// Below the prefix, like every object: rights may end there.
	u := &upload{s: s, key: path.Join(s.o.Prefix, storage.ProbeKey)}
	if err := u.begin(ctx); err != nil {
		return err
	}
	return s.Abort(context.WithoutCancel(ctx), storage.Unfinished{Key: u.key, ID: u.id})
}

package storage

import (
	"context"
	"errors"
	"strings"
)

// ProbeKey is the key that [Probe] names to the store. No object is ever stored under it.
const ProbeKey = "requorum-probe"

// Prober is implemented by stores that can find out whether they may be written to without storing an object.
type Prober interface {
	// Probe returns the error that a Put of a whole object would meet now, as far as can be told without one, and
	// leaves nothing behind. It needs no right to delete.
	Probe(ctx context.Context) error
}

// Probe finds out whether s can be written to, and leaves nothing behind.
func Probe(ctx context.Context, s Store) error {
	if p, ok := s.(Prober); ok {
		return p.Probe(ctx)
	}
	_, err := s.Put(ctx, ProbeKey, probeReader{strings.NewReader("probe")})
	if errors.Is(err, errProbe) {
		return nil
	}
	return err
}

// probeReader ends with errProbe, so that nothing that was begun is finished.
type probeReader struct{ *strings.Reader }

var errProbe = errors.New("the probe ends here")

func (r probeReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil {
		err = errProbe
	}
	return n, err
}

// Probe implements [Prober].
func (s *retrying) Probe(ctx context.Context) error {
	return s.o.Do(ctx, func() error { return Probe(ctx, s.Store) })
}

// Probe implements [Prober].
func (p *prefixed) Probe(ctx context.Context) error { return Probe(ctx, p.inner) }

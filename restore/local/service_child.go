package local

import (
	"context"

	"github.com/requorum/requorum/restore"
)

// A Child is an etcd that lives and dies with the calling process, in the place of a service: one in a sandbox.
type Child interface {
	// Start returns when etcd serves or would with a quorum. It may be called while etcd runs.
	Start(ctx context.Context) error
	// Stop returns once the process is gone. It may be called while none runs.
	Stop(ctx context.Context) error
	Running() bool
}

// child is a Child as a service. Nobody else starts it, so there is nothing to forbid.
type child struct {
	*place
	Child
}

func (c child) status(context.Context) (status, error) { return status{active: c.Running()}, nil }

func (c child) do(ctx context.Context, a restore.Action) error {
	switch a {
	case restore.ActStart:
		return c.Start(ctx)
	case restore.ActStop:
		return c.Stop(ctx)
	}
	return nil
}

func (child) look(context.Context) outlook { return outlook{} }

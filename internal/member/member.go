package member

import (
	"context"
	"errors"
)

// Options describe one etcd member.
type Options struct {
	Name    string // default "default"
	DataDir string
	WALDir  string // empty: member/wal in DataDir

	// ListenClient and ListenPeer are comma-separated URLs, also advertised. Empty: a free port of 127.0.0.1.
	ListenClient, ListenPeer string

	InitialCluster  string // "name=url,…"; empty: this member alone
	Token           string
	ForceNewCluster bool

	QuotaBytes int64  // of the backend; 0: etcd's default
	NoFsync    bool   // for data that may be lost
	LogFile    string // where the server logs; empty: etcd.log in DataDir's parent, named after the member
}

// Process is a running child.
type Process struct{}

// Start starts an etcd server and returns once it serves.
func Start(ctx context.Context, o Options) (*Process, error) { return nil, errors.ErrUnsupported }

// Hash is an answer to HashKV.
type Hash struct {
	Hash            uint32
	CompactRevision int64
	Revision        int64
}

// Endpoint is the client URL.
func (p *Process) Endpoint() string { return "" }

// PeerURL is the peer URL.
func (p *Process) PeerURL() string { return "" }

// PID is the process id.
func (p *Process) PID() int { return 0 }

// Hash asks the server for HashKV at a revision, 0 for the current one.
func (p *Process) Hash(ctx context.Context, revision int64) (Hash, error) {
	return Hash{}, errors.ErrUnsupported
}

// Stop ends the server in order.
func (p *Process) Stop(ctx context.Context) error { return errors.ErrUnsupported }

// Kill ends the server at once.
func (p *Process) Kill() error { return errors.ErrUnsupported }

// Done is closed when the process has ended; Err then says why.
func (p *Process) Done() <-chan struct{} { return nil }

// Err is nil while the process runs and after an orderly end.
func (p *Process) Err() error { return nil }

// Served is what a server answered that was started on a database.
type Served struct {
	Hash
	Keys   int64
	Leases []int64
}

// HashOf starts a server on dataDir, which it changes, and asks it for HashKV at a revision.
func HashOf(ctx context.Context, dataDir string, revision int64) (Served, error) {
	return Served{}, errors.ErrUnsupported
}

// Serve runs an etcd server in this process until ctx ends.
func Serve(ctx context.Context, o Options) error { return errors.ErrUnsupported }

// RunChild serves as the child process when the environment says so, and then does not return.
func RunChild() {}

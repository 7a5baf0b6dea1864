package member

import (
	"context"
	"fmt"
	"time"
)

// Replay starts a server on the data directory of a cluster of one, such as dbfile.StageRecovery makes, in which nothing else must run, and
// stops it in order once it has applied the whole of its raft log. Like that of HashOf the server listens to nobody; what it leaves is not
// synced to disk.
func Replay(ctx context.Context, dataDir string) error {
	p, err := Start(ctx, alone(dataDir))
	if err != nil {
		return err
	}
	defer p.Kill()
	// It serves only what it proposed itself after it started, so all that was in its log comes before that.
	if err := p.Stop(ctx); err != nil {
		return fmt.Errorf("replay the raft log in %s: %w", dataDir, err)
	}
	return nil
}

// alone is a server of a cluster of one that nobody talks to.
func alone(dataDir string) Options {
	return Options{
		Name:         "alone",
		DataDir:      dataDir,
		ListenClient: nowhere,
		ListenPeer:   nowhere,
		Tick:         10 * time.Millisecond,
		QuotaBytes:   -1,
		NoFsync:      true,
	}
}

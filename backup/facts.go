package backup

import (
	"context"
	"fmt"
	"iter"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/storage/catalog"
)

// Agents is how a backup learns of the programs that keep leased state in the cluster, from whoever configured them. The
// zero value learns nothing.
type Agents struct {
	// Select names the keys without a lease that Facts wants to see.
	Select dbfile.Select
	// Facts says what the backup holds of them, and in warnings what a person should know before a restore asks. An error costs
	// what is missing of the facts, not the backup.
	Facts func(ctx context.Context, kv KeyReader) (facts catalog.Facts, warnings []string, err error)
}

// KeyReader is the key space of a backup: leased keys, those that Agents.Select names, and leases.
type KeyReader interface {
	Keys(prefix string) iter.Seq[*mvccpb.KeyValue]
	Lease(id int64) (ttl int64, ok bool)
	Revision() int64
}

// makeFacts reads the facts out of a checked file.
func (a Agents) makeFacts(ctx context.Context, kv KeyReader) (facts catalog.Facts, warnings []string) {
	if a.Facts == nil {
		return catalog.Facts{Format: catalog.Format}, nil
	}
	facts, warnings, err := a.Facts(ctx, kv)
	if err != nil {
		warnings = append(warnings, fmt.Sprintf("agents: what they left in the backup could not be read in full: %v", err))
	}
	return facts, warnings
}

package agents

import (
	"context"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// Anew says whether k is a registration made since the cluster opened: created
// above the opened revision, under a lease that was not in the prepared file.
// If it is not, why says so for a person. A nil k is an absent key.
func (r Restored) Anew(k *mvccpb.KeyValue) (why string, ok bool) {
	switch {
	case k == nil:
		return "absent", false
	case k.CreateRevision <= r.Revision:
		return fmt.Sprintf("only the restored key is there (create revision %d, opened at %d)", k.CreateRevision, r.Revision), false
	case k.Lease == 0:
		return "written anew, but without a lease", false
	case r.Leases[k.Lease]:
		return fmt.Sprintf("written anew, but under lease %016x, which was restored", k.Lease), false
	}
	return "", true
}

// Renewals watches leases until each is seen being renewed by its owner: a
// restored or abandoned lease is alive too, for one whole TTL. It is used by
// one goroutine.
type Renewals struct {
	live Live
	seen map[int64]*renewal
}

type renewal struct {
	latestEnd time.Time // when the lease ends at the latest, had it not been renewed since the first look
	renewed   bool
}

// NewRenewals watches the leases of live.
func NewRenewals(live Live) *Renewals {
	return &Renewals{live: live, seen: map[int64]*renewal{}}
}

// Look asks for the TTL of a lease and says whether the lease has been seen
// being renewed; if not, why says so for a person. It takes two looks at least:
// renewed is a lease that ends later than it could have at the first look. The
// answer is remembered: a renewed lease is not asked for again, since a lease
// that ends takes its keys with it.
func (r *Renewals) Look(ctx context.Context, lease int64) (why string, ok bool, err error) {
	first, known := r.seen[lease]
	if known && first.renewed {
		return "", true, nil
	}
	before := time.Now()
	ttl, granted, err := r.live.TimeToLive(ctx, lease)
	if err != nil {
		return "", false, fmt.Errorf("time to live of lease %016x: %w", lease, err)
	}
	if ttl < 0 {
		return fmt.Sprintf("lease %016x has ended", lease), false, nil
	}
	left := time.Duration(ttl) * time.Second // the server rounds down to whole seconds
	if !known {
		r.seen[lease] = &renewal{latestEnd: time.Now().Add(left + time.Second)}
	} else if !before.Add(left).Before(first.latestEnd) {
		first.renewed = true
		return "", true, nil
	}
	return fmt.Sprintf("lease %016x (%d s of %d s left) has not been seen renewed yet", lease, ttl, granted), false, nil
}

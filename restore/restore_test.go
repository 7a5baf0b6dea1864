package restore_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/requorum/requorum/internal/etcdtest"
)

// The whole way on every version of etcd: after total loss every unleased row is back exactly as it was, leased ones are gone,
// and a watch that had been open is told that its history is compacted instead of waiting in silence.
func TestRestoreAfterTotalLoss(t *testing.T) {
	for _, version := range etcdtest.Versions() {
		t.Run(version, func(t *testing.T) {
			b := newBed(t, etcdtest.Options{Version: version})
			client := b.fill(300)
			taken := b.backup()
			want := unleased(b.rows())
			etcdtest.Put(t, client, "/data/late", "lost") // after the backup
			watch := client.Watch(clientv3.WithRequireLeader(t.Context()), "/data/", clientv3.WithPrefix(), clientv3.WithRev(etcdtest.Revision(t, client)+1))

			b.Kill(t)
			b.Wipe(t)
			report := b.run()

			etcdtest.MustEqual(t, want, b.rows())
			if report.Source.ID != taken.ID || report.TargetRevision <= taken.Revision+1_000_000_000-1 || !report.OK {
				t.Errorf("report %+v of backup %s at revision %d", report, taken.ID, taken.Revision)
			}
			if len(report.Ghosts) == 0 || len(report.Members) != 3 {
				t.Errorf("ghosts %+v, members %+v", report.Ghosts, report.Members)
			}
			for _, m := range report.Members {
				if !m.Healthy || m.Hash == "unknown" {
					t.Errorf("member %+v was not proven", m)
				}
			}
			if leases := etcdtest.Leases(t, client); len(leases) > 0 {
				t.Errorf("leases %v live on", leases)
			}
			compacted(t, watch)
		})
	}
}

// compacted waits until the watch ends as one whose revisions are compacted. A watch that was cut for another reason is begun again, as a client does.
func compacted(t *testing.T, watch clientv3.WatchChan) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for {
		select {
		case r, ok := <-watch:
			if r.CompactRevision > 0 || errors.Is(r.Err(), rpctypes.ErrCompacted) {
				return
			}
			if !ok {
				t.Fatal("the watch ended without being told that its revisions are compacted")
			}
		case <-ctx.Done():
			t.Fatal("an open watch was not told that its revisions are compacted")
		}
	}
}

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// Of every supported version: what a cluster held is there again after total loss, row by row, from one command; what was leased
// is gone with its leases, but for what the configuration calls data; and nobody who watched is left in silence.
func TestTotalLoss(t *testing.T) {
	t.Parallel()
	for _, version := range etcdtest.Versions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, siteOptions{etcd: etcdtest.Options{Version: version}, s3: true, cluster: "    keep_leased: [/registry/events/]\n"})
			client := s.Client(t)
			kept := s.workload(client)
			before := etcdtest.Rows(t, client)
			taken := s.backup("--prove")
			for _, p := range taken.Proofs {
				if !p.OK {
					t.Errorf("proof %s at %s: %s", p.Name, p.Where, p.Detail)
				}
			}
			if !slices.ContainsFunc(taken.Proofs, func(p struct {
				Name, Where, Detail string
				OK                  bool
			}) bool {
				return len(p.Where) > 7 && p.Where[:7] == "member "
			}) {
				t.Errorf("nothing was compared with a running member: %+v", taken.Proofs)
			}
			oldID := s.Members[0].Status(t).Header.ClusterId
			for i := range 20 { // after the backup: lost, but somebody watched it
				etcdtest.Put(t, client, fmt.Sprintf("/late/%d", i), "lost")
			}
			last := etcdtest.Revision(t, client)
			watch := client.Watch(t.Context(), "/", clientv3.WithPrefix(), clientv3.WithRev(last+1))

			s.lose()
			report := s.restore()

			if report.Source.ID != taken.ID || report.TargetRevision < last+1_000_000_000-20 {
				t.Errorf("restored %s to revision %d; the backup is %s, and revision %d was served", report.Source.ID, report.TargetRevision, taken.ID, last)
			}
			s.WaitHealthy(t)
			client = s.Client(t)
			after := etcdtest.Rows(t, client)
			want := slices.DeleteFunc(before, func(r etcdtest.Row) bool { return r.Lease != 0 && r.Lease != int64(kept) })
			etcdtest.MustEqual(t, want, after)
			if leases := etcdtest.Leases(t, client); len(leases) != 1 || leases[kept] != 3600 {
				t.Errorf("leases %v; want only %x with its TTL", leases, kept)
			}
			if len(report.Members) != 3 {
				t.Fatalf("%d members were proven", len(report.Members))
			}
			for i, m := range s.Members {
				status := m.Status(t)
				if status.Header.ClusterId == oldID || fmt.Sprintf("%016x", status.Header.ClusterId) != report.ClusterID {
					t.Errorf("%s has cluster id %x; before %x, reported %s", m.Name, status.Header.ClusterId, oldID, report.ClusterID)
				}
				if p := report.Members[i]; !p.Healthy || len(p.Hash) != 8 || p.Hash != report.Members[0].Hash {
					t.Errorf("%s was not proven: %+v", m.Name, p)
				}
			}
			compacted(t, watch)
			s.newLine(taken, report)
			etcdtest.Put(t, client, "/data/new", "written") // it takes writes
		})
	}
}

// newLine fails the test unless list shows the first backup of the restored cluster on a line of its own.
func (s *site) newLine(taken taken, report restored) {
	s.t.Helper()
	all := s.list()
	if len(all) != 2 || all[0].ID != taken.ID || all[1].ID != report.Backup || all[0].Line == all[1].Line {
		s.t.Errorf("list shows %+v; want %s and, on a new line, %s", all, taken.ID, report.Backup)
	}
}

// workload does everything that a client can do to a history, and returns a lease that holds data.
func (s *site) workload(client *clientv3.Client) (kept clientv3.LeaseID) {
	t := s.t
	t.Helper()
	s.fill(300, 500)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	txn := func(ops ...clientv3.Op) {
		t.Helper()
		err := etcdtest.Retried(ctx, func() error {
			_, err := client.Txn(ctx).Then(ops...).Commit()
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	txn(clientv3.OpPut("/txn/a", "1"), clientv3.OpPut("/txn/b", "2"), clientv3.OpDelete("/data/00000007"))
	// The same key twice in one revision: put and deleted.
	nested := func(op clientv3.Op) clientv3.Op { return clientv3.OpTxn(nil, []clientv3.Op{op}, nil) }
	txn(nested(clientv3.OpPut("/txn/gone", "x")), nested(clientv3.OpDelete("/txn/gone")))
	etcdtest.Delete(t, client, "/data/0000001", clientv3.WithPrefix())
	etcdtest.Compact(t, client, etcdtest.Revision(t, client)-4)
	etcdtest.Put(t, client, "/binary/\x00\xff", "\x00\x01\xfe")
	etcdtest.Put(t, client, "/empty", "")

	etcdtest.Lease(t, client, 5*time.Minute, "/service/main/leader")
	etcdtest.Lease(t, client, 59*time.Minute, "/app/members/a", "/app/members/b")
	etcdtest.Lease(t, client, 10*time.Minute, "/app/was-leased", "/app/locks/x")
	etcdtest.Put(t, client, "/app/was-leased", "is not any more")
	revoked := etcdtest.Lease(t, client, 5*time.Minute, "/app/revoked")
	err := etcdtest.Retried(ctx, func() error { _, err := client.Revoke(ctx, revoked); return err })
	if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) { // an attempt that was not answered may have done it
		t.Fatal(err)
	}
	return etcdtest.Lease(t, client, time.Hour, "/registry/events/e1", "/registry/events/e2")
}

// compacted waits until a watch from before the disaster is told that its revisions are gone.
func compacted(t *testing.T, watch clientv3.WatchChan) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute) // the client waits longer and longer between its attempts to connect
	defer cancel()
	for {
		select {
		case r, ok := <-watch:
			if r.CompactRevision > 0 || errors.Is(r.Err(), rpctypes.ErrCompacted) {
				return
			}
			if len(r.Events) > 0 || !ok {
				t.Fatalf("a watch from before the restore was not told that its revisions are compacted: %d events, open %v, %v", len(r.Events), ok, r.Err())
			}
		case <-ctx.Done():
			t.Fatal("a watch from before the restore was left in silence")
		}
	}
}

// A snapshot of 3.4 servers opens on 3.5 servers: a cluster can be rebuilt on what is installed now.
func TestOtherVersion(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{etcd: etcdtest.Options{Version: etcdtest.V34}})
	s.workload(s.Client(t))
	taken := s.backup()
	want := s.rows()
	s.lose()
	for _, m := range s.Members {
		m.Version, m.Args[0] = etcdtest.V35, etcdtest.Binary(t, "etcd", etcdtest.V35)
	}
	s.cluster = "    target_version: " + etcdtest.V35 + "\n    keep_leased: []\n"
	s.configure()
	// Long leases of nobody's are asked about.
	s.run("restore", "dcs", "--yes").Exits(t, command.ExitRefused, "--keep-leased /registry/events/", "--drop-leased /registry/events/")
	report := s.restore("--drop-leased", "/registry/events/")
	s.WaitHealthy(t)
	if version := s.Members[0].Status(t).Version; version != etcdtest.V35 {
		t.Errorf("etcd %s runs", version)
	}
	etcdtest.MustEqual(t, want, s.rows())
	s.newLine(taken, report)
}

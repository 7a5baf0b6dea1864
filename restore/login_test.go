package restore_test

import (
	"context"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/restore"
)

// A client that had logged in before a disaster goes on after the restore: its token, which names an index of the lost cluster's
// raft log, is refused at once, and it logs in anew. From a log that began lower etcd would let it wait for ever. That holds
// after the second restore of one backup and after a rollback as well. (TestPreparedClustersStart has a token refused by every version.)
func TestClientsThatHadLoggedIn(t *testing.T) {
	b := newBed(t, etcdtest.Options{})
	b.fill(20)
	b.EnableAuth(t, "secret")
	b.Username, b.Password = "root", "secret"
	taken := b.backup()
	clients := []*clientv3.Client{b.loggedIn()}
	goOn := func(after string) {
		t.Helper()
		for i, c := range clients {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			err := etcdtest.Retried(ctx, func() error {
				_, err := c.Get(ctx, "/data/00000001")
				return err
			})
			cancel()
			if err != nil {
				t.Fatalf("a client that logged in %d clusters ago is not answered after %s: %v", len(clients)-i, after, err)
			}
		}
		clients = append(clients, b.loggedIn())
	}
	again := func(o *restore.Options) { o.At = taken.ID }
	for _, after := range []string{"a restore", "another restore of the same backup"} {
		b.Kill(t)
		b.Wipe(t)
		b.run(again)
		goOn(after)
	}
	b.run(again, overHealthy)
	goOn("a restore over a healthy cluster")
	if _, err := b.restorer(nil, func(o *restore.Options) { o.DiscardWrites = true }).Rollback(t.Context(), ""); err != nil {
		t.Fatalf("rollback: %v", err)
	}
	goOn("a rollback")
}

// loggedIn is a client of one member, at the end of its raft log.
func (b *bed) loggedIn() *clientv3.Client {
	b.t.Helper()
	c := b.Client(b.t)
	etcdtest.Put(b.t, c, "/data/late", "lost")
	return c
}

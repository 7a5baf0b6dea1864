package dbfile_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/internal/etcdtest"
)

// TestJoiningIgnoresFlags replaces a member of a cluster of every version, whose service still has the flags that once founded the cluster: on the staged
// directory it joins as a learner and is promoted. On an empty one those flags end the server, or begin a cluster of its own.
func TestJoiningIgnoresFlags(t *testing.T) {
	for _, version := range etcdtest.Versions() {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			c := etcdtest.StartCluster(t, etcdtest.Options{Version: version, ExtraFlags: []string{"--snapshot-count=50"}})
			client := c.Client(t)
			etcdtest.MustFill(t, client, etcdtest.FillOptions{Keys: 50})
			for i := range 150 {
				etcdtest.Put(t, client, fmt.Sprint("/again/", i%10), "x")
			}
			m := c.Followers(t)[0]
			id := m.ID(t)
			m.Kill(t)
			m.Wipe(t)
			within := func(what string, f func(ctx context.Context) error) {
				t.Helper()
				deadline := time.Now().Add(90 * time.Second)
				for {
					ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
					err := f(ctx)
					cancel()
					if err == nil {
						return
					}
					if time.Now().After(deadline) {
						t.Fatalf("%s: %v", what, err)
					}
					time.Sleep(50 * time.Millisecond)
				}
			}
			var added *etcdserverpb.MemberAddResponse
			within("remove", func(ctx context.Context) error {
				list, err := client.MemberList(ctx)
				if err == nil && len(list.Members) < 3 {
					return nil
				}
				_, err = client.MemberRemove(ctx, id)
				return err
			})
			within("add", func(ctx context.Context) error {
				r, err := client.MemberAddAsLearner(ctx, []string{m.PeerURL})
				added = (*etcdserverpb.MemberAddResponse)(r)
				return err
			})
			err := dbfile.StageJoining(dbfile.MemberDir{DataDir: m.DataDir, Name: m.Name}, added.Header.ClusterId, added.Member.ID)
			if err != nil {
				t.Fatal(err)
			}
			m.Start(t)
			within("promote", func(ctx context.Context) error {
				_, err := client.MemberPromote(ctx, added.Member.ID)
				return err
			})
			m.WaitHealthy(t)
			revision := etcdtest.Revision(t, client)
			if a, b := hashKV(t, client, m.ClientURL, revision), hashKV(t, client, c.Leader(t).ClientURL, revision); a != b {
				t.Errorf("the replaced member has %+v, the leader %+v", a, b)
			}
			if m.ID(t) != added.Member.ID {
				t.Errorf("it runs as member %x, not %x", m.ID(t), added.Member.ID)
			}
		})
	}
}

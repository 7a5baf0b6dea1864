package restore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/restore"
)

func connectWithin(timeout time.Duration) func([]string) (*cluster.Client, error) {
	return func(endpoints []string) (*cluster.Client, error) {
		return cluster.Dial(cluster.Options{Endpoints: endpoints, DialTimeout: timeout})
	}
}

// A lost disk: the cluster serves on while its member is replaced, whose service still has the flags that once founded the cluster. It is cut off after every
// step, and the same command goes on; no write that the others acknowledged meanwhile is lost.
func TestReplaceMember(t *testing.T) {
	b := newBed(t, etcdtest.Options{})
	client := b.fill(100)
	b.backup()
	impatient := b.Options.Connect
	b.Options.Connect = connectWithin(time.Minute) // a member that is slow to answer is none that is lost
	lost := b.Leader(t)
	place := b.setup.Members[slices.Index(b.Members(), lost)]

	_, err := b.restorer(nil).ReplaceMember(t.Context(), lost.Name)
	var refused agents.Refusal
	if !errors.As(err, &refused) || refused.Flag != "--replace-healthy "+lost.Name {
		t.Fatalf("replacement of a member that serves: %v", err)
	}
	if _, err := b.restorer(nil).ReplaceMember(t.Context(), "nobody"); err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Fatalf("replacement of a member that nobody knows: %v", err)
	}
	old := lost.ID(t)
	lost.Kill(t)
	lost.Wipe(t)
	writes := b.write(2)
	writes.waitFor(t, 10)
	restoreOf := b.restorer(nil)
	if _, err := restoreOf.Plan(t.Context()); err == nil || !strings.Contains(err.Error(), "requorum replace-member dcs "+lost.Name) {
		t.Errorf("a restore of a cluster that serves does not propose the small repair: %v", err)
	}
	plan, err := b.restorer(nil).PlanReplace(t.Context(), lost.Name)
	if err != nil || plan.Replace.OldID != fmt.Sprintf("%016x", old) || len(plan.Replace.Serving) != 2 {
		t.Fatalf("plan %s, error %v", plan.Text(), err)
	}
	if left, err := filepath.Glob(place.DataDir + "*"); err != nil || len(left) > 0 {
		t.Errorf("a plan left behind: %v, %v", left, err)
	}

	for _, point := range []string{"done:stop", "done:remove", "done:add", "done:join", "done:exchange", "done:start"} {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := b.restorer(func(at string) {
			if at == point {
				cancel()
			}
		}).ReplaceMember(ctx, lost.Name)
		cancel()
		var stopped *restore.Stopped
		if !errors.As(err, &stopped) || len(stopped.Next) == 0 || !strings.Contains(stopped.Next[0], "replace-member dcs "+lost.Name) {
			t.Fatalf("cut off at %s: %v", point, err)
		}
		if point == "done:stop" {
			if _, err := b.restorer(nil).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "unfinished") || !strings.Contains(err.Error(), "replace-member") {
				t.Errorf("a restore in the middle of a replacement: %v", err)
			}
			continue
		}
		if _, err := b.restorer(nil).Rollback(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "never lets it back in") {
			t.Errorf("rollback of a replacement cut off at %s: %v", point, err)
		}
		if point == "done:exchange" { // an etcd that ends at once is not waited for
			flags := lost.Args
			lost.Args = append(slices.Clone(flags), "--no-such-flag")
			if _, err := b.restorer(nil).ReplaceMember(t.Context(), lost.Name); !errors.As(err, &stopped) || !strings.Contains(err.Error(), lost.Name+": its etcd was started, and has ended again") {
				t.Errorf("a member whose etcd refuses its flags: %v", err)
			}
			lost.Args = flags
		}
	}
	report, err := b.restorer(nil).ReplaceMember(t.Context(), lost.Name)
	if err != nil {
		t.Fatal(err)
	}
	if !report.OK || report.Kind != restore.PlanReplace || len(report.Members) != 1 || report.Members[0].Hash == "unknown" {
		t.Errorf("report %+v", report)
	}
	writes.stop()
	lost.WaitHealthy(t)
	writes.mustHold(t, b.rows())
	revision := etcdtest.Revision(t, client)
	var hashes []uint32
	for _, m := range b.Members() {
		m.WaitHealthy(t) // after a linearizable read it has that revision
		h, err := client.HashKV(t.Context(), m.ClientURL, revision)
		if err != nil {
			t.Fatal(err)
		}
		hashes = append(hashes, h.Hash)
	}
	if hashes[0] != hashes[1] || hashes[1] != hashes[2] {
		t.Errorf("hashes %x at revision %d", hashes, revision)
	}
	var list *clientv3.MemberListResponse
	err = etcdtest.Retried(t.Context(), func() (err error) {
		list, err = client.MemberList(t.Context())
		return err
	})
	if err != nil || len(list.Members) != 3 {
		t.Fatalf("members %v, %v", list, err)
	}
	for _, m := range list.Members {
		if m.IsLearner || m.ID == old || m.Name == "" {
			t.Errorf("member %v", m)
		}
	}
	if _, err := b.restorer(nil).Rollback(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "cannot be rolled back") {
		t.Errorf("rollback of a replacement that has ended: %v", err)
	}

	// Once more, of a member that serves and is to go: its dir is kept beside. And its service is the same still.
	named := b.restorer(nil)
	named.ReplaceHealthy = lost.Name
	report, err = named.ReplaceMember(t.Context(), lost.Name)
	if err != nil || !report.OK {
		t.Fatalf("replacement of a member that serves, asked for: %v", err)
	}
	if _, err := os.Stat(place.DataDir + ".before-" + report.Run + "/member/snap/db"); err != nil {
		t.Errorf("the old data dir is not kept: %v", err)
	}
	etcdtest.Put(t, client, "/after", "x")

	// Without a quorum there is nothing to replace a member of.
	b.Options.Connect = impatient
	for _, m := range b.Members()[1:] {
		m.Kill(t)
	}
	if _, err := b.restorer(nil).ReplaceMember(t.Context(), b.Members()[1].Name); err == nil || !strings.Contains(err.Error(), "has to be restored") {
		t.Errorf("replacement without a quorum: %v", err)
	}
}

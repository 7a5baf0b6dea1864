package backup_test

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/backup"
	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/storage/catalog"
)

func TestProve(t *testing.T) {
	servers := etcdtest.StartCluster(t, etcdtest.Options{})
	admin := servers.Client(t)
	etcdtest.MustFill(t, admin, etcdtest.FillOptions{Keys: 200})
	b := newBed(t, servers)
	var usable []cluster.MemberStatus
	for deadline := time.Now().Add(2 * time.Minute); len(usable) != 3; {
		all, err := b.client.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var rejected []cluster.Rejected
		if usable, rejected = cluster.Choose(all); time.Now().After(deadline) {
			t.Fatalf("rejected: %+v", rejected)
		}
	}
	_, report := b.fetch(t, b.take(t).Manifest)
	taken := usable[0]

	prove := func(hash dbfile.HashKV) (catalog.Proof, error) {
		return backup.Prove(t.Context(), b.client, usable, taken, hash)
	}
	proof, err := prove(report.HashKV)
	if err != nil || !proof.OK || proof.Where != "member "+usable[1].Name {
		t.Errorf("proof %+v, %v; want one from %s, the follower that the file is not from", proof, err, usable[1].Name)
	}
	wrong := report.HashKV
	wrong.Hash++
	if proof, err := prove(wrong); !errors.Is(err, backup.ErrVerify) || proof.OK || !strings.Contains(err.Error(), taken.Name) {
		t.Errorf("another hash: %+v, %v", proof, err)
	}
	if proof, err := backup.Prove(t.Context(), b.client, usable[2:], usable[2], report.HashKV); err != nil || proof.OK || !strings.Contains(proof.Detail, "no follower") {
		t.Errorf("with a leader alone: %+v, %v", proof, err)
	}
	etcdtest.Put(t, admin, "/more", "x")
	etcdtest.Put(t, admin, "/more", "y")
	if proof, err := prove(report.HashKV); err != nil || !proof.OK {
		t.Errorf("after later writes: %+v, %v", proof, err)
	}
	etcdtest.Compact(t, admin, etcdtest.Revision(t, admin))
	servers.WaitHealthy(t) // after a linearizable read each knows of it
	if proof, err := prove(report.HashKV); err != nil || proof.OK || !strings.Contains(proof.Detail, "compacted") {
		t.Errorf("after a compaction: %+v, %v", proof, err)
	}
}

// flipping is a proxy that changes one byte on its way to the client.
func flipping(t *testing.T, target string, at int64) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", target)
			if err != nil {
				client.Close()
				continue
			}
			go func() {
				defer client.Close()
				defer server.Close()
				_, _ = io.Copy(server, client)
			}()
			go func() {
				defer client.Close()
				defer server.Close()
				_, _ = io.Copy(client, &flipped{r: server, at: at})
			}()
		}
	}()
	return "http://" + l.Addr().String()
}

// The trailer tells a stream that was damaged on its way; the next member's is taken.
func TestDamagedOnTheWay(t *testing.T) {
	servers := etcdtest.StartCluster(t, etcdtest.Options{})
	etcdtest.MustFill(t, servers.Client(t), etcdtest.FillOptions{Keys: 6000, ValueSize: 2000, Random: true})
	b := newBed(t, servers)
	var endpoints []string
	followers := map[string]bool{}
	for _, m := range servers.Followers(t) {
		followers[m.Name] = true
	}
	for _, m := range servers.Members {
		if followers[m.Name] {
			endpoints = append(endpoints, flipping(t, m.Addr(), 6<<20))
		} else {
			endpoints = append(endpoints, m.ClientURL)
		}
	}
	b.client = b.dial(t, cluster.Options{Endpoints: endpoints})
	r := b.take(t)
	if followers[r.Member.Name] || !strings.Contains(strings.Join(r.Warnings, "\n"), "could not be backed up") {
		t.Errorf("taken from %s, warnings %q", r.Member.Name, r.Warnings)
	}
	if v, err := b.verify(t, r.ID, backup.ScopeFull); err != nil || !v.OK {
		t.Errorf("%+v, %v", v, err)
	}
	if len(b.runs(t)) != 2 || len(r.Manifest.Warnings) != 2 {
		t.Errorf("%d records, warnings in the manifest %q", len(b.runs(t)), r.Manifest.Warnings)
	}
}

// The JSON of a result is a contract: the manifest, and beside it what only the run knows.
func TestResultJSON(t *testing.T) {
	r := backup.Result{
		Manifest: catalog.Manifest{ID: "b123", Revision: 7, Time: time.Unix(0, 0).UTC(), Warnings: []string{"early"}},
		Seconds:  map[string]float64{"stream": 1.5}, Stores: []string{"main"}, Warnings: []string{"early", "late"}, Run: "r123",
	}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		ID       string             `json:"id"`
		Revision int64              `json:"revision"`
		Seconds  map[string]float64 `json:"seconds"`
		Stores   []string           `json:"stores"`
		Warnings []string           `json:"warnings"`
		Run      string             `json:"run"`
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if got.ID != "b123" || got.Revision != 7 || got.Seconds["stream"] != 1.5 || len(got.Stores) != 1 || len(got.Warnings) != 2 || got.Run != "r123" {
		t.Errorf("%s", text)
	}
}

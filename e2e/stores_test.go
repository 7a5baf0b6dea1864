package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
	"github.com/requorum/requorum/storage/storagetest"
)

// With two stores each backup lies in both; one that is down costs no backup and hides none, but is told (3); what it lacks afterwards is
// copied; and retention empties both, in the order that never leaves a backup without its data.
func TestTwoStores(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{})
	s.Members[1].Kill(t) // a member that is down is in nobody's way
	offsite := filepath.Join(s.dir, "offsite")
	stores := func(path string) {
		s.second = fmt.Sprintf("{file: {path: %s}}", path)
		s.configure()
	}
	s.cluster = "    retention: {last: 1, minimum: 1}\n"
	stores(offsite)
	s.fill(50, 200)
	first := s.backup()
	if len(first.Stores) != 2 {
		t.Errorf("the backup is in %q", first.Stores)
	}
	s.run("list", "dcs").Exits(t, command.ExitOK, "main,offsite")

	stores("/dev/null/gone")
	pause(first)
	s.run("backup", "dcs").Exits(t, command.ExitPartly, "offsite", "requorum copy")
	s.run("list", "dcs").Exits(t, command.ExitPartly, first.ID, "offsite")
	s.run("expire", "dcs").Exits(t, command.ExitError, "offsite") // nothing is decided on a part
	stores(offsite)
	all := s.list()
	if len(all) != 2 {
		t.Fatalf("list shows %+v", all)
	}
	s.run("copy", "dcs", "--to", "nowhere").Exits(t, command.ExitUsage, "main, offsite")
	s.run("copy", "dcs", "--to", "offsite", "--dry-run").Exits(t, command.ExitOK, "would copy "+all[1].ID)
	s.run("copy", "dcs", "--to", "offsite").Exits(t, command.ExitOK, "1 of 1")
	s.run("copy", "dcs", "--to", "offsite").Exits(t, command.ExitOK, "offsite lacks no backup")

	// A copy that is damaged in one store is found there, and restored from the other.
	data, err := filepath.Glob(filepath.Join(s.storeDir(), "dcs/snapshots/*/*"+all[1].ID+"/db.zst.age"))
	if err != nil || len(data) != 1 {
		t.Fatalf("data objects %q, %v", data, err)
	}
	whole := read(t, data[0])
	write(t, data[0], flip(append([]byte{}, whole...), len(whole)/2))
	s.run("verify", "dcs", "latest").Exits(t, command.ExitVerify, "store main")
	s.run("export", "dcs", all[1].ID, "-f", filepath.Join(s.dir, "good.db")).Exits(t, command.ExitOK)
	write(t, data[0], whole)
	pause(first)
	s.run("verify", "dcs", all[1].ID).Exits(t, command.ExitOK)

	var old []string
	for _, name := range []string{"20260101T000000Z-verify-ok-r23456789abc.json", "20260102T000000Z-verify-ok-r23456789abd.json"} {
		old = append(old, filepath.Join(offsite, "dcs/runs", name))
		write(t, old[len(old)-1], []byte("{}\n"))
	}
	s.run("expire", "dcs", "--dry-run").Exits(t, command.ExitOK, "delete", first.ID, "last 1", "would remove 1 record of kind verify in offsite, from 2026-01-01 to 2026-01-01")
	if found := s.list(); len(found) != 2 {
		t.Errorf("a dry run left %+v", found)
	}
	s.run("expire", "dcs").Exits(t, command.ExitOK, "deleted", first.ID, "removed 1 record of kind verify in offsite")
	for i, want := range []bool{false, true} { // the newest of its kind and outcome among the old ones stays
		if _, err := os.Stat(old[i]); (err == nil) != want {
			t.Errorf("after expire the record %s: %v", old[i], err)
		}
	}
	if found := s.list(); len(found) != 1 || found[0].ID != all[1].ID {
		t.Errorf("expire left %+v", found)
	}
	for _, store := range []string{s.storeDir(), offsite} {
		if found, _ := filepath.Glob(filepath.Join(store, "dcs/snapshots/*/*"+first.ID)); len(found) > 0 {
			t.Errorf("of the expired backup %q is left", found)
		}
	}
	if err := os.RemoveAll(s.storeDir()); err != nil {
		t.Fatal(err)
	}
	s.lose()
	s.restore() // all that is left is offsite
}

// serve goes on while a store is away: backups go to the next one, people are told, nothing is expired on half an answer, and copies are made up when
// the store is back. When the watched cluster is away instead, what is stored is verified and retained as before.
func TestServeGoesOnWithoutAStore(t *testing.T) {
	etcd := etcdtest.StartCluster(t, etcdtest.Options{Members: 1})
	server := storagetest.StartS3(t, storagetest.S3Options{})
	bucket := server.Bucket(t)
	proxy := etcdtest.NewProxy(t, server.Addr)
	dir, port := t.TempDir(), etcdtest.FreePort(t)
	write(t, filepath.Join(dir, "requorum.yaml"), fmt.Appendf(nil, `clusters:
  dcs:
    endpoints: [%s]
    stores: [main, offsite]
    schedules: {snapshot: '@every 2s', verify: '@every 3s', expire: '@every 4s', deadline: 60s}
    retention: {last: 1000}
    thresholds: {observations: 1}
stores:
  main: {s3: {bucket: %s, region: us-east-1, endpoint: "http://%s", path_style: true}}
  offsite: {file: {path: offsite}}
spool_dir: spool
allow_tmpfs_spool: true
serve: {listen: '127.0.0.1:%d', watch: 1s}
`, etcd.Endpoints()[0], bucket, proxy.Addr(), port))
	serve := etcdtest.NewProgram(t, filepath.Join(dir, "serve.log"))
	t.Setenv("AWS_ACCESS_KEY_ID", server.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", server.SecretKey)
	serve.Start(t, program, "-c", filepath.Join(dir, "requorum.yaml"), "serve", "--log-format", "json")
	defer func() {
		if t.Failed() {
			t.Logf("serve: %s", read(t, filepath.Join(dir, "serve.log")))
		}
	}()
	in := func(store string) (ids []string) {
		t.Helper()
		pattern := filepath.Join(dir, "offsite/dcs/snapshots/*/*/manifest.json")
		if store == "main" { // the directory behind the server
			pattern = filepath.Join(server.Data, bucket, "dcs/snapshots/*/*/manifest.json")
		}
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			name := filepath.Base(filepath.Dir(path))
			ids = append(ids, name[strings.LastIndexByte(name, '-')+1:])
		}
		return ids
	}
	shows := func(path string, want ...string) {
		t.Helper()
		until(t, fmt.Sprintf("%s to show %q", path, want), func() bool {
			body := page(port, path)
			return !slices.ContainsFunc(want, func(w string) bool { return !strings.Contains(body, w) })
		})
	}
	hides := func(path string, unwanted ...string) {
		t.Helper()
		until(t, fmt.Sprintf("%s to show none of %q", path, unwanted), func() bool {
			body := page(port, path)
			return body != "" && !slices.ContainsFunc(unwanted, func(w string) bool { return strings.Contains(body, w) })
		})
	}
	until(t, "copies in both stores", func() bool { return len(in("main")) > 1 && len(in("offsite")) > 1 })
	shows("/metrics", `requorum_store_reachable{cluster="dcs",store="main"} 1`, `requorum_store_reachable{cluster="dcs",store="offsite"} 1`)

	proxy.Set(etcdtest.Fault{Refuse: true})
	proxy.Reset()
	shows("/metrics", `requorum_store_reachable{cluster="dcs",store="main"} 0`)
	kept, before := in("main"), in("offsite")
	demanded := start(t, dir, nil, "backup", "dcs")
	until(t, "a backup of the schedule in the other store", func() bool { return len(in("offsite")) >= len(before)+2 })
	shows("/api/v1/alerts", `"snapshot_partly"`, `"stores"`, `"expire_failed"`)
	hides("/api/v1/alerts", `"suspicious_backup"`, `"snapshot_failed"`, `"verify_failed"`)
	demanded.Wait(t).Exits(t, command.ExitPartly, "main")
	if now := in("main"); len(now) != len(kept) {
		t.Fatalf("the store that is away got %d backups", len(now)-len(kept))
	}
	missing := slices.DeleteFunc(in("offsite"), func(id string) bool { return slices.Contains(kept, id) })

	proxy.Set(etcdtest.Fault{})
	until(t, fmt.Sprintf("copies of all %d backups that the store lacks", len(missing)), func() bool {
		there := in("main")
		return !slices.ContainsFunc(missing, func(id string) bool { return !slices.Contains(there, id) })
	})
	shows("/metrics", `requorum_store_reachable{cluster="dcs",store="main"} 1`)
	hides("/api/v1/alerts", `"snapshot_partly"`, `"stores"`, `"expire_failed"`, `"copy_partly"`)

	etcd.Kill(t)
	shows("/api/v1/alerts", `"quorum"`, `"snapshot_failed"`)
	gone := time.Now()
	until(t, "verification and retention without the cluster", func() bool {
		ended := map[string]int{}
		for _, l := range logLines(t, filepath.Join(dir, "serve.log")) {
			at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(l["time"]))
			if err == nil && at.After(gone) && l["msg"] == "run is done" {
				ended[fmt.Sprint(l["kind"])]++
			}
		}
		return ended["verify"] > 1 && ended["expire"] > 1
	})
	etcd.Start(t)
	hides("/api/v1/alerts", `"quorum"`, `"snapshot_failed"`)
	serve.End(t, syscall.SIGTERM)
	var all []struct{ OK bool }
	start(t, dir, nil, "-q", "-o", "json", "verify", "dcs", "--all").Wait(t).Exits(t, command.ExitOK).Decode(t, &all)
	if len(all) < len(missing)+len(kept) {
		t.Errorf("%d backups verified, and %d were there", len(all), len(missing)+len(kept))
	}
}

// page is what a replica of serve answers, "" when it does not.
func page(port int, path string) string {
	client := http.Client{Timeout: 5 * time.Second}
	resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d%s", port, path))
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return ""
	}
	return string(text)
}

// pause waits until a verdict or a backup gets another second in its name than the one before.
func pause(after taken) {
	time.Sleep(time.Until(after.Time.Add(time.Second)))
	time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
}

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// A configuration's faults are told all at once, each with its place, and nothing else starts on it.
func TestConfigCheckTellsEverything(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{etcd: etcdtest.Options{Members: 1}, s3: true})
	reader, secret := s.s3.User(t, s.bucket, "s3:ListBucket", "s3:GetObject")
	s.env = append(s.env, "READER="+reader, "SECRET="+secret)
	before := s.objects()
	closed := fmt.Sprintf("http://127.0.0.1:%d", etcdtest.FreePort(t))
	text := fmt.Sprintf(`clusters:
  dcs:
    endpoints: [%s, %s]
    stores: [main, sealed, ghost]
    identity_file: nowhere.key
    retension: {last: 3}
    sweep_after: 7
    snapshot: {dial_timeout: 30s}
stores:
  main: {s3: {bucket: %s, region: us-east-1, endpoint: %q, path_style: true}}
  sealed: {s3: {bucket: %s, prefix: other, region: us-east-1, endpoint: %q, path_style: true, access_key: "${READER}", secret_key: "${SECRET}"}}
spool_dir: spool
allow_tmpfs_spool: true
`, s.Endpoints()[0], closed, s.bucket, s.s3.Endpoint, s.bucket, s.s3.Endpoint)
	s.file("requorum.yaml", text)
	line := func(of string) string {
		t.Helper()
		for i, l := range strings.Split(text, "\n") {
			if strings.Contains(l, of) {
				return fmt.Sprintf("requorum.yaml:%d: ", i+1)
			}
		}
		t.Fatalf("no line has %q", of)
		return ""
	}
	want := []string{
		line("endpoints:") + "clusters.dcs.endpoints[1]: ", // unreachable
		line("stores: [") + "clusters.dcs.stores[2]: ",     // there is no such store
		line("identity_file") + "clusters.dcs.identity_file: ",
		line("retension") + "clusters.dcs.retension: unknown key",
		line("sweep_after") + "clusters.dcs.sweep_after: ", // a number without a unit
		line("sealed: {") + "stores.sealed.s3.bucket: ",    // no permission to write
	}
	r := s.run("config", "check").Exits(t, command.ExitUsage, append(want, fmt.Sprintf("%d problems", len(want)))...)
	if strings.Contains(r.Stderr+r.Stdout, secret) {
		t.Errorf("the secret is in the output:\n%s", r)
	}
	var told struct {
		OK       bool
		Problems []struct {
			File, Key, What string
			Line, Column    int
		}
	}
	s.run("config", "check", "-o", "json").Exits(t, command.ExitUsage).Decode(t, &told)
	if told.OK || len(told.Problems) != len(want) {
		t.Errorf("the JSON tells %+v", told)
	}
	for _, p := range told.Problems {
		if p.File == "" || p.Line == 0 || p.Column == 0 || p.Key == "" || p.What == "" {
			t.Errorf("a problem without its place: %+v", p)
		}
	}
	for _, args := range [][]string{{"backup", "dcs"}, {"list"}, {"verify", "dcs"}, {"restore", "dcs", "--yes"}, {"check", "dcs"}, {"expire", "dcs"}, {"runs"}, {"schedules"}} {
		s.run(args...).Exits(t, command.ExitUsage, "clusters.dcs.retension: unknown key")
	}
	if after := s.objects(); !slices.Equal(before, after) {
		t.Errorf("checking left %q in the bucket, which held %q", after, before)
	}

	s.configure()
	s.run("config", "check").Exits(t, command.ExitOK)
	if after := s.objects(); !slices.Equal(before, after) {
		t.Errorf("the write probe left %q in the bucket, which held %q", after, before)
	}
}

// On a fresh machine with nothing but the bucket's URL, its credentials and the age key, the configuration comes back from a
// manifest, and the cluster with it.
func TestRecoverConfiguration(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{s3: true, cluster: "    retention: {last: 24, daily: 7}\n    schedules: {snapshot: \"0 * * * *\"}\n"})
	s.fill(50, 200)
	want := s.rows()
	s.backup()
	s.lose()
	if err := os.RemoveAll(s.spool); err != nil {
		t.Fatal(err)
	}

	fresh := *s
	fresh.dir = t.TempDir()
	fresh.file("age.key", s.key.String()+"\n") // what the owner kept
	url := strings.Replace(s.s3.URL(s.bucket), "s3://"+s.bucket, "s3://"+s.bucket+"/etcd", 1)
	fresh.run("config", "recover", "nobody", "--store", url).Exits(t, command.ExitNothing)
	fresh.run("config", "recover", "dcs", "--store", url).Exits(t, command.ExitOK, "config check")
	before, after := string(read(t, filepath.Join(s.dir, "requorum.yaml"))), string(read(t, filepath.Join(fresh.dir, "requorum.yaml")))
	for _, part := range []string{"last: 24", "daily: 7", "0 * * * *", "age.key", s.key.Recipient().String(), s.bucket, s.Members[2].DataDir} {
		if !strings.Contains(after, part) {
			t.Errorf("the recovered configuration lacks %q; it was\n%s\nand is\n%s", part, before, after)
		}
	}
	if info, err := os.Stat(filepath.Join(fresh.dir, "requorum.yaml")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the recovered configuration has mode %v, %v", info.Mode(), err)
	}
	fresh.run("config", "recover", "dcs", "--store", url).Exits(t, command.ExitError, "not overwritten")
	fresh.run("config", "check", "--offline").Exits(t, command.ExitOK)
	fresh.run("config", "check").Exits(t, command.ExitUsage, "clusters.dcs.endpoints[0]") // the members are down, and that is all that is wrong
	fresh.restore()
	fresh.run("config", "check").Exits(t, command.ExitOK)
	etcdtest.MustEqual(t, want, s.rows())
}

// Without a configuration file, flags serve backup, list, show, verify and export.
func TestNoConfiguration(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{etcd: etcdtest.Options{Members: 1}, s3: true})
	s.fill(50, 200)
	if err := os.Remove(filepath.Join(s.dir, "requorum.yaml")); err != nil {
		t.Fatal(err)
	}
	for name, url := range map[string]string{"file": "file://" + filepath.Join(s.dir, "somewhere"), "s3": s.s3.URL(s.bucket)} {
		t.Run(name, func(t *testing.T) {
			sub := *s
			sub.t = t
			store := []string{"--store", url, "--spool-dir", s.spool, "--allow-tmpfs-spool"}
			sub.run(append([]string{"backup", "dcs", "--endpoints", s.Endpoints()[0], "--recipient", s.key.Recipient().String()}, store...)...).Exits(t, command.ExitOK)
			var all []listed
			sub.run("-o", "json", "list", "dcs", "--store", url).Exits(t, command.ExitOK).Decode(t, &all)
			if len(all) != 1 {
				t.Fatalf("list shows %+v", all)
			}
			sub.run(append([]string{"verify", "dcs"}, store...)...).Exits(t, command.ExitOK, "stored") // no identity: only what is stored
			sub.run(append([]string{"verify", "dcs", "--identity-file", "age.key"}, store...)...).Exits(t, command.ExitOK, "full", "HashKV")
			sub.run(append([]string{"verify", "dcs", "--identity-file", "age.key", "--deep"}, store...)...).Exits(t, command.ExitOK, "deep", "HashKV served by etcd")
			sub.run("show", "dcs", all[0].ID[:5], "--store", url).Exits(t, command.ExitOK, all[0].ID)
			out := filepath.Join(sub.dir, name+".db")
			sub.run("export", "dcs", "--store", url, "--identity-file", "age.key", "-f", out).Exits(t, command.ExitOK)
			var status struct{ TotalKey int64 }
			if err := json.Unmarshal([]byte(tool(t, etcdutl(t), "snapshot", "status", out, "-w", "json")), &status); err != nil || status.TotalKey == 0 {
				t.Errorf("etcdutl says %+v, %v of the exported file", status, err)
			}
		})
	}
	s.run("backup", "dcs").Exits(t, command.ExitUsage, "no configuration file", "--endpoints", "--store")
	s.run("backup", "dcs", "--endpoints", s.Endpoints()[0]).Exits(t, command.ExitUsage, "--store")
	s.run("list", "dcs", "--store", "ftp://x/y").Exits(t, command.ExitUsage, "--store", "s3://bucket/prefix")
	s.run("list", "dcs", "--store", "s3://b/p?secret_key=hunter2").Exits(t, command.ExitUsage, "ps")
}

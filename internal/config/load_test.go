package config

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const small = `clusters:
  dcs:
    stores: [main]
    endpoints:
      - http://127.0.0.1:1
      - http://127.0.0.1:2
stores:
  main: {s3: {bucket: b}}
`

func TestFind(t *testing.T) {
	t.Chdir(t.TempDir())
	if f, err := Find("named"); f != "named" || err != nil {
		t.Errorf("a named file: %q, %v", f, err)
	}
	if _, err := os.Stat("/etc/requorum/requorum.yaml"); err == nil {
		t.Skip("this machine has a configuration")
	}
	if f, err := Find(""); !errors.Is(err, ErrNoFile) {
		t.Errorf("no file: %q, %v", f, err)
	}
	if err := os.WriteFile("requorum.yaml", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if f, err := Find(""); f != "requorum.yaml" || err != nil {
		t.Errorf("a file in the working directory: %q, %v", f, err)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "sub", "requorum.yaml")
	if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(file, env(nil)); err == nil || !strings.Contains(err.Error(), file+": cannot read the configuration: no such file") {
		t.Errorf("a missing file: %v", err)
	}
	if err := os.WriteFile(file, []byte(small+"spool_dir: ../spool\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(file, env(nil))
	if err != nil {
		t.Fatal(err)
	}
	if c.SpoolDir != Path(filepath.Join(dir, "spool")) {
		t.Errorf("a relative path starts at %s", c.SpoolDir)
	}
	cl, err := c.Cluster("")
	if err != nil || cl.Path != "dcs" || cl.Name != "dcs" || cl.SweepAfter.String() != "7d" || c.Stores["main"].Name != "main" {
		t.Errorf("got %+v, %v", cl, err)
	}
	if _, err := c.Cluster("other"); err == nil || !strings.Contains(err.Error(), `no cluster "other"; name one of dcs`) {
		t.Errorf("an unknown cluster: %v", err)
	}
}

func TestInlineSecretInAReadableFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.yaml")
	text := strings.Replace(small, "    stores", "    username: ${U}\n    password: \"123\"\n    stores", 1)
	for mode, want := range map[os.FileMode]string{
		0o644: file + ":4: clusters.dcs.password: a secret stands in a file that everyone on this machine may read; chmod 600 " + file + ", or move the secret into a file of its own",
		0o600: "",
	} {
		if err := os.WriteFile(file, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		c, err := Load(file, env(map[string]string{"U": "u"}))
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Warnings.Error(); got != want {
			t.Errorf("mode %o: got %s, want %s", mode, got, want)
		}
	}
}

// A broken configuration is still there for config check to go on with.
func TestProblemsLeaveTheRest(t *testing.T) {
	c, err := Parse("x.yaml", []byte(small+"nonsense: 1\n"), env(nil))
	if err == nil || c == nil || len(c.Clusters["dcs"].Endpoints) != 2 {
		t.Errorf("got %v, %v", c, err)
	}
}

func TestEndpointsComeFromMembers(t *testing.T) {
	c, err := Parse("x.yaml", []byte(`clusters:
  a:
    stores: [s]
    members:
      - {name: m, peer_url: http://h:1, client_url: http://h:2, data_dir: /d, service: {systemd: etcd}}
stores: {s: {file: {path: p}}}
`), env(nil))
	if err != nil {
		t.Fatal(err)
	}
	if cl := c.Clusters["a"]; len(cl.Endpoints) != 1 || cl.Endpoints[0] != "http://h:2" || !cl.Members[0].Host.Local() {
		t.Errorf("got %+v", cl)
	}
}

func TestAliases(t *testing.T) {
	c, err := Parse("x.yaml", []byte(`clusters:
  a: {endpoints: ["http://h:1"], stores: &s [main], retention: &r {last: 3}}
  b: {endpoints: ["http://h:2"], stores: *s, retention: *r}
stores: {main: {file: {path: p}}}
`), env(nil))
	if err != nil || c.Clusters["b"].Retention.Last != 3 || c.Clusters["b"].Retention.Minimum != 3 || c.Clusters["b"].Stores[0] != "main" {
		t.Errorf("got %+v, %v", c, err)
	}
	// Aliases of aliases must not take for ever.
	bomb := "clusters:\n  a:\n    stores: &a [" + strings.Repeat("x,", 2000) + "]\n"
	for i := range 500 {
		bomb += "  b" + strings.Repeat("x", i%50) + string(rune('a'+i%26)) + string(rune('a'+i/26)) + ": {stores: *a}\n"
	}
	if _, err := Parse("x.yaml", []byte(bomb), env(nil)); err == nil || !strings.Contains(err.Error(), "more than 100000 values") {
		t.Error("a million values by aliases were read")
	}
}

func TestAt(t *testing.T) {
	c, err := Parse("x.yaml", []byte(small), env(nil))
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string][2]int{
		"clusters.dcs.endpoints[1]":       {6, 9},
		"clusters.dcs.endpoints":          {4, 5},
		"stores.main.s3.bucket":           {8, 23},
		"stores.main.s3.region":           {8, 10}, // not written: the nearest above
		"clusters.dcs.members[3].name":    {2, 3},
		"election.endpoints":              {1, 1},
		"clusters.dcs.stores[0]":          {3, 14},
		"clusters.other.something[1].new": {1, 1},
	} {
		if p := c.At(key); p.Line != want[0] || p.Column != want[1] || p.Key != key || p.File != "x.yaml" {
			t.Errorf("%s: got %+v, want %v", key, p, want)
		}
	}
}

func TestRunProbes(t *testing.T) {
	c, err := Parse("x.yaml", []byte(small), env(nil))
	if err != nil {
		t.Fatal(err)
	}
	var probes []Probe
	for _, key := range []string{"stores.main.s3.bucket", "clusters.dcs.endpoints[1]", "", "clusters.dcs.endpoints[0]"} {
		probes = append(probes, func(context.Context) []Problem {
			if key == "" {
				return nil
			}
			p := c.At(key)
			p.What = "bad"
			return []Problem{p}
		})
	}
	got := RunProbes(t.Context(), probes...)
	const want = "x.yaml:5: clusters.dcs.endpoints[0]: bad\nx.yaml:6: clusters.dcs.endpoints[1]: bad\nx.yaml:8: stores.main.s3.bucket: bad"
	if got.Error() != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/problems/*.yaml")
	for _, name := range files {
		if b, err := os.ReadFile(name); err == nil {
			f.Add(b)
		}
	}
	if b, err := os.ReadFile("../../docs/configuration.md"); err == nil {
		if _, full, ok := strings.Cut(string(b), "<!-- example: full -->\n```yaml\n"); ok {
			full, _, _ = strings.Cut(full, "```")
			f.Add([]byte(full))
		}
	}
	f.Add([]byte(small))
	f.Add([]byte("clusters: &a {b: *a}\nstores: *a\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("x.yaml", data, env(exampleEnv))
		if err != nil {
			ps, ok := errors.AsType[Problems](err)
			if !ok || len(ps) == 0 {
				t.Fatalf("error %T %v", err, err)
			}
			for _, p := range ps {
				if p.Line < 1 || p.Column < 1 || p.What == "" || p.File != "x.yaml" {
					t.Fatalf("a problem without a place: %+v", p)
				}
			}
			return
		}
		for name := range c.Clusters { // what loads can be kept and written back
			raw, err := c.Sanitized(name)
			if err != nil {
				t.Fatal(err)
			}
			file, missing, err := FromManifest(raw)
			if err != nil {
				t.Fatal(err)
			}
			again, err := Parse("x.yaml", file, env(exampleEnv))
			if err != nil && len(missing) == 0 {
				t.Fatalf("%v\n%s", err, file)
			}
			if len(missing) == 0 {
				sameCluster(t, c, again, name)
			}
		}
	})
}

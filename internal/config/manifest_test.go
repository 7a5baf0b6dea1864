package config

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// sameCluster compares a cluster and its stores in two configurations.
func sameCluster(t *testing.T, a, b *Config, name string) {
	t.Helper()
	if !reflect.DeepEqual(a.Clusters[name], b.Clusters[name]) {
		t.Errorf("cluster %s came back as\n%+v\nwas\n%+v", name, b.Clusters[name], a.Clusters[name])
	}
	for _, s := range a.Clusters[name].Stores {
		if !reflect.DeepEqual(a.Stores[s], b.Stores[s]) {
			t.Errorf("store %s came back as\n%+v\nwas\n%+v", s, b.Stores[s].S3, a.Stores[s].S3)
		}
	}
	if a.SpoolDir != b.SpoolDir || a.AllowTmpfsSpool != b.AllowTmpfsSpool || !reflect.DeepEqual(a.Election, b.Election) {
		t.Error("the settings for all clusters came back differently")
	}
}

func TestSanitizedComesBack(t *testing.T) {
	doc, dir := reference(t)
	file := filepath.Join(dir, "requorum.yaml")
	c, err := Parse(file, []byte(example(t, doc, "full")), env(exampleEnv))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"dcs", "lab"} {
		raw, err := c.Sanitized(name)
		if err != nil {
			t.Fatal(err)
		}
		out, missing, err := FromManifest(raw)
		if err != nil || len(missing) > 0 {
			t.Fatalf("missing %v, %v", missing, err)
		}
		again, err := Parse(file, out, env(exampleEnv))
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		sameCluster(t, c, again, name)
		if len(again.Clusters) != 1 || again.Stores["aws"] != nil {
			t.Errorf("more than cluster %s and its stores came back:\n%s", name, out)
		}
		for _, secret := range []string{"s3cret", "lab-secret", "token-secret"} {
			if strings.Contains(string(raw), secret) {
				t.Errorf("%s stands in the manifest: %s", secret, raw)
			}
		}
	}
	if _, err := c.Sanitized("none"); err == nil {
		t.Error("a cluster that is not there has a configuration")
	}
}

func TestInlineSecretsStayOut(t *testing.T) {
	const file = `clusters:
  a:
    endpoints: [http://h:1]
    username: "123"
    password: open-sesame
    stores: [one, two]
    path: "true"
    etcd_binary: ./binary
stores:
  one: {s3: {bucket: b, access_key: k, secret_key: "half-${HALF}", session_token: "${WHOLE}"}}
  two: {file: {path: "${WHOLE}/$$x"}}
  unused: {s3: {bucket: b, access_key: k, secret_key: not-mine}}
`
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "binary"), nil, 0o700); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "requorum.yaml")
	vars := env(map[string]string{"HALF": "open-half", "WHOLE": "open-whole"})
	c, err := Parse(name, []byte(file), vars)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := c.Sanitized("a")
	if err != nil {
		t.Fatal(err)
	}
	out, missing, err := FromManifest(raw)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"clusters.a.password", "stores.one.s3.secret_key"}; !slices.Equal(missing, want) {
		t.Errorf("missing %v, want %v", missing, want)
	}
	for _, secret := range []string{"open-", "half-", "not-mine"} {
		if strings.Contains(string(raw)+string(out), secret) {
			t.Errorf("%s shows in\n%s\n%s", secret, raw, out)
		}
	}
	for _, want := range []string{"# password: …", "# secret_key: …", "./binary (clusters.a.etcd_binary)", "WHOLE (stores.one.s3.session_token)", "WHOLE (stores.two.file.path)"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	// As it is, only the secrets are wanting; filled in, it is what it was.
	_, err = Parse(name, out, vars)
	if ps, _ := errors.AsType[Problems](err); len(ps) != 2 || !strings.Contains(ps.Error(), "username: there is a username and no password") {
		t.Errorf("the recovered file has the problems\n%v\n%s", err, out)
	}
	filled := strings.NewReplacer("username: \"123\"", "username: \"123\"\n    password: open-sesame", "access_key: k", "access_key: k\n      secret_key: half-${HALF}").Replace(string(out))
	again, err := Parse(name, []byte(filled), vars)
	if err != nil {
		t.Fatalf("%v\n%s", err, filled)
	}
	sameCluster(t, c, again, "a")
}

func TestFromManifestRefuses(t *testing.T) {
	for _, raw := range []string{"", "null", "[]", "7", "{}", `{"config": 1}`, `{"config": {}}`, `{"config"`} {
		if out, _, err := FromManifest([]byte(raw)); err == nil {
			t.Errorf("%q gave %s", raw, out)
		}
	}
	// Whatever a manifest holds, no line of it gets out of a comment or a text.
	out, _, err := FromManifest([]byte(`{"config": {"clusters": {"a": {"path": "x\nspool_dir: /evil", "n": null, "etcd_binary": "b\nstores: {}"}}}, "missing": ["clusters.a.x\nevil: 1"]}`))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "spool_dir") || strings.HasPrefix(line, "evil") || strings.HasPrefix(line, "stores") {
			t.Errorf("a value became a key:\n%s", out)
		}
	}
}

// Manifests come from a store that others may write to: whatever one holds, the file written from it is one YAML document, with
// nothing beside what was under config.
func FuzzFromManifest(f *testing.F) {
	f.Add([]byte(`{"config": {"clusters": {"a": {"path": "x\ny", "tls": {"ca": "b"}, "stores": ["s", 1, null, {}]}}, "spool_dir": "${A}$$"}, "missing": ["clusters.a.password", ""]}`))
	f.Add([]byte(`{"config": {"a": 1.5, "\u2028": "\u0085#", "b": ["- x", "{", "'", "\t", "\u0000", "null", "~"]}, "missing": ["a\nb"]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		out, _, err := FromManifest(raw)
		if err != nil {
			return
		}
		var s struct{ Config map[string]any }
		if err := json.Unmarshal(raw, &s); err != nil {
			t.Fatal(err)
		}
		root, p := document("x", out)
		if p != nil {
			t.Fatalf("%v\n%s", p, out)
		}
		if len(root.Content) != 2*len(s.Config) {
			t.Fatalf("%d keys became %d:\n%s", len(s.Config), len(root.Content)/2, out)
		}
	})
}

// A variable that many keys use is one thing to set.
func TestOnce(t *testing.T) {
	got := once([]string{"HOME (a)", "X (b)", "HOME (c)", "HOME (d)", "X (e)", "HOME (f)"})
	if want := []string{"HOME (a and 3 more)", "X (b)", "X (e)"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

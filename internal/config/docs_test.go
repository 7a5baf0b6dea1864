package config

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// reference reads docs/configuration.md, with the absolute files of its examples moved into a directory where all of them exist.
func reference(t *testing.T) (doc, dir string) {
	t.Helper()
	b, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	doc = strings.NewReplacer("/run/secrets/", dir+"/", "/usr/local/bin/", dir+"/").Replace(string(b))
	for _, name := range []string{"ssh_config", "id_ed25519", "known_hosts", "requorum-linux-arm64", "ca.pem", "backup.pem", "backup-key.pem", "s3-ca.pem", "etcd-backup", "patroni-ca.pem", "patroni.pem", "patroni-key.pem", "patroni", "age.key", "s3", "election", "etcd", "heartbeat", "slack", "webhook", "webhook-token", "mail", "mail-ca.pem", "token", "serve.pem", "serve-key.pem", "drills.key"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return doc, dir
}

var exampleEnv = map[string]string{
	"LAB_ETCD_PASSWORD": "lab-secret", "LAB_PATRONI_PASSWORD": "p", "S3_SECRET_KEY": "s3cret", "S3_SESSION_TOKEN": "token-secret", "ETCD_PASSWORD": "etcd", "ELECTION_PASSWORD": "e", "REQUORUM_TOKEN": "t",
	"HEARTBEAT_URL": "https://hc.example.com/1", "WEBHOOK_URL": "https://hooks.example.com/1", "WEBHOOK_TOKEN": "wt", "SLACK_URL": "https://slack.example.com/1", "MAIL_PASSWORD": "mp",
}

func env(vars map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { v, ok := vars[name]; return v, ok }
}

func example(t *testing.T, doc, name string) string {
	t.Helper()
	_, after, ok := strings.Cut(doc, "<!-- example: "+name+" -->\n```yaml\n")
	text, _, closed := strings.Cut(after, "```")
	if !ok || !closed {
		t.Fatalf("docs/configuration.md has no example %s", name)
	}
	return text
}

func TestExamplesOfTheReferenceLoad(t *testing.T) {
	doc, dir := reference(t)
	for _, name := range []string{"minimal", "full"} {
		c, err := Parse(filepath.Join(dir, "requorum.yaml"), []byte(example(t, doc, name)), env(exampleEnv))
		if err != nil {
			t.Errorf("%s:\n%v", name, err)
		} else if len(c.Warnings) > 0 {
			t.Errorf("%s has warnings:\n%v", name, c.Warnings)
		}
	}
}

func TestFullExampleHasEveryKey(t *testing.T) {
	doc, dir := reference(t)
	c, err := Parse(filepath.Join(dir, "requorum.yaml"), []byte(example(t, doc, "full")), env(exampleEnv))
	if err != nil {
		t.Fatal(err)
	}
	index, name := regexp.MustCompile(`\[\d+\]`), regexp.MustCompile(`^(clusters|stores)\.[^.]+`)
	have := map[string]bool{}
	for _, k := range c.Positions() {
		have[name.ReplaceAllString(index.ReplaceAllString(k, "[]"), "$1.<name>")] = true
	}
	for _, k := range Keys() {
		if !have[k.Path] && k.Path != "election.password" && k.Path != "serve.token" {
			t.Errorf("the full example lacks %s", k.Path)
		}
	}
}

var (
	heading = regexp.MustCompile("^### (?:Top level|`(.+)`)$")
	row     = regexp.MustCompile("^\\| (\\*\\*)?`([a-z0-9_]+)`(?:\\*\\*)? \\| ([^|]+) \\| ([^|]+) \\| `([^|]+)` \\| ([^|]+) \\| ([^|]+) \\|$")
)

func TestReferenceAgreesWithTheDecoder(t *testing.T) {
	doc, dir := reference(t)
	type entry struct {
		typ, def, example string
		required          bool
	}
	documented := map[string]entry{}
	_, body, _ := strings.Cut(doc, "## Reference\n")
	prefix := ""
	for line := range strings.Lines(body) {
		line = strings.TrimRight(line, "\n")
		if m := heading.FindStringSubmatch(line); m != nil {
			prefix = m[1]
			continue
		}
		m := row.FindStringSubmatch(line)
		if m == nil {
			if strings.HasPrefix(line, "| ") && !strings.HasPrefix(line, "| key ") && !strings.HasPrefix(line, "| --- ") {
				t.Errorf("a row that the test cannot read: %s", line)
			}
			continue
		}
		path := join2(prefix, m[2])
		if _, twice := documented[path]; twice {
			t.Errorf("%s is documented twice", path)
		}
		documented[path] = entry{m[3], m[4], m[5], m[1] != ""}
	}
	for _, k := range Keys() {
		got, ok := documented[k.Path]
		delete(documented, k.Path)
		if !ok {
			t.Errorf("%s is not documented", k.Path)
			continue
		}
		want := k.Default
		switch {
		case strings.HasPrefix(want, "("):
		case want != "":
			want = "`" + want + "`"
		default:
			want = "none"
		}
		if remark := strings.HasPrefix(got.def, "("); got.def != want && !(remark && k.Default == "") {
			t.Errorf("%s: the reference says its default is %s, the decoder %s", k.Path, got.def, want)
		}
		if got.typ != k.Type {
			t.Errorf("%s: the reference says it is a %s, the decoder a %s", k.Path, got.typ, k.Type)
		}
		if got.required != k.Required {
			t.Errorf("%s: required is %v in the reference, %v in the decoder", k.Path, got.required, k.Required)
		}
		var n yaml.Node
		if err := yaml.Unmarshal([]byte(got.example), &n); err != nil {
			t.Errorf("%s: example %s: %v", k.Path, got.example, err)
			continue
		}
		d := &decoder{file: "example", dir: dir, lookup: env(exampleEnv), at: map[string]position{}, bad: map[string]bool{}}
		v := reflect.New(k.typ).Elem()
		d.value(n.Content[0], n.Content[0], k.Path, v)
		if len(d.problems) > 0 || v.IsZero() {
			t.Errorf("%s: example %s: %v", k.Path, got.example, d.problems)
		}
	}
	for path := range documented {
		t.Errorf("%s is documented and no key", path)
	}
}

func TestDefaults(t *testing.T) {
	c, cl := Default(), DefaultCluster()
	if c.SpoolDir != "/var/lib/requorum/spool" || c.AllowTmpfsSpool {
		t.Errorf("Default() is %+v", c)
	}
	if cl.SweepAfter.String() != "7d" || cl.Snapshot.DialTimeout.String() != "5s" || cl.Snapshot.StallTimeout.String() != "30s" ||
		len(cl.KeepLeased) != 1 || cl.KeepLeased[0] != "/registry/events/" || cl.Retention != nil || cl.Path != "" {
		t.Errorf("DefaultCluster() is %+v", cl)
	}
	for _, k := range Keys() { // every default must be a value of its type
		if f := (field{def: k.Default}); f.remark() {
			continue
		}
		var n yaml.Node
		if err := yaml.Unmarshal([]byte(k.Default), &n); err != nil {
			t.Errorf("%s: default %s: %v", k.Path, k.Default, err)
			continue
		}
		d := &decoder{at: map[string]position{}, bad: map[string]bool{}}
		if d.value(n.Content[0], n.Content[0], k.Path, reflect.New(k.typ).Elem()); len(d.problems) > 0 {
			t.Errorf("%s: default: %v", k.Path, d.problems)
		}
	}
}

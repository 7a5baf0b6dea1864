// Package deploy holds what is shipped beside the program; this test holds it to the program.
package deploy

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/requorum/requorum/internal/config"
	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/storage/catalog"
)

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// documents are the YAML documents of a file.
func documents(t *testing.T, path string) (all []map[string]any) {
	t.Helper()
	for dec := yaml.NewDecoder(bytes.NewReader(read(t, path))); ; {
		var doc map[string]any
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		all = append(all, doc)
	}
}

// at follows keys, and indexes of lists, through a document.
func at(doc any, keys ...any) any {
	for _, k := range keys {
		switch k := k.(type) {
		case string:
			m, _ := doc.(map[string]any)
			doc = m[k]
		case int:
			l, _ := doc.([]any)
			if k >= len(l) {
				return nil
			}
			doc = l[k]
		}
	}
	return doc
}

// A configuration that is shipped must be one that serve starts on.
func TestConfigurationsLoad(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"etcd/ca.crt", "etcd/tls.crt", "etcd/tls.key", "serve/tls.crt", "serve/tls.key", "token/token"} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("x\n"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	env := map[string]string{"AGE_RECIPIENT": "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p", "S3_BUCKET": "backups", "S3_REGION": "eu-central-1"}
	for _, doc := range documents(t, "kubernetes/secret.example.yaml") {
		if at(doc, "metadata", "name") == "requorum-environment" {
			for name := range env {
				if _, ok := at(doc, "stringData").(map[string]any)[name]; !ok {
					t.Errorf("secret.example.yaml lacks %s, which the configuration uses", name)
				}
			}
		}
	}
	text, _ := at(documents(t, "kubernetes/configuration.yaml")[0], "data", "requorum.yaml").(string)
	for name, text := range map[string]string{"kubernetes": strings.ReplaceAll(text, "/run/requorum/", dir+"/"), "debian": string(read(t, "debian/requorum.yaml"))} {
		c, err := config.Parse("requorum.yaml", []byte(text), func(name string) (string, bool) { v, ok := env[name]; return v, ok })
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, w := range c.Warnings { // where the identity is, is for the user to decide
			if !strings.Contains(w.What, "no identity_file") {
				t.Errorf("%s: warning %v", name, w)
			}
		}
	}
}

// Commands and flags in manifests and units must exist, and the time to end must be longer than the grace time.
func TestCommands(t *testing.T) {
	reference := string(read(t, "../docs/cli.md"))
	flag := regexp.MustCompile(`--[a-z][a-z-]+`)
	for _, path := range []string{"systemd/requorum.service", "kubernetes/deployment.yaml", "kubernetes/cronjob.yaml", "Containerfile"} {
		for line := range strings.Lines(string(read(t, path))) {
			if !strings.Contains(line, "requorum.yaml") || strings.HasPrefix(strings.TrimSpace(line), "#") {
				continue
			}
			for _, f := range flag.FindAllString(line, -1) {
				if !strings.Contains(reference, "`"+f) {
					t.Errorf("%s uses %s, which no command has", path, f)
				}
			}
		}
	}
	grace := time.Duration(config.Default().Serve.Grace)
	pods := documents(t, "kubernetes/deployment.yaml")[0]
	if s, _ := at(pods, "spec", "template", "spec", "terminationGracePeriodSeconds").(int); time.Duration(s)*time.Second <= grace {
		t.Errorf("the pods are killed after %d s, within the grace time of %s", s, grace)
	}
	unit := string(read(t, "systemd/requorum.service"))
	if !strings.Contains(unit, "TimeoutStopSec=90\n") || grace >= 90*time.Second {
		t.Errorf("the unit's TimeoutStopSec is not above the grace time of %s", grace)
	}
	for _, want := range []string{"Type=notify\n", "KillMode=mixed\n", "WatchdogSec=", "NoNewPrivileges=yes\n"} {
		if !strings.Contains(unit, want) {
			t.Errorf("the unit lacks %s", strings.TrimSpace(want))
		}
	}
}

// What systemd itself says of the unit: no key that it does not know, and little exposure.
func TestUnit(t *testing.T) {
	tool, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	unit := filepath.Join(t.TempDir(), "requorum.service")
	text := strings.Replace(string(read(t, "systemd/requorum.service")), "ExecStart=/usr/bin/requorum ", "ExecStart=/bin/true ", 1)
	if err := os.WriteFile(unit, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, _ := exec.CommandContext(t.Context(), tool, "verify", "--man=no", unit).CombinedOutput() // which fails for faults of the machine's own units, too
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "requorum.service") {
			t.Errorf("systemd-analyze verify: %s", line)
		}
	}
	if out, err := exec.CommandContext(t.Context(), tool, "security", "--offline=true", "--threshold=20", "--no-pager", unit).CombinedOutput(); err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
}

// Nothing runs with more rights than it needs.
func TestPods(t *testing.T) {
	for path, keys := range map[string][]any{
		"kubernetes/deployment.yaml": {"spec", "template", "spec"},
		"kubernetes/cronjob.yaml":    {"spec", "jobTemplate", "spec", "template", "spec"},
	} {
		pod := at(documents(t, path)[0], keys...)
		box := at(pod, "containers", 0, "securityContext")
		if at(pod, "automountServiceAccountToken") != false || at(pod, "securityContext", "runAsNonRoot") != true || at(pod, "securityContext", "seccompProfile", "type") != "RuntimeDefault" ||
			at(box, "allowPrivilegeEscalation") != false || at(box, "readOnlyRootFilesystem") != true || at(box, "capabilities", "drop", 0) != "ALL" {
			t.Errorf("%s: the pod has more rights than it needs: %v", path, pod)
		}
	}
}

// kustomization lists the manifests that are applied together.
type kustomization struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string
	Namespace  string
	Resources  []string
	Images     []map[string]string
}

// Every manifest must be one that the real API takes: a misspelt field would be dropped in silence, or refused when it is needed.
func TestManifestsAreOfTheAPI(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program against the Kubernetes API")
	}
	files, err := filepath.Glob("kubernetes/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	files = slices.DeleteFunc(files, func(f string) bool { return filepath.Base(f) == "kustomization.yaml" })
	if len(files) < 5 {
		t.Fatalf("there are only %q", files)
	}
	tool := etcdtest.Binary(t, "kubemanifests", etcdtest.KubeAPI)
	if out, err := exec.CommandContext(t.Context(), tool, files...).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	wrong := filepath.Join(t.TempDir(), "wrong.yaml")
	if err := os.WriteFile(wrong, bytes.Replace(read(t, "kubernetes/deployment.yaml"), []byte("automountServiceAccountToken"), []byte("autoMountServiceAccountToken"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), tool, wrong).CombinedOutput(); err == nil || !strings.Contains(string(out), "autoMountServiceAccountToken") {
		t.Errorf("a misspelt field is not noticed, so this test says nothing: %v\n%s", err, out)
	}

	var k kustomization
	dec := yaml.NewDecoder(bytes.NewReader(read(t, "kubernetes/kustomization.yaml")))
	dec.KnownFields(true)
	if err := dec.Decode(&k); err != nil || k.Kind != "Kustomization" || len(k.Resources) == 0 {
		t.Errorf("kustomization.yaml: %v, %+v", err, k)
	}
	for _, r := range k.Resources {
		if !slices.Contains(files, filepath.Join("kubernetes", r)) {
			t.Errorf("kustomization.yaml lists %s, and there is none", r)
		}
	}
}

// policy is an IAM policy.
type policy struct {
	Statement []struct {
		Effect   string
		Action   []string
		Resource []string
	}
}

// allows says whether the policy lets an action be done to a key.
func (p policy) allows(action, key string) bool {
	for _, s := range p.Statement {
		for _, a := range s.Action {
			for _, r := range s.Resource {
				pattern := "^" + strings.ReplaceAll(regexp.QuoteMeta(r), `\*`, ".*") + "$"
				if s.Effect == "Allow" && a == action && regexp.MustCompile(pattern).MatchString("arn:aws:s3:::BUCKET/PREFIX/"+key) {
					return true
				}
			}
		}
	}
	return false
}

// A machine that backs up must not be able to delete or read backups; and each role must be able to do its work.
func TestPolicies(t *testing.T) {
	now := time.Date(2026, 11, 22, 5, 55, 0, 0, time.UTC)
	snap := catalog.NewSnapshot(catalog.NewID(catalog.KindLine), now, 7, true)
	run := catalog.Run{ID: catalog.NewID(catalog.KindRun), Kind: "backup", Outcome: "ok", Started: now}
	line := catalog.Line{Line: snap.Line, Time: now}
	const put, get, del, abort = "s3:PutObject", "s3:GetObject", "s3:DeleteObject", "s3:AbortMultipartUpload"
	data, facts, manifest, verdict := "dcs/"+snap.DataKey(), "dcs/"+snap.FactsKey(), "dcs/"+snap.ManifestKey(), "dcs/"+snap.VerifiedKey(now)
	record, hold, opens := "dcs/"+catalog.RunKey(run), "dcs/"+catalog.HoldKey(run.ID), "dcs/"+catalog.LineKey(line)
	type right struct{ action, key string }
	for _, c := range []struct {
		file         string
		must, mustnt []right
	}{
		{"backup.json", []right{{put, data}, {put, facts}, {put, manifest}, {put, record}, {put, opens}, {abort, data}, {get, opens}, {get, record}, {get, hold}, {get, manifest}},
			[]right{{get, data}, {get, facts}, {del, data}, {del, manifest}, {del, hold}, {del, opens}, {del, verdict}, {del, record}}},
		{"retention.json", []right{{del, data}, {del, manifest}, {del, facts}, {del, verdict}, {abort, data}, {get, opens}, {get, hold}, {put, record}, {del, record}},
			[]right{{get, data}, {get, facts}, {put, data}, {put, manifest}, {put, verdict}, {del, opens}, {del, hold}}},
		{"verify.json", []right{{get, data}, {get, facts}, {get, manifest}, {put, verdict}, {put, record}}, []right{{put, data}, {put, manifest}, {del, data}, {del, manifest}, {del, verdict}, {del, record}}},
		{"restore.json", []right{{get, data}, {get, facts}, {get, manifest}, {get, opens}, {put, hold}, {del, hold}, {put, record}},
			[]right{{put, data}, {put, manifest}, {del, data}, {del, manifest}, {put, opens}, {del, record}}},
	} {
		var p policy
		if err := json.Unmarshal(read(t, filepath.Join("iam", c.file)), &p); err != nil {
			t.Fatal(err)
		}
		for _, r := range c.must {
			if !p.allows(r.action, r.key) {
				t.Errorf("%s does not allow %s of %s", c.file, r.action, r.key)
			}
		}
		for _, r := range c.mustnt {
			if p.allows(r.action, r.key) {
				t.Errorf("%s allows %s of %s", c.file, r.action, r.key)
			}
		}
	}
}

// What the package holds must be there.
func TestDebianPackage(t *testing.T) {
	recipe := documents(t, "debian/nfpm.yaml")[0]
	contents, _ := at(recipe, "contents").([]any)
	scripts, _ := at(recipe, "scripts").(map[string]any)
	var sources []string
	for i := range contents {
		source, _ := at(contents, i, "src").(string)
		sources = append(sources, source)
	}
	for _, s := range scripts {
		sources = append(sources, s.(string))
	}
	if len(sources) < 8 {
		t.Fatalf("the recipe names only %q", sources)
	}
	for _, s := range sources {
		if found, err := filepath.Glob(filepath.Join("..", s)); s != "./bin/requorum" && (err != nil || len(found) == 0) {
			t.Errorf("the recipe wants %s, and there is none", s)
		}
	}
}

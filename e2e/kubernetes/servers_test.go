package kubernetes

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/requorum/requorum/internal/etcdtest"
)

const version = "1.34.4"

// serverDir is where kube-apiserver and kube-scheduler are, built the first time.
func serverDir(t *testing.T) string {
	t.Helper()
	cache, err := etcdtest.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "kubernetes-"+version)
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	work := t.TempDir()
	goMod(t, work)
	programs := []string{"k8s.io/kubernetes/cmd/kube-apiserver", "k8s.io/kubernetes/cmd/kube-scheduler"}
	imports := "package servers\n\nimport (\n"
	for _, p := range programs {
		imports += fmt.Sprintf("\t_ %q\n", p)
	}
	write(t, filepath.Join(work, "servers.go"), "//go:build never\n\n"+imports+")\n")
	out := filepath.Join(work, "out")
	build := exec.CommandContext(t.Context(), "go", append([]string{"build", "-mod=mod", "-ldflags=-s -w", "-o", out + "/"}, programs...)...)
	build.Dir, build.Env = work, append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build Kubernetes %s: %v\n%s", version, err, text)
	}
	// Copied first: the cache may be on another file system, and nobody must find half of it.
	if text, err := exec.CommandContext(t.Context(), "cp", "-r", out, dir+".new").CombinedOutput(); err != nil {
		t.Fatalf("keep the servers: %v: %s", err, text)
	}
	if err := os.Rename(dir+".new", dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// goMod writes a go.mod that requires Kubernetes. Its own replaces its parts by folders that its module does not hold; they are modules
// of their own, with a version to match.
func goMod(t *testing.T, dir string) {
	t.Helper()
	get := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", "k8s.io/kubernetes@v"+version)
	get.Dir = dir
	out, err := get.Output()
	if err != nil {
		t.Fatalf("download Kubernetes: %v\n%s", err, out)
	}
	var module struct{ GoMod string }
	if err := json.Unmarshal(out, &module); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(module.GoMod)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b strings.Builder
	fmt.Fprintf(&b, "module servers\n\ngo 1.24.0\n\nrequire k8s.io/kubernetes v%s\n\nreplace (\n", version)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, _, ok := strings.Cut(strings.TrimSpace(lines.Text()), " => ./staging/"); ok {
			fmt.Fprintf(&b, "\t%s => %[1]s v0.%s\n", name, strings.TrimPrefix(version, "1."))
		}
	}
	write(t, filepath.Join(dir, "go.mod"), b.String()+")\n")
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

package etcdtest

import (
	"context"
	_ "embed" // the source of kubemanifests
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The etcd versions that tests run against: the newest of each supported minor version that can be
// had from the Go module proxy, and Debian 12's package for 3.4, which cannot.
const (
	V34    = "3.4.23"
	V35    = "3.5.35"
	V36    = "3.6.16"
	V37    = "3.7.3"
	Latest = V37
)

// Versions lists the server versions, oldest first.
func Versions() []string { return []string{V34, V35, V36, V37} }

// VersityGW is the version of the S3 server that stores are tested against.
const VersityGW = "1.8.0"

// KubeAPI is the version of the Kubernetes API that manifests are checked against by kubemanifests.
const KubeAPI = "0.34.4"

//go:embed testdata/kubemanifests/main.go
var kubeManifests []byte

// A Tool is a program of one version that tests run.
type Tool struct {
	Name    string // etcd, etcdctl, etcdutl, versitygw or kubemanifests
	Version string // without a leading v
}

// source is the package or module to get, and the package to build.
func (t Tool) source() (get, pkg string, err error) {
	switch t.Name {
	case "etcd":
		pkg = "go.etcd.io/etcd/server/v3"
	case "etcdctl", "etcdutl":
		pkg = "go.etcd.io/etcd/" + t.Name + "/v3"
	case "versitygw":
		pkg = "github.com/versity/versitygw/cmd/versitygw"
	case "kubemanifests":
		return "k8s.io/api", ".", nil
	default:
		return "", "", fmt.Errorf("it is not known how to build %s", t)
	}
	return pkg, pkg, nil
}

// Tools lists every program that tests use.
func Tools() []Tool {
	tools := []Tool{{"etcdctl", Latest}, {"etcdutl", Latest}}
	for _, v := range Versions() {
		tools = append(tools, Tool{"etcd", v})
	}
	return append(tools, Tool{"versitygw", VersityGW}, Tool{"kubemanifests", KubeAPI})
}

func (t Tool) String() string { return t.Name + " " + t.Version }

// Binary returns the path of a program, building it first if the cache does not hold it,
// which takes a minute or two; `go run ./internal/etcdtest/prepare` does so ahead of time.
func Binary(t testing.TB, name, version string) string {
	t.Helper()
	path, err := Tool{name, version}.Install(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// CacheDir is where programs for tests are kept, in folders named NAME-VERSION:
// $XDG_CACHE_HOME/requorum-test, by default ~/.cache/requorum-test.
func CacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache directory for test programs: %w", err)
	}
	dir := filepath.Join(base, "requorum-test")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the cache directory for test programs: %w", err)
	}
	return dir, nil
}

// Install makes sure that the tool is in the cache and returns its path. Processes that install the
// same tool at once wait for the first; a tool appears in the cache complete or not at all.
func (t Tool) Install(ctx context.Context) (string, error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	home := filepath.Join(cache, t.Name+"-"+t.Version)
	path := filepath.Join(home, t.Name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	unlock, err := lockFile(ctx, home+".lock")
	if err != nil {
		return "", fmt.Errorf("install %s: %w", t, err)
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil {
		return path, nil // another process was first
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("install %s: %w", t, err)
	}
	work, err := os.MkdirTemp(cache, "build-")
	if err != nil {
		return "", fmt.Errorf("install %s: %w", t, err)
	}
	defer os.RemoveAll(work)
	built, err := t.fetch(ctx, work)
	if err != nil {
		return "", fmt.Errorf("install %s: %w", t, err)
	}
	if err := os.MkdirAll(home, 0o755); err != nil {
		return "", fmt.Errorf("install %s: %w", t, err)
	}
	if err := os.Rename(built, path); err != nil {
		return "", fmt.Errorf("install %s: %w", t, err)
	}
	return path, nil
}

// fetch builds or downloads the tool inside the empty directory work and returns its path there.
func (t Tool) fetch(ctx context.Context, work string) (string, error) {
	if t.Name == "etcd" && strings.HasPrefix(t.Version, "3.4.") {
		return t.fetchDebian(ctx, work)
	}
	if t.Name == "kubemanifests" {
		if err := os.WriteFile(filepath.Join(work, "main.go"), kubeManifests, 0o644); err != nil {
			return "", err
		}
	}
	get, pkg, err := t.source()
	if err != nil {
		return "", err
	}
	built := filepath.Join(work, "bin", t.Name)
	steps := [][]string{
		{"go", "mod", "init", "build"},
		{"go", "get", get + "@v" + t.Version},
		{"go", "build", "-mod=mod", "-trimpath", "-ldflags=-s -w", "-o", built, pkg},
	}
	for _, step := range steps {
		if err := run(ctx, work, step...); err != nil {
			return "", err
		}
	}
	return built, nil
}

// fetchDebian takes the server from Debian's package without installing that.
func (t Tool) fetchDebian(ctx context.Context, work string) (string, error) {
	if err := run(ctx, work, "apt-get", "download", "etcd-server"); err != nil {
		return "", fmt.Errorf("%w (etcd 3.4 comes from Debian 12's package etcd-server; if apt does not know it, run apt-get update as root)", err)
	}
	packages, err := filepath.Glob(filepath.Join(work, "etcd-server_*.deb"))
	if err != nil || len(packages) != 1 {
		return "", fmt.Errorf("apt-get download etcd-server left %d packages, not one", len(packages))
	}
	if !strings.HasPrefix(filepath.Base(packages[0]), "etcd-server_"+t.Version) {
		return "", fmt.Errorf("apt offers %s, not version %s: use Debian 12", filepath.Base(packages[0]), t.Version)
	}
	if err := run(ctx, work, "dpkg-deb", "-x", packages[0], "root"); err != nil {
		return "", err
	}
	return filepath.Join(work, "root", "usr", "bin", "etcd"), nil
}

// run runs a build step in dir, as a static build of a module of its own.
func run(ctx context.Context, dir string, args ...string) error {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=", "PWD="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// lockFile takes an exclusive lock on a file, made if missing, and waits for it as long as ctx
// allows. The lock ends with the returned function or with the process.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for the lock %s: %w", path, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

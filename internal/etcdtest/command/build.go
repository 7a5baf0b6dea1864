package command

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Main is the TestMain of packages whose tests start the built requorum: it builds the program, runs the tests and returns their exit code. Before
// them use is told the program's path and a directory that other users may enter and that is removed at the end. With -short, when no test starts
// anything, nothing is built.
func Main(m *testing.M, use func(program, dir string)) int {
	flag.Parse()
	if testing.Short() {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "requorum-e2e-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = os.Chmod(dir, 0o755)
	}
	program := filepath.Join(dir, "requorum")
	if err == nil {
		err = Build(program)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	use(program, dir)
	return m.Run()
}

// Build builds requorum as a release is built, and writes the program to path.
func Build(path string) error {
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", path, "github.com/requorum/requorum/cmd/requorum")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build requorum: %w\n%s", err, out)
	}
	return nil
}

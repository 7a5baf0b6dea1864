//go:build linux

package halt

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// copier is a process that copies the file a to b, then b to c, all in one dir.
func copier(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "cat a >b && cat b >c")
	cmd.Dir = dir
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(b)
}

// Whoever is halted has done what the test waits for, and nothing after that; it goes on, or fails, as it is told.
func TestHalt(t *testing.T) {
	for name, goes := range map[string]bool{"released": true, "refused": false} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "new")
			point := When(t, []string{dir}, func() bool { return read(t, filepath.Join(dir, "b")) == "text" })
			cmd := copier(t, dir)
			var out strings.Builder
			cmd.Stderr = &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			point.Await(t, nil, func() string { return "" })
			if read(t, filepath.Join(dir, "b")) != "text" {
				t.Error("it was halted too early")
			}
			if read(t, filepath.Join(dir, "c")) != "" {
				t.Error("it was halted too late")
			}
			if goes {
				point.Release()
			} else {
				point.Refuse()
			}
			if err := cmd.Wait(); (err == nil) != goes {
				t.Errorf("it ended with %v: %s", err, out.String())
			}
			if got := read(t, filepath.Join(dir, "c")) == "text"; got != goes {
				t.Errorf("what came after is done: %v", got)
			}
		})
	}
}

// A process that is halted can be killed, and one that is not where it is to be is left alone.
func TestHaltedIsKilled(t *testing.T) {
	dir := t.TempDir()
	never := When(t, []string{dir}, func() bool { return false })
	if out, err := copier(t, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	never.Release()
	point := When(t, []string{dir}, func() bool { return true })
	cmd := copier(t, dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-point.Reached()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("it was not killed")
	}
}

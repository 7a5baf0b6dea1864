package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/requorum/requorum/internal/etcdtest/command"
	"github.com/requorum/requorum/internal/etcdtest/halt"
)

// The demo keeps its promise: all of it is true, and nothing is left behind. That it takes a minute is promised when nothing else runs.
func TestDemo(t *testing.T) {
	t.Parallel()
	d := newDemo(t)
	r := d.start(t, "demo", "-o", "json").Wait(t).Exits(t, command.ExitOK)
	lines := strings.Split(strings.TrimSpace(r.Stdout), "\n")
	last := lines[len(lines)-1]
	var result struct {
		OK     bool
		Backup struct {
			ID       string
			Revision int64
		}
		Restore struct {
			OK         bool
			Members    []any
			RTOSeconds float64 `json:"rto_seconds"`
		}
		Agents []struct {
			OK      bool
			Verdict string
		}
	}
	if err := json.Unmarshal([]byte(last), &result); err != nil {
		t.Fatalf("the last line is not JSON: %v\n%s", err, last)
	}
	if !result.OK || result.Backup.ID == "" || !result.Restore.OK || len(result.Restore.Members) != 3 || len(result.Agents) == 0 {
		t.Errorf("the last line says %+v", result)
	}
	for _, a := range result.Agents {
		if !a.OK {
			t.Errorf("an agent is %s", a.Verdict)
		}
	}
	hasFields(t, "demo", []byte(last), "ok", "backup", "restore", "agents")
	for _, told := range []string{"Disaster", "ghost", "restore demo --yes"} {
		if !strings.Contains(r.Stderr, told) {
			t.Errorf("the demo does not explain %q:\n%s", told, r.Stderr)
		}
	}
	d.clean(t)
}

// Interrupted, with Ctrl-C or the hard way, it leaves no server running.
func TestDemoInterrupted(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		signal syscall.Signal
		code   int
		after  string
		step   string // of the restore, after which it is; "" for before
	}{
		{"while members start", syscall.SIGINT, command.ExitInterrupt, "Three etcd members start", ""},
		{"while it restores", syscall.SIGTERM, command.ExitTerminate, "Three etcd members start", "stage"},
		{"killed", syscall.SIGKILL, -1, "Five agents come up", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDemo(t)
			demo := d.start(t, "demo")
			demo.Prints(t, c.after)
			release := func() {}
			if c.step != "" {
				homes, err := filepath.Glob(filepath.Join(d.tmp, "*", "etcd?"))
				if err != nil || len(homes) != 3 {
					t.Fatalf("the members' directories are %q, %v", homes, err)
				}
				var states []string
				for _, home := range homes {
					states = append(states, filepath.Join(home, "data.requorum"))
				}
				point := halt.AfterStep(t, states, c.step)
				point.Await(t, demo.Ended(), demo.Stdout.String)
				release = point.Release
			}
			demo.Signal(t, c.signal)
			release()
			demo.Wait(t).Exits(t, c.code)
			if c.signal == syscall.SIGKILL { // nobody was there to remove the directory
				for _, dir := range d.left(t) {
					until(t, "the members to end", func() bool { return len(using(t, d.tmp)) == 0 })
					if err := os.RemoveAll(dir); err != nil {
						t.Error(err)
					}
				}
			}
			d.clean(t)
		})
	}
}

// A demo has a temporary directory of its own, so that all that it leaves is found.
type demo struct{ tmp string }

func newDemo(t *testing.T) demo {
	if testing.Short() {
		t.Skip("starts etcd servers")
	}
	return demo{t.TempDir()}
}

func (d demo) start(t *testing.T, args ...string) *command.Command {
	t.Helper()
	return start(t, d.tmp, []string{"TMPDIR=" + d.tmp}, args...)
}

func (d demo) left(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(d.tmp, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// clean fails the test if the demo left a file or a process.
func (d demo) clean(t *testing.T) {
	t.Helper()
	if left := d.left(t); len(left) > 0 {
		t.Errorf("it left %q", left)
	}
	if left := using(t, d.tmp); len(left) > 0 {
		t.Errorf("it left the processes %v", left)
		for pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL) // what this very test has started
		}
	}
}

// using finds the running processes whose command line names a directory.
func using(t *testing.T, dir string) map[int]string {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	found := map[int]string{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err == nil && strings.Contains(string(line), dir) {
			found[pid] = strings.ReplaceAll(string(line), "\x00", " ")
		}
	}
	return found
}

package e2e

import (
	"os"
	"testing"
	"time"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// program is the built requorum.
var program string

func TestMain(m *testing.M) {
	os.Exit(command.Main(m, func(built, _ string) { program = built }))
}

// start starts the program in dir. env is added to the environment.
func start(t *testing.T, dir string, env []string, args ...string) *command.Command {
	t.Helper()
	return command.Start(t, command.Options{Dir: dir, Env: env}, append([]string{program}, args...)...)
}

// tool runs another program, which must succeed, and returns what it wrote on stdout.
func tool(t *testing.T, args ...string) string {
	t.Helper()
	return command.Run(t, command.Options{Dir: t.TempDir()}, args...).Exits(t, command.ExitOK).Stdout
}

// etcdutl is etcd's own tool for files.
func etcdutl(t *testing.T) string { return etcdtest.Binary(t, "etcdutl", etcdtest.Latest) }

// until polls until f says so.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	pause := 20 * time.Millisecond
	for deadline := time.Now().Add(4 * time.Minute); !f(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited four minutes for %s", what)
		}
		time.Sleep(pause)
		pause = min(pause*11/10, 200*time.Millisecond)
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/member"
)

// TestMain lets the test binary be the program: for the scripts, and as the children that it starts.
func TestMain(m *testing.M) {
	dbfile.RunChild()
	member.RunChild()
	testscript.Main(m, map[string]func(){"requorum": main})
}

// TestScripts runs the scripts in testdata. Beside testscript's own commands they have
//
//	exits CODE PROGRAM ARGS…   run a program that must end with this code
//	healthy URL                wait until an etcd serves
//	put URL KEY VALUE          write a key
//
// and $CLIENT and $PEER, two free URLs for an etcd of their own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			for _, name := range []string{"CLIENT", "PEER"} {
				env.Setenv(name, fmt.Sprintf("http://127.0.0.1:%d", etcdtest.FreePort(t)))
			}
			env.Setenv("HOME", env.WorkDir)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "healthy": healthy, "put": put},
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	code := 0
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		code = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}

func healthy(ts *testscript.TestScript, _ bool, args []string) {
	var err error
	for begun := time.Now(); time.Since(begun) < patience; {
		// A client waits longer and longer between its attempts to connect: each look has one of its own.
		err = withClient(args[0], func(ctx context.Context, c *clientv3.Client) error {
			attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			_, err := c.Get(attempt, "health")
			return err
		})
		if err == nil {
			return
		}
	}
	ts.Check(err)
}

// patience is how long anything may take on a machine that does much else.
const patience = 4 * time.Minute

func put(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(withClient(args[0], func(ctx context.Context, c *clientv3.Client) error {
		return etcdtest.Retried(ctx, func() error {
			_, err := c.Put(ctx, args[1], args[2])
			return err
		})
	}))
}

func withClient(url string, f func(context.Context, *clientv3.Client) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{url}, Context: ctx, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	defer c.Close()
	return f(ctx, c)
}

// The help shows every command in a group, with what it does.
func TestEveryCommandHasHelp(t *testing.T) {
	root := newRoot(&app{})
	for _, cmd := range root.Commands() {
		if cmd.Short == "" {
			t.Errorf("%s has no help", cmd.Name())
		}
		if cmd.GroupID == "" && !cmd.Hidden {
			t.Errorf("%s stands in no group of the help", cmd.Name())
		}
	}
}

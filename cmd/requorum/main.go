// Command requorum backs etcd up, rebuilds a healthy cluster from the backup,
// and proves that the agents that live on it have come back.
package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	_ "time/tzdata" // CRON_TZ must work where no zone files are installed

	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/internal/member"
)

func main() {
	// The same binary serves as the child that opens untrusted database files,
	// and as an etcd member.
	dbfile.RunChild()
	member.RunChild()

	// Work goes on when nobody reads what it says any more: without this, the first word into a closed pipe would end a restore between two
	// steps. Members that are started do not inherit it, as they would if the signal were ignored.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)

	ctx, caught := notify(context.Background())
	err := run(ctx, os.Args[1:], streams{in: os.Stdin, out: os.Stdout, err: os.Stderr})
	os.Exit(exitCode(err, caught()))
}

// signalled is the cause of a context that a signal ended.
type signalled struct{ syscall.Signal }

func (s signalled) Error() string { return "stopped by " + s.Signal.String() }

// notify ends the context at the first SIGINT or SIGTERM; a second one ends the
// process at once. caught tells which signal came, 0 for none.
func notify(parent context.Context) (ctx context.Context, caught func() syscall.Signal) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	var got atomic.Int32
	go func() {
		s := (<-signals).(syscall.Signal)
		got.Store(int32(s))
		cancel(signalled{s})
		signal.Stop(signals)
	}()
	return ctx, func() syscall.Signal { return syscall.Signal(got.Load()) }
}

// run is the whole program but for its exit: it parses the arguments, runs the
// command and reports its error.
func run(ctx context.Context, args []string, std streams) error {
	app := &app{streams: std, tunnels: &tunnels{}}
	root := newRoot(app)
	root.SetArgs(args)
	root.SetIn(std.in)
	root.SetOut(std.out)
	root.SetErr(std.err)
	err := root.ExecuteContext(ctx)
	app.leaveHosts()
	if err != nil && !errors.Is(err, errReported) && !unread(err) {
		app.report(ctx, err)
	}
	return err
}

// unread says that what was printed has no reader any more, as with | head: no news to anybody.
func unread(err error) bool {
	var path *fs.PathError
	return errors.As(err, &path) && path.Path == os.Stdout.Name() && errors.Is(err, syscall.EPIPE)
}

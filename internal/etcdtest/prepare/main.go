// Command prepare puts the servers that tests run into the cache ahead of the tests, so that those
// start at once, and says so with one line each.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/requorum/requorum/internal/etcdtest"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	if err := prepare(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "prepare:", err)
		os.Exit(1)
	}
}

func prepare(ctx context.Context) error {
	for _, tool := range etcdtest.Tools() {
		start := time.Now()
		path, err := tool.Install(ctx)
		if err != nil {
			return err
		}
		fmt.Printf("%-16s %6.1f s  %s\n", tool, time.Since(start).Seconds(), path)
	}
	return nil
}

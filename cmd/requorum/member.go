package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/requorum/requorum/internal/member"
)

// newMemberCommand is what the demo's start commands run: one etcd member, so
// that its restore goes through the very commands that a real one goes through.
func newMemberCommand(*app) *cobra.Command {
	var o member.Options
	var while int
	cmd := &cobra.Command{
		Use:    "member",
		Short:  "Run an embedded etcd member (for the demo)",
		Hidden: true,
		Args:   exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithCancel(cmd.Context())
			defer cancel()
			if while > 0 {
				go endWith(ctx, while, cancel)
			}
			return member.Serve(ctx, o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.Name, "name", "default", "member `NAME`")
	flags.StringVar(&o.DataDir, "data-dir", "", "data `DIR`")
	flags.StringVar(&o.ListenClient, "listen-client", "", "client `URL`")
	flags.StringVar(&o.ListenPeer, "listen-peer", "", "peer `URL`")
	flags.StringVar(&o.InitialCluster, "initial-cluster", "", "all members, `NAME=URL,…`")
	flags.StringVar(&o.Token, "initial-cluster-token", "", "initial cluster `TOKEN`")
	flags.StringVar(&o.LogFile, "log-file", "", "`FILE` for the server's log")
	flags.IntVar(&while, "while", 0, "end when the process `PID` has ended")
	return cmd
}

// endWith cancels once the process pid is gone, so that a demo that was killed
// leaves no servers behind.
func endWith(ctx context.Context, pid int, cancel context.CancelFunc) {
	for {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); errors.Is(err, os.ErrNotExist) {
			cancel()
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(500 * time.Millisecond):
		}
	}
}

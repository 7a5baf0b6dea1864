package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// newGuardCommand is what a drill starts its members with, whatever etcd they are: neither the end of the drill nor that of
// the guard, however they come, leaves one running.
func newGuardCommand(*app) *cobra.Command {
	var while int
	var log string
	cmd := &cobra.Command{
		Use:    "guard -- PROGRAM [ARGUMENT…]",
		Short:  "Run a program that ends with this one, and with another (for drills)",
		Hidden: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("guard: no program is named")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return guard(cmd.Context(), while, log, args) },
	}
	cmd.Flags().IntVar(&while, "while", 0, "end when the process `PID` has ended")
	cmd.Flags().StringVar(&log, "log-file", "", "`FILE` for what the program prints")
	return cmd
}

// guard runs a program until it ends, ctx does, or the process while has ended.
func guard(ctx context.Context, while int, log string, args []string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if while > 0 {
		go endWith(ctx, while, cancel)
	}
	out, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...) // killed when ctx ends
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = dieWithParent()
	// What the environment says to etcd is meant for another one.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "ETCD_") })
	runtime.LockOSThread() // the kernel ends the child together with the thread that started it
	defer runtime.UnlockOSThread()
	if err := cmd.Run(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	return nil
}

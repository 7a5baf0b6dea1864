package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Set at link time by the Makefile.
var (
	version = "dev"
	commit  = ""
)

type versionInfo struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Etcd    string `json:"etcd"` // version of the etcd library built in
	Go      string `json:"go"`
	Target  string `json:"target"`
}

func thisVersion() versionInfo {
	v := versionInfo{Version: version, Commit: commit, Go: runtime.Version(), Target: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	for _, dep := range info.Deps {
		if dep.Path == "go.etcd.io/etcd/server/v3" {
			v.Etcd = dep.Version
		}
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && v.Commit == "" {
			v.Commit = s.Value
		}
	}
	return v
}

func newVersionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Say which requorum and which etcd library this is",
		Args:  exactArgs(),
		RunE: func(*cobra.Command, []string) error {
			v := thisVersion()
			if a.json() {
				return a.printJSON(v)
			}
			fmt.Fprintf(a.out, "requorum %s (commit %s, etcd library %s, %s, %s)\n", v.Version, orUnknown(v.Commit), orUnknown(v.Etcd), v.Go, v.Target)
			return nil
		},
	}
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

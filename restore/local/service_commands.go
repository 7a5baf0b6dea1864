package local

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/requorum/requorum/restore"
)

// commands are shell commands of the operator's own.
type commands struct{ *place }

func (c commands) status(ctx context.Context) (status, error) {
	code, output, err := c.command(ctx, "status", c.member.Service.Status)
	return status{active: err == nil && code == 0, output: output}, err
}

func (c commands) do(ctx context.Context, a restore.Action) error {
	s := c.member.Service
	text := map[restore.Action]string{restore.ActInhibit: s.Inhibit, restore.ActStop: s.Stop, restore.ActAllow: s.Allow, restore.ActStart: s.Start}[a]
	if text == "" {
		return nil
	}
	if a != restore.ActStop {
		return c.must(ctx, string(a), text)
	}
	code, output, err := c.command(ctx, "stop", text)
	if err != nil || code == 0 {
		return err
	}
	if u, err := c.inUse(ctx); err != nil || u.stopped() {
		return err // that there is nothing to stop is no failure
	}
	return c.ended("stop", text, code, output)
}

// look reads the settings that stand in the start command itself.
func (c commands) look(context.Context) outlook {
	words, plain := shellWords(c.member.Service.Start)
	for i, w := range words {
		if filepath.Base(w) != "etcd" {
			continue
		}
		program, err := exec.LookPath(w)
		if err != nil {
			return outlook{} // an argument of something else, such as a unit's name
		}
		if info, err := os.Stat(program); err != nil || info.IsDir() {
			return outlook{}
		}
		var env []string
		for _, before := range words[:i] {
			if strings.HasPrefix(before, "ETCD_") {
				env = append(env, before)
			}
		}
		args := words[i+1:]
		for k, a := range args {
			if a == ";" || a == "&" || a == "|" || strings.HasPrefix(a, ">") || strings.HasPrefix(a, "2>") {
				args = args[:k]
				break
			}
		}
		if len(args) == 0 && len(env) == 0 {
			return outlook{}
		}
		return outlook{flags: c.flags(settings(args, env), origin{from: "start command", cwd: "/", program: program, complete: plain})}
	}
	return outlook{}
}

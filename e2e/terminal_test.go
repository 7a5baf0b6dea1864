package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// A person who waits sees bars with bytes and rate; a log gets one line a stage, without anything that only a terminal understands.
func TestProgress(t *testing.T) {
	t.Parallel()
	needs(t, "script")
	s := newSite(t, siteOptions{etcd: etcdtest.Options{Members: 1}})
	s.fill(2000, 5000)
	slow := etcdtest.NewProxy(t, strings.TrimPrefix(s.endpoints[0], "http://"))
	slow.Set(etcdtest.Fault{DownRate: 1 << 20})
	s.endpoints = []string{"http://" + slow.Addr()}
	s.configure()

	terminal := command.Start(t, command.Options{Dir: s.dir, Env: append(s.env, "TERM=xterm")}, "script", "-qec", "stty cols 120 rows 40; exec "+program+" backup dcs", "/dev/null").Wait(t).Exits(t, command.ExitOK)
	if !regexp.MustCompile(`stream +\d+s  [\d.]+ [kM]B of [\d.]+ [kM]B, [\d.]+ [kM]B/s, \d+s left  \[=+ *\]`).MatchString(terminal.Stdout) {
		t.Errorf("no bar with bytes and rate is on the terminal:\n%s", fmt.Sprintf("%q", terminal.Stdout))
	}

	slow.Set(etcdtest.Fault{})
	plain := s.run("backup", "dcs").Exits(t, command.ExitOK)
	if strings.ContainsAny(plain.Stderr, "\x1b\r") {
		t.Errorf("control characters stand in what may be a log: %q", plain.Stderr)
	}
	seen := map[string]int{}
	for _, line := range strings.Split(strings.TrimSpace(plain.Stderr), "\n") {
		stage, _, _ := strings.Cut(line, "  ")
		seen[stage]++
	}
	for _, stage := range []string{"choose member", "stream", "upload", "check", "commit"} {
		if seen[stage] != 1 {
			t.Errorf("the stage %q has %d lines:\n%s", stage, seen[stage], plain.Stderr)
		}
	}
}

// The ordinary question shows the plan and wants the cluster's name; anything else changes nothing.
func TestQuestion(t *testing.T) {
	t.Parallel()
	needs(t, "script")
	s := newSite(t, siteOptions{etcd: etcdtest.Options{Members: 1}})
	s.fill(50, 200)
	want := s.rows()
	b := s.backup()
	s.lose()
	answer := func(line string) command.Result {
		t.Helper()
		return command.Start(t, command.Options{Dir: s.dir, Env: append(s.env, "TERM=xterm")}, "sh", "-c",
			fmt.Sprintf(`echo %s | script -qec "stty cols 120 rows 40; exec %s restore dcs" /dev/null`, line, program)).Wait(t)
	}
	answer("yes").Exits(t, command.ExitError, b.ID, "Type the name of the cluster", "not confirmed")
	if s.Members[0].Running() {
		t.Error("a restore that was not confirmed started a member")
	}
	answer("dcs").Exits(t, command.ExitOK, "ok")
	etcdtest.MustEqual(t, want, s.rows())
}

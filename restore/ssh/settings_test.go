package ssh

import (
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSettings(t *testing.T) {
	c := newClient(t)
	c.file("config", `
Host db1
  HostName 10.0.0.1
  User etcd
  Port 2222
  IdentityFile ~/.ssh/%h.key
  IdentityFile "~/.ssh/second key"
  IdentitiesOnly yes
  UserKnownHostsFile ~/.ssh/a ~/.ssh/b
  GlobalKnownHostsFile none
  HostKeyAlias database
  ConnectTimeout 3
Host db2
  ProxyJump ops@jump1:2200,jump2
Host jump1
  ProxyJump first
Host jump2
  HostName 10.0.0.22
  ProxyJump none
Host circle
  ProxyJump circle
Host command
  ProxyCommand nc %h %p
  ProxyJump jump1
Host both
  ProxyJump first,command
Host through
  ProxyJump command
Host straight
  ProxyCommand none
  ProxyJump jump1
Host other
  ProxyJump none
  ProxyCommand nc %h %p
  ProxyJump jump1
Host wrong
  ProxyCommand nc %h %d
Host db*
  User nobody
  Port 9
`)
	ssh := func(name string) string { return filepath.Join(c.home, ".ssh", name) }
	resolve := func(o Options, url string) settings {
		t.Helper()
		s, err := o.settings(url)
		if err != nil {
			t.Fatalf("%s: %v", url, err)
		}
		return s
	}
	s := resolve(Options{}, "ssh://db1")
	if s.addr != "10.0.0.1:2222" || s.user != "etcd" || !slices.Equal(s.identities, []string{ssh("10.0.0.1.key"), ssh("second key")}) || !s.only ||
		!slices.Equal(s.knownHosts, []string{ssh("a"), ssh("b")}) || s.known != "database:22" || s.timeout != 3*time.Second || len(s.jumps) != 0 {
		t.Errorf("db1: %+v", s)
	}
	if s = resolve(Options{}, "ssh://root@db1:22"); s.addr != "10.0.0.1:22" || s.user != "root" {
		t.Errorf("what the URL says does not come first: %+v", s)
	}
	if s = resolve(Options{IdentityFiles: []string{"/k"}, KnownHosts: []string{"/h"}}, "ssh://db1"); !slices.Equal(s.identities, []string{"/k"}) || !slices.Equal(s.knownHosts, []string{"/h"}) {
		t.Errorf("what the options say does not come before the configuration: %+v", s)
	}
	s = resolve(Options{}, "ssh://db2")
	var hops []string
	for _, j := range s.jumps {
		hops = append(hops, j.user+"@"+j.addr)
	}
	if s.user != "nobody" || s.addr != "db2:9" || !slices.Equal(hops, []string{me() + "@first:22", "ops@jump1:2200", me() + "@10.0.0.22:22"}) {
		t.Errorf("db2: %+v by %v", s, hops)
	}
	if s = resolve(Options{}, "ssh://[::1]:33"); s.addr != "[::1]:33" || s.known != "[::1]:33" || len(s.identities) != 0 || s.knownHosts[0] != ssh("known_hosts") || s.only {
		t.Errorf("an address that the configuration does not name: %+v", s)
	}
	if s = resolve(Options{}, "ssh://command"); s.command != "nc command 22" || len(s.jumps) != 0 || !s.behind() {
		t.Errorf("the first of ProxyCommand and ProxyJump does not count: %+v", s)
	}
	if s = resolve(Options{}, "ssh://straight"); s.behind() {
		t.Errorf("ProxyCommand none does not switch ProxyJump off: %+v", s)
	}
	if s = resolve(Options{}, "ssh://other"); s.command != "nc other 22" || len(s.jumps) != 0 {
		t.Errorf("ProxyJump none switches ProxyCommand off: %+v", s)
	}
	if s = resolve(Options{}, "ssh://through"); s.command != "" || len(s.jumps) != 1 || s.jumps[0].command != "nc command 22" {
		t.Errorf("a jump host is not reached by its command: %+v", s)
	}
	if s = resolve(Options{}, "ssh://both"); len(s.jumps) != 2 || s.jumps[1].command != "" {
		t.Errorf("a jump host that is reached from another is reached by a command of here: %+v", s)
	}
	for url, want := range map[string]string{
		"ssh://circle": "leads in a circle",
		"ssh://wrong":  "ProxyCommand of wrong",
		"http://db1":   "not of the form",
		"ssh://":       "not of the form",
	} {
		if _, err := (Options{}).settings(url); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, not %q", url, err, want)
		}
	}
	other := c.file("other", "Host db1\n  Port 77\n")
	if s = resolve(Options{Config: other}, "ssh://db1"); s.addr != "db1:77" {
		t.Errorf("another configuration: %+v", s)
	}
	if _, err := (Options{Config: ssh("missing")}).settings("ssh://db1"); err == nil {
		t.Error("a configuration that is named and missing is no error")
	}
	c.file("config", "Host db1\n  Port\n  Match exec \"true\"\n")
	if _, err := (Options{}).settings("ssh://db1"); err == nil || !strings.Contains(err.Error(), ssh("config")) {
		t.Errorf("a configuration that cannot be read: %v", err)
	}
}

// TestNoHome is about a service, whose environment may not name a home directory.
func TestNoHome(t *testing.T) {
	u, err := user.Current()
	if err != nil || u.HomeDir == "" {
		t.Skip("nobody knows where this user is at home")
	}
	t.Setenv("HOME", "")
	if got, want := home("config"), filepath.Join(u.HomeDir, ".ssh", "config"); got != want {
		t.Errorf("the configuration is looked for in %s, not %s", got, want)
	}
}

package hosts

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// TestStrangeHosts restores over three hosts none of which is as one would set it up:
//
//   - h1: a user who becomes root by sudo, with a shell that talks, where neither /tmp nor /var/tmp may hold programs; the data dir is a mount point.
//   - h2: such a user, with room for a program in the home directory only; the WAL is apart; the data dir has an owner, a mode and an SELinux label of its own.
//     Its SSH server shows a certificate and keys of two types.
//   - h3: it says that it is of another architecture.
func TestStrangeHosts(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3)
	built := build386(t, s.dir)
	h1, h2, h3 := s.hosts[0], s.hosts[1], s.hosts[2]
	h1.users = "op:x:1500:1500::/srv/op:/bin/bash\nlost:x:1502:1502::/nonexistent:/bin/sh\n"
	h1.sudoers = "lost ALL=(root) NOPASSWD: ALL\n"
	var shells []string // that do not speak as sh does, where there are any
	for i, name := range []string{"tcsh", "fish", "zsh"} {
		if shell, err := exec.LookPath(name); err == nil {
			shells = append(shells, name)
			h1.users += fmt.Sprintf("%s:x:1500:%d::/srv/op:%s\n", name, 1510+i, shell)
			h1.sudoers += name + " ALL=(root) NOPASSWD: ALL\n"
		}
	}
	h1.mounts = "mount -o remount,noexec /tmp\nmount -o remount,bind,noexec /var/tmp\nmkdir -p /srv/disk /srv/etcd\nmount --bind /srv/disk /srv/etcd"
	h2.mounts = "mount -t tmpfs -o size=1m tmpfs /var/tmp\nmount -o remount,size=1m /tmp"
	h2.flags = "--wal-dir /srv/wal/etcd"
	authorities := h2.certify(t)
	h3.under = "linux32"
	h3.sudoers = "guest ALL=(root) ALL\nDefaults:op requiretty\n"
	for _, h := range s.hosts {
		h.again(t)
	}
	if err := os.WriteFile(h1.disk("srv", "op", ".bashrc"), []byte("echo \"Welcome. requorum:dir /\"\necho and a word on stderr >&2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	h2.exec(t, "mkdir", "-p", "/srv/wal")
	if machine := h3.exec(t, "linux32", "uname", "-m"); strings.TrimSpace(machine) != "i686" {
		t.Skipf("under linux32 this machine says it is %s", machine)
	}

	client := s.found(t, s.hosts...)
	etcdtest.MustFill(t, client, etcdtest.FillOptions{Keys: 1000, ValueSize: 8 << 10, Random: true})
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	d := s.newDesk(t, "desk1", s.hosts...)
	d.more = "    recipients: [" + identity.Recipient().String() + "]\n    identity_file: " + d.file(t, "identity", identity.String()+"\n")
	d.members[0].url, d.members[1].url, d.members[1].wal = h1.ssh("op"), h2.ssh("op"), "/srv/wal/etcd"
	d.configure(t)
	d.run(t, "backup", "dcs").Exits(t, command.ExitOK)
	want := s.rows(t, s.hosts...)
	etcdtest.Put(t, client, "/after", "the backup")

	t.Run("host keys", func(t *testing.T) { s.hostKeys(t, h2, authorities) })
	t.Run("keys", func(t *testing.T) { s.keys(t, h2) })
	t.Run("rights and room", func(t *testing.T) {
		one := s.newDesk(t, "rights", h1, h3)
		for _, test := range []struct{ one, two, want string }{
			{h1.ssh("lost"), h3.ssh("root"), "none of /var/tmp, /tmp and the home directory of user lost may hold a program of"},
			{h1.ssh("op"), h3.ssh("guest"), "user guest may not become root by sudo without a password and a terminal (sudo: a password is required)"},
			{h1.ssh("op"), h3.ssh("op"), `and another one, "Defaults:op !requiretty"`},
		} {
			one.members[0].url, one.members[1].url = test.one, test.two
			one.configure(t)
			one.run(t, "config", "check").Exits(t, command.ExitUsage, test.want)
		}
		for _, shell := range shells {
			one.members = one.members[:1]
			one.members[0].url = h1.ssh(shell)
			one.configure(t)
			one.run(t, "config", "check").Exits(t, command.ExitOK)
		}
	})

	// What is lost: all power, and with it two of three members' dirs.
	for _, h := range s.hosts {
		h.off(t)
		h.on(t)
	}
	const label = "system_u:object_r:etcd_var_lib_t:s0"
	if err := unix.Lsetxattr(h2.disk("srv", "etcd"), "security.selinux", []byte(label), 0); err != nil {
		t.Fatal(err)
	}
	h2.exec(t, "chown", "-R", "op:guest", "/srv/etcd")
	h2.exec(t, "chmod", "0710", "/srv/etcd")

	// Without a program for h3 nothing is changed; nor with one that is for yet another architecture, or that is not what its file says.
	d.run(t, "restore", "dcs", "--yes", "--from", "store").Exits(t, command.ExitError, "host ssh://root@"+h3.addr+" is linux/386 and this requorum is for linux/amd64: get or build requorum", "GOARCH=386", "ssh.binaries", "nothing was changed")
	program := built()
	arm := relabelled(t, program, filepath.Join(s.dir, "arm64"), 183)
	d.top = "ssh: {binaries: [" + arm + "]}"
	d.configure(t)
	d.run(t, "restore", "dcs", "--yes", "--from", "store").Exits(t, command.ExitError, "is linux/386", arm+" is for linux/arm64", "nothing was changed")
	lie := relabelled(t, requorum, filepath.Join(s.dir, "lie"), 3)
	d.top = "ssh: {binaries: [" + lie + "]}"
	d.configure(t)
	d.run(t, "restore", "dcs", "--yes", "--from", "store").Exits(t, command.ExitError, "run "+lie+", brought to /var/tmp/requorum-0", "nothing was changed")
	s.nothingBrought(t)

	// The machine that works dies in the middle: what it brought is removed without it.
	d.top = "ssh: {binaries: [" + arm + ", " + program + "]}"
	d.configure(t)
	d.run(t, "config", "check").Exits(t, command.ExitUsage, "endpoint") // every host is fine
	seen := s.watch(t)
	c := d.slowly(t, h3, 2, "restore", "dcs", "--yes", "--from", "store")
	until(t, "a part of the database on h3", func() bool { return h3.arrived(t) > 1<<20 })
	c.Kill(t)
	s.nothingBrought(t)

	// And the restore, with a program that lies beside requorum.
	beside := filepath.Join(filepath.Dir(requorum), "requorum-linux-386")
	if err := os.Rename(program, beside); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(beside) }) // which is for this test alone
	d.top = ""
	d.configure(t)
	h3.slow(t, 1000)
	d.restore(t, command.ExitOK, "--from", "store")
	etcdtest.MustEqual(t, want, s.rows(t, s.hosts...))
	s.nothingBrought(t)
	secret(t, s, seen(), identity.String())

	if got := strings.TrimSpace(h2.exec(t, "stat", "-c", "%U:%G %a", "/srv/etcd")); got != "op:guest 710" {
		t.Errorf("the new data dir on h2 has owner and mode %s, not those of the old one", got)
	}
	for _, path := range []string{"etcd", "etcd/member/snap/db"} {
		got := make([]byte, 100)
		if n, err := unix.Lgetxattr(h2.disk("srv", path), "security.selinux", got); err != nil || string(got[:n]) != label {
			t.Errorf("the SELinux label of %s on h2 is %q (%v), not the old one's", path, got[:n], err)
		}
	}
	if out := h2.exec(t, "sh", "-c", "ls /srv/wal/etcd/*.wal; ls -d /srv/wal/etcd.before-*"); strings.Contains(h2.exec(t, "ls", "/srv/etcd/member"), "wal") {
		t.Errorf("the WAL of h2 is not where it belongs:\n%s", out)
	}
	h1.exec(t, "sh", "-c", "mountpoint -q /srv/etcd && ls /srv/disk/member/snap/db && ls -d /srv/disk/member.before-*")
}

// nothingBrought waits until nothing that requorum brought is on any host.
func (s *site) nothingBrought(t testing.TB) {
	t.Helper()
	for _, h := range s.hosts {
		left := ""
		until(t, "what was brought to "+h.name+" to be removed", func() bool {
			left = strings.TrimSpace(h.exec(t, "find", "/var/tmp", "/tmp", "/srv/op", "-name", "requorum*"))
			return left == ""
		})
	}
}

// build386 begins to build requorum for another architecture, programs for which run here all the same; what it returns waits for it.
func build386(t testing.TB, dir string) func() string {
	path := filepath.Join(dir, "for386")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", path, "../../cmd/requorum")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=386")
	var out []byte
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		out, err = build.CombinedOutput()
	}()
	t.Cleanup(func() { <-done })
	return func() string {
		if <-done; err != nil {
			t.Fatalf("build requorum for 386: %v\n%s", err, out)
		}
		return path
	}
}

// relabelled copies a program whose header then names another machine.
func relabelled(t testing.TB, from, to string, machine uint16) string {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	binary.LittleEndian.PutUint16(b[18:], machine)
	if err := os.WriteFile(to, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return to
}

// watch looks at the command lines and environments of all processes on the hosts, until its answer is asked for.
func (s *site) watch(t testing.TB) func() map[string]string {
	stop := make(chan struct{})
	seen := map[string]string{} // environments by command lines
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			for _, h := range s.hosts {
				pids, _ := exec.Command("ip", "netns", "pids", h.ns).Output()
				for _, pid := range strings.Fields(string(pids)) {
					line, _ := os.ReadFile("/proc/" + pid + "/cmdline") // it may be gone
					env, _ := os.ReadFile("/proc/" + pid + "/environ")
					seen[strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))] += string(env)
				}
			}
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	once := sync.OnceFunc(func() { close(stop); wg.Wait() })
	t.Cleanup(once)
	return func() map[string]string { once(); return seen }
}

// agentLine is how requorum runs on a host.
var agentLine = regexp.MustCompile(`^(sudo -n -- )?/\S+/requorum-\d+/requorum-[0-9a-f]{16} host-agent (serve|keep)$`)

// secret fails the test if anything that is secret was seen on a host, or lies on its disk.
func secret(t testing.TB, s *site, seen map[string]string, identity string) {
	t.Helper()
	agents, home := 0, false
	key, err := os.ReadFile(filepath.Join(s.dir, "id_ed25519"))
	if err != nil {
		t.Fatal(err)
	}
	keyLine := strings.Split(string(key), "\n")[2]
	for line, env := range seen {
		if agentLine.MatchString(line) {
			agents++
			home = home || strings.Contains(line, " /srv/op/requorum-1500/")
		} else if strings.Contains(line, "host-agent") && !strings.Contains(line, "sh -c") {
			t.Errorf("requorum ran on a host as %q", line)
		}
		for _, word := range []string{identity, keyLine} {
			if strings.Contains(line, word) || strings.Contains(env, word) {
				t.Errorf("a secret is in the command line or environment of %q", line)
			}
		}
	}
	if agents < 4 || !home {
		t.Errorf("requorum was seen on the hosts with %d command lines, in a home directory: %t; nobody looked, or it was not where there is room", agents, home)
	}
	for _, h := range s.hosts {
		for _, word := range []string{identity, keyLine} {
			if out, err := h.try(t, "grep", "-r", "-l", "-F", "-e", word, "/srv", "/var/tmp", "/tmp", "/run"); err == nil {
				t.Errorf("on %s a secret is in %s", h.name, out)
			}
		}
	}
}

// certify gives the host's SSH server a second key, and a certificate by an authority, which it returns.
func (h *host) certify(t testing.TB) gossh.Signer {
	t.Helper()
	authority := newKey(t, h.disk("etc", "authority"))
	must(t, "ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", h.disk("etc", "ecdsa"))
	must(t, "ssh-keygen", "-q", "-s", h.disk("etc", "authority"), "-I", h.name, "-h", "-n", h.addr+",h2", h.disk("etc", "hostkey.pub"))
	h.sshd = "HostKey /etc/ssh/ecdsa\nHostCertificate /etc/ssh/hostkey-cert.pub\nMaxAuthTries 4\n" +
		"AuthorizedKeysFile /etc/ssh/authorized_keys /etc/ssh/keys_%u\n"
	return authority
}

// hostKeys logs in to a host by every way there is to know it, and not by any that only looks like one.
func (s *site) hostKeys(t *testing.T, h *host, authority gossh.Signer) {
	d := s.newDesk(t, "known", h)
	d.members[0].url = h.ssh("op")
	d.configure(t)
	ecdsa, err := os.ReadFile(h.disk("etc", "ecdsa.pub"))
	if err != nil {
		t.Fatal(err)
	}
	stranger := string(gossh.MarshalAuthorizedKey(s.key.PublicKey()))
	signer := string(gossh.MarshalAuthorizedKey(authority.PublicKey()))
	own := strings.TrimPrefix(h.knownHost(), h.addr+" ")
	for _, test := range []struct {
		name, known, config string
		hashed              bool
		code                int
		want                string
	}{
		{name: "one of its keys", known: h.knownHost()},
		{name: "the other one", known: h.addr + " " + string(ecdsa)},
		{name: "hashed", known: h.knownHost(), hashed: true},
		{name: "by an authority", known: "@cert-authority 10.77.0.* " + signer},
		{name: "under another name", known: "database " + own, config: "HostKeyAlias database\n"},
		{name: "an authority of other hosts", known: "@cert-authority 10.78.* " + signer + h.knownHost()},
		{name: "the authority, for a name that the certificate does not have", known: "@cert-authority h3 " + signer, config: "HostKeyAlias h3\n", code: command.ExitUsage, want: "a host certificate is not valid"},
		{name: "another authority", known: "@cert-authority * " + stranger, code: command.ExitUsage, want: "has no certificate of the authority there"},
		{name: "the authority's key as if it were the host's", known: "@cert-authority * " + own, code: command.ExitUsage, want: "has no certificate of the authority there"},
		{name: "changed", known: h.addr + " " + stranger, code: command.ExitUsage, want: "has changed"},
		{name: "revoked", known: h.knownHost() + "@revoked * " + own, code: command.ExitUsage, want: "is revoked"},
		{name: "unknown", known: "10.77.0.99 " + own, code: command.ExitUsage, want: "ssh-keyscan " + h.addr},
		{name: "a list of revoked keys", known: h.knownHost(), config: "RevokedHostKeys /etc/revoked\n", code: command.ExitUsage, want: "@revoked"},
	} {
		file := d.file(t, ".ssh/known_hosts", test.known)
		if test.hashed {
			must(t, "ssh-keygen", "-q", "-H", "-f", file)
		}
		d.file(t, ".ssh/config", test.config)
		if r := d.run(t, "config", "check"); r.Code != test.code || !strings.Contains(r.Stdout+r.Stderr, test.want) {
			t.Errorf("%s: not exit code %d with %q:\n%s", test.name, test.code, test.want, r)
		}
	}
}

// keys logs in to a host, which gives up after four keys, by an agent and by files.
func (s *site) keys(t *testing.T, h *host) {
	d := s.newDesk(t, "keys", h)
	d.members[0].url = h.ssh("op")
	d.configure(t)
	file := func(name string) string { return filepath.Join(d.dir, ".ssh", name) }
	if err := os.Remove(file("id_ed25519")); err != nil { // nothing is found by itself
		t.Fatal(err)
	}
	check := func(name string, code int, words ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) { d.run(t, "config", "check").Exits(t, code, words...) })
	}
	const phrase = "a phrase for tests"
	must(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", phrase, "-f", file("locked"))
	public, err := os.ReadFile(file("locked.pub"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.disk("etc", "keys_op"), public, 0o644); err != nil {
		t.Fatal(err)
	}
	d.file(t, ".ssh/config", "IdentityFile ~/.ssh/locked\n")
	check("a passphrase", command.ExitUsage, file("locked")+" has a passphrase: load it into an SSH agent with ssh-add")

	agent := exec.CommandContext(t.Context(), "ssh-agent", "-D", "-a", file("agent"))
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = agent.Process.Kill(); _ = agent.Wait() }()
	until(t, "the SSH agent", func() bool { _, err := os.Stat(file("agent")); return err == nil })
	d.env = append(d.env, "SSH_AUTH_SOCK="+file("agent"))
	add := func(path string) {
		t.Helper()
		ask := filepath.Join(d.dir, "ask")
		if err := os.WriteFile(ask, []byte("#!/bin/sh\necho '"+phrase+"'\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "ssh-add", "-q", path)
		cmd.Env = append(slices.Concat(os.Environ(), d.env), "SSH_ASKPASS="+ask, "SSH_ASKPASS_REQUIRE=force", "DISPLAY=:0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("ssh-add %s: %v\n%s", path, err, out)
		}
	}
	for i := range 6 {
		newKey(t, file("other"+strconv.Itoa(i)))
		add(file("other" + strconv.Itoa(i)))
	}
	add(file("locked"))
	check("a passphrase, and an agent that has the key after many others", command.ExitOK)
	if err := os.Remove(file("locked")); err != nil {
		t.Fatal(err)
	}
	check("only the public half, and such an agent", command.ExitOK)
	d.file(t, ".ssh/config", "")
	check("an agent with too many keys", command.ExitUsage, "gave up on user op before all of the 7 keys", "IdentityFile")
	d.file(t, ".ssh/config", "IdentitiesOnly yes\nIdentityFile ~/.ssh/other1\n")
	check("another key, and no other", command.ExitUsage, "user op is not let in")

	// A certificate that does not lie beside the key.
	newKey(t, file("plain"))
	newKey(t, file("users"))
	must(t, "ssh-keygen", "-q", "-s", file("users"), "-I", "op", "-n", "op", file("plain.pub"))
	if err := os.Rename(file("plain-cert.pub"), file("ticket")); err != nil {
		t.Fatal(err)
	}
	users, err := os.ReadFile(file("users.pub"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.disk("etc", "keys_op"), []byte("cert-authority "+string(users)), 0o644); err != nil {
		t.Fatal(err)
	}
	d.file(t, ".ssh/config", "IdentitiesOnly yes\nIdentityFile ~/.ssh/plain\n")
	check("a key without its certificate", command.ExitUsage, "user op is not let in")
	d.file(t, ".ssh/config", "IdentitiesOnly yes\nIdentityFile ~/.ssh/plain\nCertificateFile ~/.ssh/ticket\n")
	check("a certificate", command.ExitOK)
}

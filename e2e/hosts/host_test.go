package hosts

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"
)

// disk is a path on the host's disk as this machine sees it: srv is its /srv, var-tmp its /var/tmp.
func (h *host) disk(path ...string) string {
	return filepath.Join(append([]string{h.dir}, path...)...)
}

// furnish writes what lies in the host's /etc: users root, op (who may become root by sudo) and guest (who may not), and the SSH
// server's configuration.
func (h *host) furnish(t testing.TB) {
	t.Helper()
	read := func(path string) string {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	hosts := "127.0.0.1 localhost\n"
	for n := range 20 {
		hosts += fmt.Sprintf("%s%d h%d\n", network, n+11, n+1)
	}
	shadow := ""
	for line := range strings.Lines(h.users) { // whom nobody knows there has no right to sudo
		name, _, _ := strings.Cut(line, ":")
		shadow += name + ":*:19000:0:99999:7:::\n"
	}
	for name, file := range map[string]struct {
		text string
		mode os.FileMode
	}{
		// Root's home is not this machine's, lest the shell that SSH starts begins with what is there.
		"passwd":          {strings.Replace(read("/etc/passwd"), ":/root:", ":/srv/root:", 1) + h.users + "op:x:1500:1500::/srv/op:/bin/sh\nguest:x:1501:1501::/srv/guest:/bin/sh\n", 0o644},
		"group":           {read("/etc/group") + "op:x:1500:\nguest:x:1501:\n", 0o644},
		"shadow":          {shadow + "root:*:19000:0:99999:7:::\nop:*:19000:0:99999:7:::\nguest:*:19000:0:99999:7:::\n", 0o640},
		"sudoers":         {h.sudoers + "Defaults use_pty\nroot ALL=(ALL) ALL\nop ALL=(root) NOPASSWD: ALL\n", 0o440},
		"hosts":           {hosts, 0o644},
		"authorized_keys": {string(gossh.MarshalAuthorizedKey(h.site.key.PublicKey())), 0o644},
		"sshd_config": {h.sshd + fmt.Sprintf(`ListenAddress %s
Port 22
HostKey /etc/ssh/hostkey
AuthorizedKeysFile /etc/ssh/authorized_keys
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
PidFile none
UseDNS no
MaxStartups 100
Subsystem sftp internal-sftp
`, h.addr), 0o644},
	} {
		if err := os.WriteFile(h.disk("etc", name), []byte(file.text), file.mode); err != nil {
			t.Fatal(err)
		}
	}
	for user, id := range map[string]int{"root": 0, "op": 1500, "guest": 1501} {
		home := h.disk("srv", user)
		if err := os.MkdirAll(home, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(home, id, id); err != nil {
			t.Fatal(err)
		}
	}
}

// on switches the host on: process 1 is the SSH server. /tmp is empty, so that nothing of this machine's is found there.
func (h *host) on(t testing.TB) {
	t.Helper()
	h.program.Start(t, "ip", "netns", "exec", h.ns, "unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "sh", "-ec", `
hostname `+h.name+`
mount --bind `+h.disk("srv")+` /srv
mount --bind `+h.disk("var-tmp")+` /var/tmp
mount --bind `+h.disk("etc")+` /etc/ssh
for f in passwd group shadow sudoers hosts; do mount --bind `+h.disk("etc")+`/$f /etc/$f; done
mount -t tmpfs tmpfs /run
mkdir -p /run/sshd
mount -t tmpfs tmpfs /tmp
`+h.mounts+`
exec `+h.under+` `+program(t, "sshd")+` -D -e -f /etc/ssh/sshd_config`)
	until(t, "SSH on "+h.name, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		conn, err := dialFrom(ctx, h.ns, net.JoinHostPort(h.addr, "22"))
		if err != nil {
			return false
		}
		defer conn.Close()
		return true
	})
}

// again switches the host off and on, with what a test has changed of it.
func (h *host) again(t testing.TB) {
	t.Helper()
	h.off(t)
	h.furnish(t)
	h.on(t)
}

// off cuts the host's power: every process on it is gone at once. Its disk keeps what was written.
func (h *host) off(t testing.TB) {
	t.Helper()
	h.program.End(t, syscall.SIGKILL)
	until(t, h.name+" to be off", func() bool {
		out, err := exec.Command("ip", "netns", "pids", h.ns).Output()
		return err == nil && len(bytes.TrimSpace(out)) == 0
	})
}

// init is the host's process 1, as this machine numbers it.
func (h *host) init(t testing.TB) string {
	t.Helper()
	pid := h.program.PID()
	if pid == 0 {
		t.Fatalf("%s is off", h.name)
	}
	first := ""
	until(t, "the first process of "+h.name, func() bool { // the kernel may not list it at every moment
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
		first = strings.TrimSpace(string(b))
		return err == nil && first != ""
	})
	return first
}

// try runs a command on the host, as somebody at its console would.
func (h *host) try(t testing.TB, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "nsenter", append([]string{"-t", h.init(t), "-m", "-u", "-n", "-p", "--"}, args...)...).CombinedOutput()
	return string(out), err
}

// exec is try for a command that must succeed.
func (h *host) exec(t testing.TB, args ...string) string {
	t.Helper()
	out, err := h.try(t, args...)
	if err != nil {
		t.Fatalf("on %s: %s: %v\n%s", h.name, strings.Join(args, " "), err, out)
	}
	return out
}

// ssh is the host as a configuration names it.
func (h *host) ssh(user string) string { return fmt.Sprintf("ssh://%s@%s", user, h.addr) }

// knownHost is the host's line in known_hosts.
func (h *host) knownHost() string {
	return h.addr + " " + string(gossh.MarshalAuthorizedKey(h.hostKey.PublicKey()))
}

func program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// until polls until f says so.
func until(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Minute); !f(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited for five minutes for %s", what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

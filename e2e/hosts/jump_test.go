package hosts

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// TestJumpHosts has members whose SSH servers are out of the desk's reach: h1 and h2 are reached through the gate, h3 through the gate and a second jump
// host, which itself only the gate reaches. Their etcd does not serve the desk either: requorum gets there by the same ways.
func TestJumpHosts(t *testing.T) {
	t.Parallel()
	s := newSite(t, 5)
	members, gate, second := s.hosts[:3], s.hosts[3], s.hosts[4]
	h3 := members[2]

	// The gate serves on another port, and lets op in with a key of its own, guest with the ordinary one.
	gateKey := newKey(t, filepath.Join(s.dir, "gate_key"))
	gate.sshd = "Port 2222\nAuthorizedKeysFile /etc/ssh/keys_%u\n"
	for user, key := range map[string]gossh.Signer{"op": gateKey, "guest": s.key} {
		if err := os.WriteFile(gate.disk("etc", "keys_"+user), gossh.MarshalAuthorizedKey(key.PublicKey()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	gate.again(t)
	gate.sshOnlyFrom(t)
	second.sshOnlyFrom(t, gate)
	for _, h := range members[:2] {
		h.sshOnlyFrom(t, gate)
	}
	h3.sshOnlyFrom(t, second)
	for _, h := range members {
		h.hideFromDesk(t)
	}
	s.view = gate.ns

	d := s.newDesk(t, "desk1", members...)
	b, err := os.ReadFile(filepath.Join(s.dir, "gate_key"))
	if err != nil {
		t.Fatal(err)
	}
	d.file(t, ".ssh/gate_key", string(b))
	d.file(t, ".ssh/jumps", fmt.Sprintf(`Host gate
  HostName %s
  User op
  Port 2222
  IdentityFile ~/.ssh/gate_key
  IdentitiesOnly yes
  HostKeyAlias the-gate
`, gate.addr))
	d.file(t, ".ssh/config", fmt.Sprintf(`Include %s
Host h1
  HostName %s
  ProxyJump gate
Match originalhost h2
  ProxyJump guest@%s:2222
Host h3
  ProxyJump gate,root@%s
Match final all
  User root
`, filepath.Join(d.dir, ".ssh", "jumps"), members[0].addr, gate.addr, second.name))
	key := func(h *host) string { return string(gossh.MarshalAuthorizedKey(h.hostKey.PublicKey())) }
	known := func(gateKey, secondKey string) { // h2, h3 and the second jump host are names that only jump hosts resolve
		d.file(t, ".ssh/known_hosts", "the-gate "+gateKey+"["+gate.addr+"]:2222 "+key(gate)+members[0].knownHost()+"h2 "+key(members[1])+"h3 "+key(h3)+second.name+" "+secondKey)
	}
	known(key(gate), key(second))
	for i := range d.members {
		d.members[i].url = "ssh://" + members[i].name
	}
	d.configure(t)

	client := s.found(t, members...)
	for _, h := range s.hosts {
		for _, port := range []string{"22", "2379"} {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			if conn, err := dialFrom(ctx, s.desk, net.JoinHostPort(h.addr, port)); err == nil {
				conn.Close()
				t.Fatalf("the desk reaches port %s of %s by itself: nothing that follows shows anything", port, h.name)
			}
			cancel()
		}
	}
	etcdtest.MustFill(t, client, etcdtest.FillOptions{Keys: 2000, ValueSize: 16 << 10, Random: true})
	d.run(t, "backup", "dcs").Exits(t, command.ExitOK)
	d.run(t, "config", "check").Exits(t, command.ExitOK)
	want := s.rows(t, members...)
	for _, h := range members {
		h.off(t)
		h.on(t)
		h.wipe(t)
	}
	untouched := func() {
		t.Helper()
		for _, h := range members {
			if left := h.exec(t, "find", "/srv", "/var/tmp", "/tmp", "-name", "*etcd.*", "!", "-name", "etcd.log", "!", "-name", "etcd.pid", "!", "-name", "etcd.sh", "-o", "-name", "requorum*"); strings.TrimSpace(left) != "" {
				t.Errorf("a refused restore left on %s: %s", h.name, left)
			}
		}
	}

	d.more = "    snapshot: {dial_timeout: 1s}" // nothing is reached in what follows
	d.configure(t)
	// A jump host that does not prove to be the one that is known is an error like that of any other host, and named. With two
	// of three members out of reach, the old quorum cannot be proven stopped either.
	known(key(h3), key(second))
	d.run(t, "restore", "dcs", "--yes").Exits(t, command.ExitRefused, "jump host gate", "the host key of the-gate has changed", "nothing was changed")
	known(key(gate), key(h3))
	r := d.run(t, "restore", "dcs", "--yes").Exits(t, command.ExitError, "jump host "+second.name, "the host key of "+second.name+" has changed", "nothing was changed")
	if strings.Contains(r.Stderr, "the-gate") {
		t.Errorf("the gate is accused, too:\n%s", r)
	}
	known(key(gate), key(second))
	untouched()

	// One that does not forward.
	gate.sshd += "AllowTcpForwarding no\n"
	gate.again(t)
	d.run(t, "restore", "dcs", "--yes").Exits(t, command.ExitRefused, "jump host gate lets user op in, but does not forward to "+members[0].addr+":22", "AllowTcpForwarding", "nothing was changed")
	gate.sshd = strings.TrimSuffix(gate.sshd, "AllowTcpForwarding no\n")
	gate.again(t)
	// One that is there, while the host behind it is not.
	h3.off(t)
	d.run(t, "restore", "dcs", "--yes").Exits(t, command.ExitError, "jump host "+second.name+" does not reach h3:22", "--without h3", "nothing was changed")
	h3.on(t)
	untouched()

	d.more = ""
	d.configure(t)
	// The gate is off and on again in the middle of the transfer: it goes on where it stopped.
	c := d.slowly(t, h3, transfer, "restore", "dcs", "--yes")
	until(t, "a part of the database on h3", func() bool { return h3.arrived(t) > 8<<20 })
	gate.off(t)
	gate.on(t)
	h3.slow(t, 1000)
	r = c.Wait(t).Exits(t, command.ExitOK, "stage h3 goes on after")
	if m := goesOn.FindStringSubmatch(r.Stderr); m == nil || m[1] == "0" {
		t.Errorf("the transfer of h3 began anew:\n%s", r)
	}
	etcdtest.MustEqual(t, want, s.rows(t, members...))
	for _, h := range s.hosts {
		if left := strings.TrimSpace(h.exec(t, "find", "/var/tmp", "/tmp", "-mindepth", "1")); left != "" {
			t.Errorf("requorum left on %s: %s", h.name, left)
		}
	}
	// Nothing of requorum has ever been on a jump host: its disk outlives a boot.
	for _, h := range []*host{gate, second} {
		if left := strings.TrimSpace(h.exec(t, "find", "/srv", "-name", "*requorum*")); left != "" {
			t.Errorf("on jump host %s there is %s", h.name, left)
		}
	}
}

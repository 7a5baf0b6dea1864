package hosts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"github.com/requorum/requorum/internal/etcdtest"
)

// A debian is a host that runs a whole Debian, with systemd as process 1, instead of single programs: its network and its name are
// the host's, its disk is an overlay of its own over one system that all share.
type debian struct {
	*host
	etcd   string // the program
	booted bool   // once at least
}

const (
	// debianData is where etcd has its data there.
	debianData = "/var/lib/etcd"
	// debianSystem names the shared system in the cache; a change of what is installed needs a new one.
	debianSystem   = "debian-bookworm-1"
	debianPackages = "systemd,systemd-sysv,dbus,openssh-server,sudo,iproute2"
)

// debianRoot is the shared system, which is built once and kept in the cache. The test is skipped where it cannot be had.
func debianRoot(t testing.TB) string {
	t.Helper()
	for program, from := range map[string]string{"systemd-nspawn": "systemd-container", "debootstrap": "debootstrap"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("hosts with systemd need the program %s, which Debian has in %s", program, from)
		}
	}
	cache, err := etcdtest.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(cache, debianSystem)
	lock, err := os.OpenFile(root+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil { // whoever has it ends within debootstrap's deadline
		t.Fatal(err)
	}
	if _, err := os.Stat(root); err == nil {
		return root
	} else if !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	part := root + ".part"
	if err := os.RemoveAll(part); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "debootstrap", "--variant=minbase", "--include="+debianPackages, "bookworm", part)
	cmd.WaitDelay = 10 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("a Debian for hosts with systemd cannot be made here: debootstrap: %v: %s", err, lastLine(string(out)))
	}
	for _, own := range []string{"etc/hostname", "etc/machine-id"} { // each host has its own
		if err := os.RemoveAll(filepath.Join(part, own)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(part, root); err != nil {
		t.Fatal(err)
	}
	return root
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// newDebians makes a site of Debian hosts h1, h2, … and boots them. The test is skipped where that is not possible.
func newDebians(t testing.TB, hosts int) (*site, []*debian) {
	t.Helper()
	s := newSite(t, 0)
	root := debianRoot(t)
	sweepDisks(t)
	var all []*debian
	for n := range hosts {
		all = append(all, s.debian(t, root, n+1))
	}
	boot(t, all...)
	for _, h := range all {
		h.exec(t, "useradd", "--system", "--home-dir", debianData, "etcd")
	}
	return s, all
}

// debian puts one more host into the site, with its disk, switched off.
func (s *site) debian(t testing.TB, root string, n int) *debian {
	t.Helper()
	h := &debian{host: s.place(t, fmt.Sprintf("h%d", n), network+strconv.Itoa(n+10)), etcd: etcdtest.Binary(t, "etcd", etcdtest.Latest)}
	for _, d := range []string{"upper", "work", "root"} {
		if err := os.MkdirAll(h.disk(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h.state = h.disk("root", debianData+".requorum")
	disk := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", root, h.disk("upper"), h.disk("work"))
	if err := syscall.Mount(h.ns, h.disk("root"), "overlay", 0, disk); err != nil {
		t.Skipf("a disk for a host with systemd cannot be mounted here: overlay: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(h.disk("root"), syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount the disk of %s: %v", h.name, err)
		}
	})
	h.program = etcdtest.NewProgram(t, filepath.Join(h.dir, "console.log"))
	secret, err := os.ReadFile(h.disk("etc", "hostkey"))
	if err != nil {
		t.Fatal(err)
	}
	h.file(t, "/etc/hostname", h.name+"\n", 0o644)
	h.file(t, "/etc/hosts", "127.0.0.1 localhost "+h.name+"\n", 0o644)
	h.file(t, "/etc/ssh/hostkey", string(secret), 0o600)
	h.file(t, "/etc/ssh/authorized_keys", string(gossh.MarshalAuthorizedKey(s.key.PublicKey())), 0o644)
	h.file(t, "/etc/ssh/sshd_config", "HostKey /etc/ssh/hostkey\nAuthorizedKeysFile /etc/ssh/authorized_keys\nUsePAM no\nUseDNS no\nMaxStartups 100\n", 0o644)
	h.file(t, "/var/log/journal/README", "the journal outlives a reboot\n", 0o644)
	return h
}

// sweepDisks unmounts the disks that tests left that were killed.
func sweepDisks(t testing.TB) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[2] != "overlay" || !strings.HasPrefix(fields[0], prefix) {
			continue
		}
		owner, _, _ := strings.Cut(strings.TrimPrefix(fields[0], prefix), "-")
		if _, err := os.Stat("/proc/" + owner); errors.Is(err, os.ErrNotExist) {
			_ = syscall.Unmount(fields[1], syscall.MNT_DETACH) // another test may have been first
		}
	}
}

// file writes a file of the host's, which may be off. It appears whole.
func (h *debian) file(t testing.TB, path, text string, mode os.FileMode) {
	t.Helper()
	at := h.disk("root", path)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		t.Fatal(err)
	}
	part := filepath.Join(filepath.Dir(at), "."+filepath.Base(at)+".part")
	if err := os.WriteFile(part, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(part, at); err != nil {
		t.Fatal(err)
	}
}

// read is a file of the host's, empty if there is none.
func (h *debian) read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(h.disk("root", path))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}

// boot switches hosts on and waits until each can be logged in to. What else they start may take longer.
func boot(t testing.TB, hosts ...*debian) {
	t.Helper()
	for _, h := range hosts {
		h.mend(t)
		h.program.Start(t, "systemd-nspawn", "--quiet", "--boot", "--directory="+h.disk("root"), "--machine="+filepath.Base(h.ns),
			"--hostname="+h.name, "--network-namespace-path=/run/netns/"+h.ns, "--register=no", "--keep-unit", "--console=pipe",
			"--link-journal=no", "--bind-ro="+h.etcd+":/usr/local/bin/etcd", "--bind-ro="+etcdtest.Binary(t, "etcdctl", etcdtest.Latest)+":/usr/local/bin/etcdctl")
	}
	begun := time.Now()
	for _, h := range hosts {
		until(t, h.name+" to boot", func() bool {
			if !h.booted && time.Since(begun) > 2*time.Minute { // two seconds are usual
				console, _ := os.ReadFile(filepath.Join(h.dir, "console.log"))
				t.Skipf("a host with systemd does not come up here: %s", lastLine(string(console)))
			}
			if !h.program.Running() {
				console, _ := os.ReadFile(filepath.Join(h.dir, "console.log"))
				if h.booted {
					t.Fatalf("%s does not boot again: %s", h.name, console)
				}
				t.Skipf("a host with systemd does not boot here: %s", lastLine(string(console)))
			}
			if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", h.program.PID())); err != nil || len(strings.Fields(string(b))) != 1 {
				return false
			}
			_, err := h.try(t, "systemctl", "is-active", "ssh")
			return err == nil
		})
		h.booted = true
	}
}

// cut takes the power away: the cable is dead, and every process is gone.
func (h *debian) cut(t testing.TB) {
	t.Helper()
	h.unplug(t)
	pid, err := strconv.Atoi(h.init(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.off(t)
}

// unit is a property of a unit.
func (h *debian) unit(t testing.TB, unit, property string) string {
	t.Helper()
	return strings.TrimSpace(h.exec(t, "systemctl", "show", "--value", "--property="+property, unit))
}

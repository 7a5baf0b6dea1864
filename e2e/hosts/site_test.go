package hosts

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/internal/etcdtest"
)

// A site is a machine room: hosts, and a desk to work from, each in a network namespace of its own, joined by a bridge in one more. This
// machine itself gets no address. What lies on the disks of hosts is in directories of the test.
type site struct {
	dir   string
	hosts []*host
	desk  string // network namespace of whoever runs requorum
	net   string // network namespace of the bridge

	view string // network namespace from which the test itself looks at etcd

	key gossh.Signer // what the hosts let in
}

const (
	prefix   = "rqhosts-" // of network namespaces, followed by the number of the process that made them
	network  = "10.77.0." // in which host n has the address n+10
	deskAddr = network + "1"
)

// A host is a machine of the site. Its processes are in namespaces of their own, below process 1, so that their end is a power cut.
type host struct {
	site *site
	name string // its host name, too
	addr string
	ns   string // network namespace
	dir  string // holds its disk: srv, var-tmp and etc

	state string // where requorum keeps what it knows of runs, as this machine sees it

	program *etcdtest.Program
	hostKey gossh.Signer

	// What a test may change before the host is switched on again.
	sshd    string // lines of sshd_config that come first, and so count
	sudoers string // lines that come first
	users   string // lines of passwd
	mounts  string // commands at the end of booting
	under   string // a command that sshd runs under
	flags   string // more flags of its etcd
}

// newSite makes a site with hosts h1, h2, …, switched on, with SSH served on port 22. The test is skipped where that is not possible.
func newSite(t testing.TB, hosts int) *site {
	t.Helper()
	possible(t)
	s := &site{dir: t.TempDir()}
	sweep(t)
	id := strconv.Itoa(os.Getpid()) + "-" + strings.ToLower(rand.Text()[:4])
	s.desk, s.net = prefix+id+"-desk", prefix+id+"-net"
	s.view = s.desk
	t.Cleanup(func() { s.remove(t) })
	s.key = newKey(t, filepath.Join(s.dir, "id_ed25519"))
	ip(t, "netns", "add", s.net)
	in(t, s.net, "ip", "link", "add", "switch", "type", "bridge")
	in(t, s.net, "ip", "link", "set", "switch", "up")
	s.plug(t, s.desk, "desk", deskAddr)
	for range hosts {
		s.add(t)
	}
	return s
}

// add puts one more host into the site and switches it on.
func (s *site) add(t testing.TB) *host {
	t.Helper()
	n := len(s.hosts) + 1
	h := s.place(t, fmt.Sprintf("h%d", n), network+strconv.Itoa(n+10))
	h.program = etcdtest.NewProgram(t, filepath.Join(h.dir, "console.log"))
	h.furnish(t)
	h.on(t)
	return h
}

// place gives a host its network and directories, and nothing that runs in them.
func (s *site) place(t testing.TB, name, addr string) *host {
	t.Helper()
	h := &host{site: s, name: name, addr: addr, ns: strings.TrimSuffix(s.net, "net") + name, dir: filepath.Join(s.dir, name)}
	for _, d := range []string{"srv", "var-tmp", "etc"} {
		if err := os.MkdirAll(filepath.Join(h.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(h.disk("var-tmp"), 0o1777); err != nil {
		t.Fatal(err)
	}
	h.state = h.disk("srv", filepath.Base(dataDir)+".requorum")
	s.plug(t, h.ns, name, addr)
	h.hostKey = newKey(t, h.disk("etc", "hostkey"))
	s.hosts = append(s.hosts, h)
	return h
}

// plug makes a network namespace that is joined to the switch by a cable, which is called port at the switch's end.
func (s *site) plug(t testing.TB, ns, port, addr string) {
	t.Helper()
	ip(t, "netns", "add", ns)
	ip(t, "-n", s.net, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", ns)
	ip(t, "-n", s.net, "link", "set", port, "master", "switch", "up")
	ip(t, "-n", ns, "address", "add", addr+"/24", "dev", "eth0")
	ip(t, "-n", ns, "link", "set", "eth0", "up")
	ip(t, "-n", ns, "link", "set", "lo", "up")
}

// remove takes the site's namespaces away. Hosts are off by then, since their programs were prepared later.
func (s *site) remove(t testing.TB) {
	for _, ns := range namespaces(t) {
		if strings.HasPrefix(ns, strings.TrimSuffix(s.net, "net")) {
			clear(t, ns)
		}
	}
}

// sweep removes what tests left that were killed: their hosts died with them, but not the networks.
func sweep(t testing.TB) {
	for _, ns := range namespaces(t) {
		owner, _, _ := strings.Cut(strings.TrimPrefix(ns, prefix), "-")
		if _, err := os.Stat("/proc/" + owner); errors.Is(err, os.ErrNotExist) {
			clear(t, ns)
		}
	}
}

func namespaces(t testing.TB) (found []string) {
	entries, err := os.ReadDir("/run/netns")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			found = append(found, e.Name())
		}
	}
	return found
}

// clear removes a network namespace and whatever still runs in it.
func clear(t testing.TB, ns string) {
	// What is on its way out may still write to disk, into a directory that is removed next.
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		pids, _ := exec.Command("ip", "netns", "pids", ns).Output() // if another test removed it just now there are none
		running := false
		for _, field := range strings.Fields(string(pids)) {
			if pid, err := strconv.Atoi(field); err == nil && pid != os.Getpid() { // which dials from there
				running = syscall.Kill(pid, syscall.SIGKILL) == nil || running // it may have ended
			}
		}
		if !running {
			break
		}
	}
	if out, err := exec.Command("ip", "netns", "delete", ns).CombinedOutput(); err != nil && slices.Contains(namespaces(t), ns) {
		t.Errorf("remove network namespace %s: %v: %s", ns, err, out)
	}
}

// possible skips the test, with one line, where hosts cannot be made.
func possible(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("makes hosts")
	}
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Skip("hosts are network namespaces: they need root on Linux")
	}
	for program, from := range map[string]string{"ip": "iproute2", "sshd": "openssh-server", "sudo": "sudo", "unshare": "util-linux", "nsenter": "util-linux", "ssh-agent": "openssh-client"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("hosts need the program %s, which Debian has in %s", program, from)
		}
	}
	out, err := exec.Command("unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "sh", "-c",
		"ip link add probe type bridge && hostname probe && mount -t tmpfs none /run").CombinedOutput()
	if err != nil {
		t.Skipf("namespaces cannot be made here: %v: %s", err, strings.TrimSpace(string(out)))
	}
}

func ip(t testing.TB, args ...string) {
	t.Helper()
	must(t, append([]string{"ip"}, args...)...)
}

// in runs a command in a network namespace.
func in(t testing.TB, ns string, args ...string) string {
	t.Helper()
	return must(t, append([]string{"ip", "netns", "exec", ns}, args...)...)
}

func must(t testing.TB, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// newKey makes a key pair and writes its secret half as OpenSSH has it, its public half beside it.
func newKey(t testing.TB, path string) gossh.Signer {
	t.Helper()
	_, secret, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := gossh.MarshalPrivateKey(secret, "")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := gossh.NewSignerFromKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".pub", gossh.MarshalAuthorizedKey(signer.PublicKey()), 0o644); err != nil {
		t.Fatal(err)
	}
	return signer
}

// dial is a dialer for gRPC clients of the test itself.
func (s *site) dial(ctx context.Context, addr string) (net.Conn, error) {
	return dialFrom(ctx, s.view, addr)
}

// dialFrom connects from a network namespace.
func dialFrom(ctx context.Context, ns, addr string) (net.Conn, error) {
	runtime.LockOSThread() // the thread is in that network for a moment: a socket stays where it was made
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	defer home.Close()
	away, err := os.Open("/run/netns/" + ns)
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	defer away.Close()
	if err := unix.Setns(int(away.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("enter network %s: %w", ns, err)
	}
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", addr)
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return nil, fmt.Errorf("return from network %s: %w", ns, back) // the thread stays locked, and ends with its goroutine
	}
	runtime.UnlockOSThread()
	return conn, err
}

// cutFromDesk makes a host silent for the desk, while all hosts still reach each other, until mend.
func (h *host) cutFromDesk(t testing.TB) {
	t.Helper()
	ip(t, "-n", h.site.desk, "neighbour", "replace", h.addr, "lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "permanent")
}

// sshOnlyFrom closes the host's SSH port to all but the hosts that are named.
func (h *host) sshOnlyFrom(t testing.TB, others ...*host) {
	t.Helper()
	rule := []string{"-n", h.ns, "rule", "add", "ipproto", "tcp", "sport", "22"}
	for _, o := range others {
		ip(t, append(rule, "to", o.addr, "pref", "10", "lookup", "main")...)
	}
	ip(t, append(rule, "pref", "20", "prohibit")...)
}

// hideFromDesk closes etcd's port for clients to the desk.
func (h *host) hideFromDesk(t testing.TB) {
	t.Helper()
	ip(t, "-n", h.ns, "rule", "add", "ipproto", "tcp", "sport", "2379", "to", deskAddr, "pref", "10", "prohibit")
}

// isolate keeps the host's etcd from its peers, until join.
func (h *host) isolate(t testing.TB) {
	t.Helper()
	ip(t, "-n", h.ns, "rule", "add", "ipproto", "tcp", "sport", "2380", "pref", "30", "prohibit")
}

func (h *host) join(t testing.TB) {
	t.Helper()
	ip(t, "-n", h.ns, "rule", "delete", "pref", "30")
}

// slow limits what the host receives to a number of megabits a second.
func (h *host) slow(t testing.TB, megabits int) {
	t.Helper()
	in(t, h.site.net, "tc", "qdisc", "replace", "dev", h.name, "root", "tbf", "rate", strconv.Itoa(megabits)+"mbit", "burst", "256k", "latency", "200ms")
}

// unplug pulls the host's network cable.
func (h *host) unplug(t testing.TB) {
	t.Helper()
	ip(t, "-n", h.site.net, "link", "set", h.name, "down")
}

// mend undoes unplug and cutFromDesk.
func (h *host) mend(t testing.TB) {
	t.Helper()
	ip(t, "-n", h.site.net, "link", "set", h.name, "up")
	_ = exec.Command("ip", "-n", h.site.desk, "neighbour", "delete", h.addr, "dev", "eth0").Run() // there may be none
}

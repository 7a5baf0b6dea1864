package ssh

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// What a host is asked first: who we are there, what machine it is, and for a directory that is ours alone, may hold programs, and has NEED kB of room or the
// program already. All is plain sh and coreutils. NAME is the program's file name.
const probeScript = `LC_ALL=C; export LC_ALL; u=$(id -u) || exit 1;
say() { echo "requorum:$1 $2"; };
say uid "$u"; say os "$(uname -s)"; say arch "$(uname -m)";
if [ "$u" != 0 ] && [ SUDO = yes ]; then
  if e=$(sudo -n true 2>&1); then say sudo ok; else say sudo "$(echo "$e" | tail -n 1)"; fi;
fi;
for b in /var/tmp /tmp "$HOME"; do
  [ -d "$b" ] || continue;
  d=$b/requorum-$u; mkdir -m 700 "$d" 2>/dev/null;
  [ -d "$d" ] && [ ! -L "$d" ] && [ -O "$d" ] && chmod 700 "$d" || continue;
  f=$d/NAME; s=; if [ -f "$f" ]; then s=$(sha256sum <"$f" | cut -c1-64); fi;
  t=$d/try.$$; echo exit 0 >"$t" && chmod 700 "$t" && "$t"; r=$?; rm -f "$t";
  set -- $(df -Pk "$d" | tail -n 1); rmdir "$d" 2>/dev/null;
  [ $r = 0 ] || continue;
  if [ -z "$s" ] && [ "$4" -lt NEED ]; then continue; fi;
  say dir "$d"; say sum "$s";
  break;
done;
say end`

// How the program gets there: whole, checked, or not at all.
const bringScript = `umask 077; d=DIR; f=$d/NAME; mkdir -m 700 "$d" 2>/dev/null; [ -O "$d" ] || exit 1;
t=$f.part.$$; trap "rm -f $t" EXIT;
cat >"$t" && s=$(sha256sum <"$t" | cut -c1-64) || exit 1;
if [ "$s" != SUM ]; then echo "it arrived with sha256 $s" >&2; exit 1; fi;
chmod 700 "$t" && mv -f "$t" "$f"`

// sh wraps a script so that any login shell hands it to sh as it is: it has no single quote in it, and becomes one line, since csh takes no more.
func sh(script string) string {
	return "exec /bin/sh -c '" + strings.ReplaceAll(script, "\n", " ") + "'"
}

var plainPath = regexp.MustCompile(`^/[A-Za-z0-9/._+@-]+$`)

// A machine is what a host says of itself.
type machine struct {
	uid, os, arch, sudo, dir, sum string
}

// platform is the machine in Go's words.
func (m machine) platform() string {
	arch := map[string]string{"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64", "armv7l": "arm", "armv6l": "arm",
		"i686": "386", "i386": "386", "ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64"}[m.arch]
	return strings.ToLower(m.os) + "/" + first(arch, m.arch)
}

// A program is a requorum for one platform.
type program struct {
	path     string // what it is called here
	open     string // where its bytes are read
	platform string
	once     sync.Once
	sum      string
	size     int64
	err      error
}

// identify reads the program, once, and returns its sha256. Its size is known after that.
func (p *program) identify() (string, error) {
	p.once.Do(func() {
		f, err := os.Open(p.open)
		if err != nil {
			p.err = err
			return
		}
		defer f.Close()
		h := sha256.New()
		if p.size, p.err = io.Copy(h, f); p.err == nil {
			p.sum = hex.EncodeToString(h.Sum(nil))
		}
	})
	return p.sum, p.err
}

// programs are this one and those of other platforms: those that are named, then those that lie beside this one as requorum-linux-ARCH.
func (o Options) programs() ([]*program, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	own := &program{path: self, open: self, platform: runtime.GOOS + "/" + runtime.GOARCH}
	if runtime.GOOS == "linux" {
		own.open = "/proc/self/exe" // also when it was replaced meanwhile
	}
	all := []*program{own}
	for _, path := range o.Binaries {
		platform, err := platformOf(path)
		if err != nil {
			return nil, fmt.Errorf("the program %s for other hosts: %w", path, err)
		}
		all = append(all, &program{path: path, open: path, platform: platform})
	}
	beside, err := filepath.Glob(filepath.Join(filepath.Dir(self), "requorum-linux-*"))
	if err != nil {
		return nil, fmt.Errorf("look for programs for other hosts: %w", err)
	}
	for _, path := range beside {
		if platform, err := platformOf(path); err == nil && filepath.Base(path) == "requorum-"+strings.ReplaceAll(platform, "/", "-") && asTrusted(path, self) {
			all = append(all, &program{path: path, open: path, platform: platform})
		}
	}
	return all, nil
}

// asTrusted says whether a program that nobody named may be brought to hosts: it belongs to whom this one belongs to, and nobody else may write it. In
// a directory such as /tmp anybody may have put it.
func asTrusted(path, self string) bool {
	var other, own unix.Stat_t
	if unix.Lstat(path, &other) != nil || unix.Stat(self, &own) != nil {
		return false
	}
	return other.Uid == own.Uid && other.Mode&unix.S_IFMT == unix.S_IFREG && other.Mode&0o022 == 0
}

// platformOf reads what platform a program is for. Hosts run Linux: restores need its ways of exchanging directories and finding processes.
func platformOf(path string) (string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	arch, ok := map[elf.Machine]string{elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64", elf.EM_ARM: "arm", elf.EM_386: "386",
		elf.EM_PPC64: "ppc64le", elf.EM_S390: "s390x", elf.EM_RISCV: "riscv64"}[f.Machine]
	if !ok {
		return "", fmt.Errorf("it is for %s", f.Machine)
	}
	return "linux/" + arch, nil
}

// A delivery is the program on a host, ready to be run.
type delivery struct {
	dir, name string // of the program there
	from      string // what it is called here
	sudo      bool
}

// command runs an agent there.
func (d delivery) command(args string) string {
	c := d.dir + "/" + d.name + " host-agent " + args
	if d.sudo {
		c = "sudo -n -- " + c
	}
	return c
}

// lookWithin bounds the first command on a machine, which says little: start-up files of its shell may hang.
const lookWithin = time.Minute

// look asks a machine what it is, and whether we may do there what is needed with a program of that name and size.
func (h *Host) look(ctx context.Context, client *gossh.Client, name string, size int64) (machine, error) {
	sudo := "yes"
	if h.hosts.opt.NoSudo {
		sudo = "no"
	}
	need := size>>10 + 1
	ctx, cancel := context.WithTimeoutCause(ctx, lookWithin, fmt.Errorf("the login shell of user %s has not done what it was asked within %s: look at what its start-up files do", h.settings.user, lookWithin))
	defer cancel()
	out, err := output(ctx, client, sh(strings.NewReplacer("NAME", name, "SUDO", sudo, "NEED", strconv.FormatInt(need, 10)).Replace(probeScript)), nil)
	if err != nil {
		return machine{}, fmt.Errorf("look at host %s: %w", h.url, err)
	}
	found := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if rest, ok := strings.CutPrefix(line, "requorum:"); ok {
			key, value, _ := strings.Cut(strings.TrimSpace(rest), " ")
			found[key] = value
		}
	}
	m := machine{uid: found["uid"], os: found["os"], arch: found["arch"], sudo: found["sudo"], dir: found["dir"], sum: found["sum"]}
	if !plainPath.MatchString(m.dir) { // it becomes part of commands
		m.dir = ""
	}
	_, whole := found["end"]
	switch {
	case !whole:
		return m, fmt.Errorf("look at host %s: its shell answered %q: a host needs /bin/sh, id, uname and sha256sum", h.url, clip(out))
	case sudo == "yes" && m.uid != "0" && m.sudo != "ok":
		return m, fmt.Errorf("host %s: user %s may not become root by sudo without a password and a terminal (%s): log in as root, or allow it there with a line such as %q in /etc/sudoers.d%s, or, if etcd belongs to that user, set ssh.sudo to false",
			h.url, h.settings.user, m.sudo, h.settings.user+" ALL=(root) NOPASSWD: ALL", ttyLine(m.sudo, h.settings.user))
	case m.dir == "":
		return m, fmt.Errorf("host %s: none of /var/tmp, /tmp and the home directory of user %s may hold a program of %d MB: each is missing, full, mounted noexec, or has a requorum-%s of somebody else",
			h.url, h.settings.user, size/1e6+1, m.uid)
	}
	return m, nil
}

// ttyLine is what else sudo needs to be told where it asks for a terminal.
func ttyLine(complaint, user string) string {
	if !strings.Contains(complaint, "tty") {
		return ""
	}
	return fmt.Sprintf(" and another one, %q", "Defaults:"+user+" !requiretty")
}

// choose picks the program for a machine.
func (h *Host) choose(m machine) (*program, error) {
	var others []string
	for i, p := range h.hosts.programs {
		if p.platform == m.platform() {
			return p, nil
		}
		if i > 0 {
			others = append(others, fmt.Sprintf("%s is for %s", p.path, p.platform))
		}
	}
	if strings.ToLower(m.os) != "linux" {
		return nil, fmt.Errorf("host %s runs %s: members are restored on Linux", h.url, m.os)
	}
	also := ""
	if len(others) > 0 {
		also = " (" + strings.Join(others, ", ") + ")"
	}
	_, arch, _ := strings.Cut(m.platform(), "/")
	return nil, fmt.Errorf("host %s is %s and this requorum is for %s%s: get or build requorum %s for %[2]s (GOOS=linux GOARCH=%[6]s), and name its file in ssh.binaries, or put it beside this program as requorum-linux-%[6]s",
		h.url, m.platform(), h.hosts.programs[0].platform, also, h.hosts.opt.Version, arch)
}

// find looks at a machine and picks the program for it. d says where the program belongs; there says that it is there, whole.
func (h *Host) find(ctx context.Context, client *gossh.Client) (p *program, d delivery, there bool, err error) {
	// The name holds the sum, so what is there is either this very program or not looked at. For which platform is not known before the
	// machine was asked; its own comes first.
	for p = h.hosts.programs[0]; ; {
		sum, err := p.identify()
		if err != nil {
			return nil, d, false, fmt.Errorf("read the program %s: %w", p.path, err)
		}
		d.name = "requorum-" + sum[:16]
		m, err := h.look(ctx, client, d.name, p.size)
		if err != nil {
			return nil, d, false, err
		}
		right, err := h.choose(m)
		if err != nil {
			return nil, d, false, err
		}
		if right != p {
			p = right
			continue
		}
		d.from, d.dir, d.sudo = p.path, m.dir, m.uid != "0" && !h.hosts.opt.NoSudo
		return p, d, m.sum == sum, nil
	}
}

// deliver makes sure that the program is on the machine, whole.
func (h *Host) deliver(ctx context.Context, client *gossh.Client) (delivery, error) {
	p, d, there, err := h.find(ctx, client)
	if err == nil && !there {
		err = h.bring(ctx, client, p, d)
	}
	return d, err
}

func (h *Host) bring(ctx context.Context, client *gossh.Client, p *program, d delivery) error {
	f, err := os.Open(p.open)
	if err != nil {
		return fmt.Errorf("read the program %s: %w", p.path, err)
	}
	defer f.Close()
	h.hosts.opt.Log.Debug("bring the program", "host", h.url, "program", p.path, "to", d.dir)
	script := strings.NewReplacer("DIR", d.dir, "NAME", d.name, "SUM", p.sum).Replace(bringScript)
	if _, err := output(ctx, client, sh(script), f); err != nil {
		return &bringError{fmt.Errorf("bring this program to %s on host %s: %w", d.dir, h.url, err)}
	}
	return nil
}

// A bringError may be because somebody else's program, the last one there, was removed with the directory at that moment.
type bringError struct{ error }

func (e *bringError) Unwrap() error { return e.error }

// output runs a command and returns what it printed. What it complained about is in the error.
func output(ctx context.Context, client *gossh.Client, command string, in io.Reader) ([]byte, error) {
	session, err := client.NewSession()
	if err != nil {
		return nil, &LostError{Host: client.RemoteAddr().String(), Err: err}
	}
	defer session.Close()
	stop := context.AfterFunc(ctx, func() { _ = session.Close() })
	defer stop()
	var out, complaint bytes.Buffer
	session.Stdin, session.Stdout, session.Stderr = in, &out, &complaint
	err = session.Run(command)
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	var exit *gossh.ExitError
	switch {
	case errors.As(err, &exit):
		return nil, fmt.Errorf("it ended with code %d: %s", exit.ExitStatus(), clip(complaint.Bytes()))
	case err != nil:
		return nil, &LostError{Host: client.RemoteAddr().String(), Err: err}
	}
	return out.Bytes(), nil
}

// clip is the end of what a program printed, on one line.
func clip(b []byte) string {
	const most = 400
	b = bytes.TrimSpace(b)
	if len(b) > most {
		b = b[len(b)-most:]
	}
	return strings.Join(strings.Fields(string(b)), " ")
}

// greeted reads up to the agent's greeting, whatever a login shell prints before it.
func greeted(r *bufio.Reader) error {
	for read := 0; read < 64<<10; {
		line, err := r.ReadString('\n')
		read += len(line)
		if line == greeting {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return errors.New("it prints something else")
}

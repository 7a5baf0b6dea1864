package hosts

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// TestSingleFailures breaks one thing at a time, on one host, in the middle of a restore. Each ends with what stands on every host and with a command that leads on,
// which is typed as it was printed, once the thing is mended.
func TestSingleFailures(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3)
	h2, h3 := s.hosts[1], s.hosts[2]
	s.small(t, h2, 900<<20)
	d := s.newDesk(t, "desk1", s.hosts...)
	etcdtest.MustFill(t, s.found(t, s.hosts...), etcdtest.FillOptions{Keys: 800, ValueSize: 16 << 10, Random: true})
	d.run(t, "backup", "dcs").Exits(t, command.ExitOK)
	want := s.rows(t, s.hosts...)

	var undo func()
	script := h2.disk("srv", "etcd.sh")
	for _, c := range []struct {
		name  string
		step  string // when this is recorded everywhere it breaks; "": before the start
		harm  func(t *testing.T)
		says  []string // of the cause, and of where the others stand
		typed string   // the command that is typed then
	}{
		{"disk full while staging", "lock", func(t *testing.T) {
			filler := h2.disk("srv", "filler")
			fillUp(t, filler)
			undo = func() { os.Remove(filler) }
		}, []string{"h2", "no space left on device", "is as before the run"}, "restore dcs"},
		{"port taken by another process", "allow", func(t *testing.T) {
			h2.exec(t, "sh", "-c", `setsid perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(LocalAddr => "`+h2.addr+`:2380", Listen => 1, ReuseAddr => 1) or die; sleep 600' </dev/null >/dev/null 2>&1 & echo $! >/srv/thief.pid`)
			until(t, "another process to listen on h2's peer port", func() bool { return h2.listens(t, "2380") })
			undo = func() {
				h2.exec(t, "sh", "-c", "kill $(cat /srv/thief.pid)")
				until(t, "h2's peer port to be free", func() bool { return !h2.listens(t, "2380") })
			}
		}, []string{"h2", "(perl)", "etcd does not run, but process"}, "restore dcs"},
		{"etcd does not start", "stop", func(t *testing.T) {
			text, err := os.ReadFile(script)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(script, []byte(strings.ReplaceAll(string(text), "--logger zap", "--no-such-flag")), 0o755); err != nil {
				t.Fatal(err)
			}
			undo = func() {
				if err := os.WriteFile(script, text, 0o755); err != nil {
					t.Error(err)
				}
			}
		}, []string{"h2: its etcd was started on ssh://root@" + h2.addr + ", and has ended again", "is the new one"}, "restore dcs"},
		{"a host loses its power between the barriers", "stop", func(t *testing.T) {
			h3.off(t)
			undo = func() { h3.on(t) }
		}, []string{"h3 on ssh://root@" + h3.addr + ": unknown", "--without h3"}, "rollback dcs"},
	} {
		t.Run(c.name, func(t *testing.T) {
			etcdtest.Put(t, s.client(t, s.hosts...), "/later", c.name)
			late := s.rows(t, s.hosts...)
			r, point := d.haltAfter(t, c.step, "restore", "dcs", "--yes", "--from", "store", "--replace-healthy", "dcs")
			c.harm(t)
			point.Release()
			out := r.Wait(t).Exits(t, command.ExitError, append([]string{"stopped at", "next: "}, c.says...)...)
			t.Log(out)
			s.whole(t)
			undo()
			d.run(t, append(printed(t, out, c.typed), "--yes")...).Exits(t, command.ExitOK)
			if strings.HasPrefix(c.typed, "rollback") {
				etcdtest.MustEqual(t, late, s.rows(t, s.hosts...))
			} else {
				etcdtest.MustEqual(t, want, s.rows(t, s.hosts...))
			}
			s.settled(t)
		})
	}
}

// listens says whether a process listens on the host's port.
func (h *host) listens(t testing.TB, port string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := dialFrom(ctx, h.ns, net.JoinHostPort(h.addr, port))
	if err == nil {
		conn.Close()
	}
	return err == nil
}

// small gives a host a disk of its own with so many bytes.
func (s *site) small(t testing.TB, h *host, size int) {
	t.Helper()
	h.off(t)
	dir := h.disk("srv")
	must(t, "mount", "-t", "tmpfs", "-o", "mode=755,size="+strconv.Itoa(size), "tmpfs", dir)
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	h.furnish(t)
	h.on(t)
}

// fillUp makes a file that leaves less of its file system than a write-ahead log takes.
func fillUp(t testing.TB, path string) {
	t.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(filepath.Dir(path), &st); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Fallocate(int(f.Fd()), 0, 0, int64(st.Bavail)*st.Bsize-(24<<20)); err != nil {
		t.Fatal(err)
	}
}

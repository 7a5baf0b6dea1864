package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// A backup that is told to stop does so at once, says which signal it was, and leaves nothing: nothing in the spool, no object and no
// unfinished upload in the store.
func TestSignalsDuringBackup(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		signal syscall.Signal
		code   int
		s3     bool
	}{{syscall.SIGINT, command.ExitInterrupt, true}, {syscall.SIGTERM, command.ExitTerminate, false}} {
		t.Run(c.signal.String(), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, siteOptions{etcd: etcdtest.Options{Members: 1}, s3: c.s3})
			s.fill(4000, 5000)
			slow := etcdtest.NewProxy(t, strings.TrimPrefix(s.endpoints[0], "http://"))
			if c.s3 {
				slow = etcdtest.NewProxy(t, s.s3.Addr)
				s.throughS3("http://" + slow.Addr())
				slow.Set(etcdtest.Fault{UpRate: 2 << 20})
			} else { // a slow stream keeps the object in the directory unfinished
				s.endpoints = []string{"http://" + slow.Addr()}
				slow.Set(etcdtest.Fault{DownRate: 2 << 20})
			}
			s.configure()
			backup := s.start("backup", "dcs")
			until(t, "the upload to be under way", func() bool {
				up, down := slow.Bytes()
				return up+down > 4<<20
			})
			slow.Set(etcdtest.Fault{UpRate: 64 << 10, DownRate: 64 << 10}) // so that it cannot end by itself before it is told to
			told := time.Now()
			backup.Signal(t, c.signal)
			backup.Wait(t).Exits(t, c.code, "stopped by")
			if took := time.Since(told); took > time.Minute {
				t.Errorf("it took %v to stop", took)
			}
			slow.Set(etcdtest.Fault{})
			s.nothingLeft()
			s.backup() // and nothing is in the way of the next one
		})
	}
}

// written lists what in the spool has bytes in it. A spool has a name for the instant before its first byte, in which its process may be killed.
func (s *site) written() (found []string) {
	s.t.Helper()
	err := filepath.WalkDir(s.spool, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if info, err := d.Info(); err != nil || info.Size() > 0 {
			found = append(found, path)
		}
		return nil
	})
	if err != nil && !os.IsNotExist(err) {
		s.t.Fatal(err)
	}
	return found
}

// nothingLeft fails the test if a backup that did not succeed has left something.
func (s *site) nothingLeft() {
	s.t.Helper()
	if found := s.snapshots(); len(found) > 0 {
		s.t.Errorf("the store holds %q", found)
	}
	if found := s.spooled(); len(found) > 0 {
		s.t.Errorf("the spool holds %q", found)
	}
	if all := s.list(); len(all) > 0 {
		s.t.Errorf("list shows %+v", all)
	}
}

// Killed at any moment, a backup is there whole or not at all, nothing of the database stays in the spool, and what the killed runs left in
// the store is swept once it is old enough.
func TestKilledBackup(t *testing.T) {
	t.Parallel()
	for _, s3 := range []bool{false, true} {
		t.Run(map[bool]string{false: "directory", true: "s3"}[s3], func(t *testing.T) {
			t.Parallel()
			s := newSite(t, siteOptions{etcd: etcdtest.Options{Members: 1}, s3: s3})
			s.sweepAfter = "1s"
			s.configure()
			s.fill(4000, 5000)
			begun := time.Now()
			s.backup()
			took := time.Since(begun)
			left := 0
			for i := range 8 {
				// Spread over the whole run, and a little at random.
				at := took*time.Duration(i+1)/9 + rand.N(took/9)
				backup := s.start("backup", "dcs")
				time.Sleep(at) // the moment is what is tested
				backup.Signal(t, syscall.SIGKILL)
				backup.Wait(t)
				if found := s.written(); len(found) > 0 {
					t.Errorf("killed after %v, it left %q in the spool", at, found)
				}
				left = max(left, len(s.snapshots()))
			}
			s.run("expire", "dcs", "--dry-run").Exits(t, command.ExitOK)
			before := s.list()
			var all []listed
			// A store's clock may count whole seconds only, and what a killed run had asked of a server may still come about.
			until(t, "expire to sweep what is old enough, and only backups to be left, all of them listed", func() bool {
				s.run("expire", "dcs").Exits(t, command.ExitOK)
				all = s.list()
				whole, stray := 0, 0
				for _, key := range s.snapshots() {
					switch {
					case strings.HasPrefix(key, "upload of "), !slices.ContainsFunc(all, func(l listed) bool { return strings.Contains(key, l.ID) }):
						stray++
					case strings.HasSuffix(key, "manifest.json"):
						whole++
					}
				}
				return stray == 0 && whole == len(all)
			})
			t.Logf("%d backups survived, up to %d objects stood there", len(all), left)
			for _, l := range before {
				if !slices.ContainsFunc(all, func(a listed) bool { return a.ID == l.ID }) {
					t.Errorf("backup %s was swept: %+v are left", l.ID, all)
				}
			}
			if len(before) == 0 {
				t.Error("no backup is listed")
			}
			s.run("verify", "dcs", "--all").Exits(t, command.ExitOK)
		})
	}
}

// A store that refuses, is slow, or cuts every upload off half-way: a slow one gets its backup, the others a message that names the
// store, and nothing becomes visible.
func TestFaultyStore(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{etcd: etcdtest.Options{Members: 1}, s3: true})
	s.fill(2000, 5000)
	proxy := etcdtest.NewProxy(t, s.s3.Addr)
	s.throughS3("http://" + proxy.Addr())
	s.configure()
	for _, fault := range []etcdtest.Fault{{Refuse: true}, {CutUp: 1 << 20}} {
		proxy.Set(fault)
		s.run("backup", "dcs").Exits(t, command.ExitError, s.bucket)
		proxy.Set(etcdtest.Fault{})
		s.nothingLeft()
	}
	proxy.Set(etcdtest.Fault{UpRate: 2 << 20, Delay: 5 * time.Millisecond})
	s.backup()
	proxy.Set(etcdtest.Fault{CutDown: 1 << 20})
	s.run("verify", "dcs").Exits(t, command.ExitOK) // a cut download goes on from where it was
	if all := s.list(); len(all) != 1 || all[0].Failed {
		t.Errorf("a cut connection is no verdict on the backup: %+v", all)
	}
}

// A full disk is told as what it is, with the directory's name, and nothing is left on it.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{etcd: etcdtest.Options{Members: 1}})
	s.fill(2000, 5000)
	small := filepath.Join(s.dir, "small")
	if err := os.Mkdir(small, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("a small disk cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(small, 0); err != nil {
			t.Errorf("unmount %s: %v", small, err)
		}
	})
	s.spool = filepath.Join(small, "spool")
	s.configure()
	s.run("backup", "dcs").Exits(t, command.ExitError, s.spool, "free")
	s.nothingLeft()

	s.spool = filepath.Join(s.dir, "spool")
	store := s.store
	s.store = fmt.Sprintf("{file: {path: %s}}", small)
	s.configure()
	s.run("backup", "dcs").Exits(t, command.ExitError, small, "no space left")
	if found, _ := filepath.Glob(small + "/dcs/snapshots/*/*/*"); len(found) > 0 {
		t.Errorf("the full store holds %q", found)
	}
	s.store = store
	s.configure()
	s.backup()
}

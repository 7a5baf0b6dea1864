package hosts

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// BenchmarkHosts restores three hosts that lost everything, once by requorum and once by hand: the snapshot copied to all of them at once
// by scp, etcdutl snapshot restore on all of them at once, and etcd started. What is timed is the time until every member serves; requorum has
// by then also checked the backup, started it for trial, compared the hash of every member and written a key. The databases are those of
// e2e/bench.
func BenchmarkHosts(b *testing.B) {
	for _, mb := range []string{"300", "1500"} {
		for _, megabits := range []int{0, 1000} {
			name := mb + "MB"
			if megabits > 0 {
				name += fmt.Sprintf("-%dMbit", megabits)
			}
			b.Run(name, func(b *testing.B) { compareHosts(b, mb, megabits) })
		}
	}
}

func compareHosts(b *testing.B, mb string, megabits int) {
	cache, err := etcdtest.CacheDir()
	if err != nil {
		b.Fatal(err)
	}
	db := filepath.Join(cache, "bench", "v2-"+mb+"MB-of-2000B", "data", "member", "snap", "db")
	if _, err := os.Stat(db); err != nil {
		b.Skipf("there is no %s: run the benchmarks of e2e/bench first, which make it", db)
	}
	s := newSite(b, 3)
	d := s.newDesk(b, "desk1", s.hosts...)
	d.more = "    target_version: " + etcdtest.Latest
	d.configure(b)
	for _, h := range s.hosts {
		h.install(b, etcdtest.Latest, s.hosts)
		if megabits > 0 {
			h.slow(b, megabits)
		}
	}
	d.run(b, "import", "dcs", db).Exits(b, command.ExitOK)
	id := firstBackup(b, d)
	snapshot := filepath.Join(d.dir, "snapshot")
	d.run(b, "export", "dcs", id, "-f", snapshot).Exits(b, command.ExitOK)
	fresh := func() {
		for _, h := range s.hosts {
			h.off(b)
			h.on(b)
			h.wipe(b)
			h.exec(b, "rm", "-f", "/srv/snapshot")
		}
	}
	var hand, ours, healthy float64
	for b.Loop() {
		fresh()
		begun := time.Now()
		s.byHand(b, d, snapshot)
		hand += time.Since(begun).Seconds()

		fresh()
		begun = time.Now()
		var r struct {
			HealthySeconds float64 `json:"healthy_seconds"`
			Stages         []struct {
				Name    string
				Seconds float64
			}
		}
		d.run(b, "-o", "json", "restore", "dcs", "--yes", "--at", id).Exits(b, command.ExitOK).Decode(b, &r)
		ours += time.Since(begun).Seconds()
		healthy += r.HealthySeconds
		b.Logf("stages %+v", r.Stages)
	}
	n := float64(b.N)
	b.ReportMetric(hand/n, "by-hand-s")
	b.ReportMetric(healthy/n, "requorum-proven-s")
	b.ReportMetric(ours/n, "requorum-ended-s")
	b.ReportMetric(healthy/hand, "ratio")
	b.ReportMetric(0, "ns/op")
}

// byHand does what a runbook without requorum says, as fast as a script can.
func (s *site) byHand(b *testing.B, d *desk, snapshot string) {
	b.Helper()
	etcdutl := etcdtest.Binary(b, "etcdutl", etcdtest.Latest)
	var initial []string
	for _, h := range s.hosts {
		initial = append(initial, h.name+"="+h.peerURL())
	}
	ssh := []string{"-q", "-i", filepath.Join(d.dir, ".ssh", "id_ed25519"), "-o", "UserKnownHostsFile=" + filepath.Join(d.dir, ".ssh", "known_hosts"), "-o", "BatchMode=yes"}
	at := func(program string, args ...string) error {
		all := append([]string{"netns", "exec", s.desk, program}, append(ssh, args...)...)
		if out, err := exec.CommandContext(b.Context(), "ip", all...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s %v: %w: %s", program, args, err, out)
		}
		return nil
	}
	var group errgroup.Group
	for _, h := range s.hosts {
		group.Go(func() error {
			if err := at("scp", snapshot, "root@"+h.addr+":/srv/snapshot"); err != nil {
				return err
			}
			return at("ssh", "root@"+h.addr, etcdutl+" snapshot restore /srv/snapshot --data-dir "+dataDir+" --name "+h.name+" --initial-cluster "+strings.Join(initial, ",")+
				" --initial-cluster-token new --initial-advertise-peer-urls "+h.peerURL())
		})
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
	for _, h := range s.hosts {
		if err := at("ssh", "root@"+h.addr, "/srv/etcd.sh start"); err != nil {
			b.Fatal(err)
		}
	}
	s.serves(b, s.client(b, s.hosts...))
}

package bench

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/requorum/requorum/drills"
	"github.com/requorum/requorum/internal/etcdtest"
)

// BenchmarkDrill measures what a drill in a sandbox of three members finds of the RTO, and how long the whole of it takes: after the restore it
// reads the backup once more, starts etcd on it, and compares every key by value.
func BenchmarkDrill(b *testing.B) {
	s := readSettings(b)
	for _, d := range []database{{s.of(0.3e9), 2000}, {s.of(1.5e9), 2000}} {
		b.Run(d.String(), func(b *testing.B) {
			to := newBucket(b)
			dir := workDir(b)
			holds := d.store(b, to, filepath.Join(dir, "snapshot.zst"))
			servers := etcdtest.StartCluster(b, etcdtest.Options{Members: 3, Dir: filepath.Join(dir, "cluster"), QuotaBytes: quota, NotStarted: true})
			config := to.configure(b, servers, dir)
			var rto, healthy, whole, cpu series
			steps := map[string]series{}
			var order []string
			before := load()
			for range s.pairs {
				settle(b)
				t := newTask(b, requorum(b), "-c", config, "-q", "-o", "json", "drill", "dcs")
				t.Env = append(os.Environ(), to.server.Environ()...)
				e := t.run(b)
				var r drills.Report
				if err := json.Unmarshal(e.stdout, &r); err != nil || !r.OK {
					b.Fatalf("the drill is not proven: %v\n%s", err, e.stdout)
				}
				rto, healthy, whole, cpu = append(rto, r.RTOSeconds), append(healthy, r.HealthySeconds), append(whole, e.seconds), append(cpu, e.cpu)
				for _, step := range r.Steps {
					if steps[step.Name] == nil {
						order = append(order, step.Name)
					}
					steps[step.Name] = append(steps[step.Name], step.Seconds)
				}
			}
			say("drill of %v with three members on this machine: %v, load %s before", d, holds, before)
			say("  %-26s %s", "RTO", rto.text("s"))
			say("  %-26s %s", "etcd proven", healthy.text("s"))
			say("  %-26s %s", "the whole command", whole.text("s"))
			say("  %-26s %s", "its processor time", cpu.text("s"))
			for _, name := range order {
				if steps[name].median() >= 0.05 {
					say("    %-24s %s", name, steps[name].text("s"))
				}
			}
			b.ReportMetric(rto.median(), "s-rto")
			b.ReportMetric(whole.median(), "s-whole")
			b.ReportMetric(0, "ns/op")
		})
	}
}

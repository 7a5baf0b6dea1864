package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/drills"
	"github.com/requorum/requorum/restore"
)

// pageReports are reports of every kind, with texts as long and as strange as they come.
func pageReports() map[string]drills.Report {
	begun := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	step := func(name string, at, took float64, ok, restored bool, evidence ...string) drills.Step {
		return drills.Step{Name: name, Does: "what the step " + name + " does, for a person", OK: ok, Started: begun.Add(time.Duration(at * float64(time.Second))), Seconds: took, Evidence: evidence, Restore: restored}
	}
	hash := strings.Repeat("0123456789abcdef", 4)
	proven := drills.Report{Format: drills.Format, ID: "d4t7k2m9q0xv", Cluster: "payments-eu-central-1", Kind: drills.Sandbox, OK: true, Outcome: drills.Proven, Started: begun, Ended: begun.Add(41 * time.Second), Seconds: 41,
		Source: drills.Source{ID: "bw3p7e7ggvd4", Line: "l8c2h5n1r7ts", Revision: 1_482_190_331, Time: begun.Add(-23 * time.Minute), Stores: []string{"main", "offsite"}, Bytes: 1_512_000_000, Keys: 412_889, Encrypted: true,
			SHA256: hash, HashKV: "51db1484", Etcd: "3.5.35", Verified: begun.Add(-6 * time.Hour)},
		RPOSeconds: 23 * 60, RPOBasis: "the age of the backup when the drill began", RTOSeconds: 28.4, HealthySeconds: 27.9,
		Objectives: []drills.Objective{{Name: "rpo", Asked: 5400, Measured: 1380, Met: true, Judged: true}, {Name: "rto", Asked: 300, Measured: 28.4, Met: true, Judged: true},
			{Name: "drill_age", Asked: 8_640_000, Measured: 7_948_800, Met: true, Judged: true, Detail: "since the drill before this one; this one mends it"}},
		Steps: []drills.Step{step("source", 0, 0.2, true, false, "backup bw3p7e7ggvd4"), step("sandbox", 0.2, 0.01, true, false), step("checks", 0.3, 1.4, true, true), step("fetch", 1.7, 9.6, true, true, "1512000000 bytes, sha256 "+hash),
			step("check", 11.3, 4.1, true, true, "HashKV 51db1484"), step("edit", 15.4, 0.6, true, true, "31 ghosts removed below /service/"), step("predict", 16, 3.2, true, true), step("stage", 19.2, 5.8, true, true),
			step("start", 25, 1.9, true, true), step("prove", 26.9, 1, true, true, "health: ok", "content: ok"), step("agents", 27.9, 0.5, true, true), step("failover", 28.4, 2.6, true, false), step("untouched", 31, 7, true, false), step("content", 38, 2, true, false), step("teardown", 40, 1, true, false)},
		Agents: []agents.Verdict{{Name: "patroni /service/main", Verdict: drills.ProbesRegister, OK: true, Checks: []agents.Check{{Name: "free", OK: true, Detail: "no registration of the past is there; looked for 4 keys", Seconds: 0.1},
			{Name: "taken once", OK: true, Detail: "two contenders raced for /service/main/leader, 1 of them got it", Seconds: 0.2}}}},
		Members: []drills.Member{{Name: "etcd1", Healthy: true, Revision: 2_482_190_331, Hash: "f5a86e60"}, {Name: "etcd2", Healthy: true, Leader: true, Revision: 2_482_190_331, Hash: "f5a86e60"}, {Name: "etcd3", Healthy: true, Revision: 2_482_190_331, Hash: "f5a86e60"}},
		Content: &drills.Content{Compared: 412_889, Removed: 31, Prefixes: []drills.PrefixCount{{Prefix: "/registry/configmaps/", Backup: 12_004, Restored: 12_004}, {Prefix: "/registry/" + strings.Repeat("customresourcedefinitions.example.com", 3) + "/", Backup: 400_000, Restored: 400_000}, {Prefix: "/service/main/", Backup: 40, Restored: 9}},
			Leases: 3, Auth: true, Users: 4, Roles: 6},
		Questions: []agents.Refusal{{What: "Patroni scope /service/main: synchronous mode is on, and sync names a, b as of the backup", Risk: "kept, only the nodes it names may be promoted; removed, any node may be promoted", Flag: "--patroni-sync remove or --patroni-sync keep"}},
		Restore:   &restore.Report{Run: "r0123456789a", TargetRevision: 2_482_190_331, ClusterID: "789ec0e8c980e462"},
		Compared:  &drills.Comparison{Endpoint: "https://10.0.0.3:2379", Revision: 1_482_201_004, Behind: 10_673, Keys: 412_911, Restored: 412_858, Hash: "equal", Why: "51db1484 at revision 1482190331, compacted at 1482100000"},
		Settings:  drills.Settings{SHA256: hash, Program: "/usr/local/bin/etcd", Quota: 8 << 30, Members: "as configured"}, By: drills.Starter{User: "requorum", Host: "backup-1.example.com", How: "schedule"},
		Versions: drills.Versions{Requorum: "1.4.0", Commit: hash[:40], Etcd: "3.5.35", Platform: "linux/amd64"}, SignedBy: "ed25519:Xin5oh8sonC6X5k/SIm2N8bALmv/QZQDHOu7uHkQ52U=",
	}
	for i := range 9 {
		p := drills.Past{ID: fmt.Sprintf("d%011d", i), Started: begun.AddDate(0, 3*(i-9), 0), Kind: drills.Sandbox, Outcome: drills.Proven, RPOSeconds: 600 + float64(i*137%900), RTOSeconds: 14 + float64(i)*1.5, Bytes: 1_000_000_000}
		if i == 4 {
			p.Outcome, p.Failed, p.RTOSeconds = drills.Failed, "fetch", 0
		}
		proven.Trend = append(proven.Trend, p)
	}
	missed := proven
	missed.OK, missed.Outcome, missed.RTOSeconds = false, drills.Missed, 412
	missed.Objectives = []drills.Objective{{Name: "rto", Asked: 300, Measured: 412, Judged: true}, {Name: "rpo", Asked: 5400, Measured: 1380, Judged: true, Met: true}}
	missed.Failure = &drills.Failure{Step: "objective", Expected: "every objective met", Found: "RTO is 6m52s, asked for is 5m", Try: "see which step takes longest", Code: 3}
	failed := proven
	failed.OK, failed.Outcome, failed.RTOSeconds, failed.HealthySeconds = false, drills.Failed, 0, 0
	failed.Members, failed.Agents, failed.Content, failed.Compared, failed.Questions, failed.SignedBy, failed.Restore = nil, nil, nil, nil, nil, "", nil
	failed.Steps = []drills.Step{step("source", 0, 0.2, true, false), step("checks", 0.3, 1.4, true, true), step("fetch", 1.7, 39.3, false, true, "verification failed: store main: "+hash+hash+": <script>alert(1)</script>")}
	failed.Failure = &drills.Failure{Step: "fetch", Expected: "stored bytes with the size and sha256 of the manifest", Found: "store main: snapshots/" + hash + hash + "/db.zst.age: 1048576 bytes, not 1512000000 <script>alert(1)</script>", Try: "requorum verify payments-eu-central-1", Code: 13}
	nothing := drills.Report{Format: drills.Format, ID: "d4t7k2m9q0xw", Cluster: "new", Kind: drills.Sandbox, Outcome: drills.Failed, Started: begun, Ended: begun, Steps: []drills.Step{step("source", 0, 0, false, false, "nothing to restore from")},
		Failure: &drills.Failure{Step: "source", Expected: "a backup", Found: "nothing to restore from", Try: "requorum backup new", Code: 10}}
	live := proven
	live.Kind, live.Notes, live.Content = drills.Live, []string{"the old data dirs are kept; back to them: requorum -c /etc/requorum/requorum.yaml rollback staging r0123456789a"}, nil
	return map[string]drills.Report{"proven": proven, "missed": missed, "failed": failed, "nothing": nothing, "live": live}
}

// A report of any outcome can be read on a phone and at a desk, in light and dark, without a network.
func TestDrillPage(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a browser")
	}
	b := newBrowser(t)
	for name, report := range pageReports() {
		page, err := report.Page()
		if err != nil {
			t.Fatal(err)
		}
		b.inspectPage(page, name)
		want := map[drills.Outcome]string{drills.Proven: "Restore proven", drills.Missed: "Restore proven, an objective was missed", drills.Failed: "Drill failed"}[report.Outcome]
		if got := ask[string](b, "document.querySelector('#verdict').innerText"); got != want {
			t.Errorf("%s: the verdict is %q, want %q", name, got, want)
		}
		if bars := ask[int](b, "document.querySelectorAll('#timeline svg').length"); bars != len(report.Steps) {
			t.Errorf("%s: the timeline has %d bars for %d steps", name, bars, len(report.Steps))
		}
		if report.Failure != nil && !strings.Contains(ask[string](b, "document.querySelector('#failure').innerText"), report.Failure.Found) {
			t.Errorf("%s: what was found is not shown", name)
		}
	}
}

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/requorum/requorum/drills"
	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
	"github.com/requorum/requorum/internal/etcdtest/halt"
)

// A drilled cluster is a site with agents' registrations in it, leased to somebody.
func newDrillSite(t *testing.T, o siteOptions) *site {
	t.Helper()
	s := newSite(t, o)
	s.fill(300, 500)
	c := s.Client(t)
	etcdtest.Lease(t, c, 50*time.Minute, "/service/main/leader", "/service/main/members/a", "/service/main/members/b", "/locks/one", "/locks/two")
	etcdtest.Put(t, c, "/service/main/config", `{"ttl":30}`)
	etcdtest.Put(t, c, "/service/main/initialize", "7000000000000000001")
	return s
}

const drillAgents = "    agents:\n      - patroni: {scope: main}\n      - leased: {prefix: /locks/, expect: [/locks/one, /locks/two]}\n"

// drill runs a drill and returns its report, which stdout must hold whatever the outcome is.
func (s *site) drill(code int, flags ...string) drills.Report {
	s.t.Helper()
	var r drills.Report
	s.run(slices.Concat([]string{"-o", "json", "drill", "dcs"}, flags)...).Exits(s.t, code).Decode(s.t, &r)
	return r
}

// reports are the files of reports in the directory store.
func (s *site) reports(kind string) []string {
	s.t.Helper()
	found, err := filepath.Glob(filepath.Join(s.storeDir(), "dcs", "drills", "*."+kind))
	if err != nil {
		s.t.Fatal(err)
	}
	return found
}

// sandboxes are the directories of drills, and the processes that work in them.
func (s *site) sandboxes() (dirs []string, processes []string) {
	s.t.Helper()
	dirs, err := filepath.Glob(filepath.Join(s.spool, "drill-*"))
	if err != nil {
		s.t.Fatal(err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, e := range entries {
		command, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err == nil && bytes.Contains(command, []byte(filepath.Join(s.spool, "drill-"))) {
			processes = append(processes, e.Name()+" "+strings.ReplaceAll(string(command), "\x00", " "))
		}
	}
	return dirs, processes
}

// tornDown fails the test if a drill left anything running or lying about.
func (s *site) tornDown() {
	s.t.Helper()
	if dirs, processes := s.sandboxes(); len(dirs)+len(processes) > 0 {
		s.t.Errorf("a drill left %q and %q", dirs, processes)
	}
}

// A drill rebuilds the cluster beside the running one, which notices nothing; its report says what was proven, is signed, and can be read.
func TestDrill(t *testing.T) {
	t.Parallel()
	s := newDrillSite(t, siteOptions{})
	s.run("keygen", "--signing", "-f", "drills.key").Exits(t, command.ExitOK, "ed25519:")
	s.cluster = drillAgents + "    objectives: {rpo: 1h, rto: 10m, drill_age: 100d}\n    drill_signing_key_file: drills.key\n    schedules: {snapshot: '@every 30m', drill: '@every 2160h'}\n"
	s.configure()
	taken := s.backup()
	before, rows := etcdtest.Revision(t, s.Client(t)), s.rows()

	s.run("drill", "dcs", "--dry-run").Exits(t, command.ExitOK, taken.ID)
	if found := s.reports("*"); len(found) > 0 {
		t.Fatalf("a dry run left %q", found)
	}
	r := s.drill(command.ExitOK)
	if !r.OK || r.Outcome != drills.Proven || r.Source.ID != taken.ID || r.Failure != nil || r.Kind != drills.Sandbox {
		t.Fatalf("the drill: %+v", r)
	}
	if now := etcdtest.Revision(t, s.Client(t)); now != before {
		t.Errorf("a drill wrote to the running cluster: revision %d, was %d", now, before)
	}
	etcdtest.MustEqual(t, rows, s.rows())
	s.tornDown()
	s.marked(taken.ID, r.ID, true, "")
	for _, step := range []string{"source", "sandbox", "checks", "fetch", "check", "edit", "predict", "stage", "start", "prove", "agents", "failover", "untouched", "content", "access", "leases", "teardown", "objective"} {
		if found := r.Step(step); found == nil || !found.OK || found.Started.IsZero() || step != "checks" && step != "start" && len(found.Evidence) == 0 {
			t.Errorf("step %s: %+v", step, found)
		}
	}
	if len(r.Members) != 3 || r.Members[0].Hash == "unknown" || !r.Members[2].Healthy {
		t.Errorf("members: %+v", r.Members)
	}
	if c := r.Content; c == nil || c.Compared != taken.Keys || c.Removed != 5 || c.Different != 0 || len(c.Prefixes) < 3 {
		t.Errorf("%d keys were to be compared, 5 of them registrations: %+v", taken.Keys, c)
	}
	if len(r.Agents) != 2 || r.Agents[0].Verdict != drills.ProbesRegister || r.Agents[1].Verdict != drills.ProbesRegister || r.Answers["patroni /service/main"] < 1 {
		t.Errorf("agents: %+v, failover after %v", r.Agents, r.Answers)
	}
	if r.RTOSeconds <= 0 || r.RTOSeconds < r.HealthySeconds || r.RPOSeconds <= 0 || len(r.Objectives) != 3 || !r.Objectives[0].Met || !r.Objectives[1].Met {
		t.Errorf("rto %v, healthy after %v, rpo %v: %+v", r.RTOSeconds, r.HealthySeconds, r.RPOSeconds, r.Objectives)
	}

	again := s.drill(command.ExitOK, "--compare", "--html", "page.html")
	if c := again.Compared; c == nil || c.Hash != "equal" || c.Behind != 0 || c.Restored != c.Keys-5 {
		t.Errorf("beside the running cluster: %+v", again.Compared)
	}
	if len(again.Trend) != 1 || again.Trend[0].ID != r.ID {
		t.Errorf("the trend: %+v", again.Trend)
	}
	var past []struct {
		Drills []drills.Past
		Due    time.Time
		Next   time.Time
	}
	s.run("-o", "json", "drills").Exits(t, command.ExitOK).Decode(t, &past)
	if len(past) != 1 || len(past[0].Drills) != 2 || past[0].Drills[1].ID != again.ID || !past[0].Due.Equal(again.Started.Add(100*24*time.Hour)) || !past[0].Next.After(again.Started) {
		t.Errorf("past drills: %+v", past)
	}
	s.run("drills", "dcs").Exits(t, command.ExitOK, r.ID, again.ID, "serve runs the next at")
	if checked := s.run("check", "dcs"); strings.Contains(checked.Stdout, "rehearsed") {
		t.Errorf("check misses a drill:\n%s", checked)
	}
	s.run("schedules").Exits(t, command.ExitOK, "drill")
	if t.Run("browser", func(t *testing.T) {
		b := newBrowser(t)
		page := s.reports("html")[1]
		b.inspect(page, "drill")
		if text := ask[string](b, "document.body.innerText"); !strings.Contains(text, "Restore proven") || !strings.Contains(text, again.ID) || !strings.Contains(text, taken.ID) || !strings.Contains(text, "Signed by ed25519:") {
			t.Errorf("the page says\n%s", text)
		}
		if bars := ask[int](b, "document.querySelectorAll('#timeline svg').length"); bars != len(again.Steps) {
			t.Errorf("%d bars for %d steps", bars, len(again.Steps))
		}
		if columns := ask[int](b, "document.querySelectorAll('#trend .chart:first-child rect').length"); columns != 2 {
			t.Errorf("the trend has %d columns for 2 drills", columns)
		}
	}); t.Failed() {
		return
	}
	s.signatures(again)
}

// signatures shows that a report cannot be changed, nor lose its signature, unseen.
func (s *site) signatures(newest drills.Report) {
	t := s.t
	t.Helper()
	s.run("drills", "verify").Exits(t, command.ExitOK, newest.ID, "signed by ed25519:")
	s.run("drills", "export", "dcs", newest.ID[:6], "-d", s.dir).Exits(t, command.ExitOK)
	file := filepath.Join(s.dir, strings.TrimSuffix(filepath.Base(newest.Report), ".html"))
	s.run("drills", "verify", "--file", file+".json", "--public-key", "drills.key.pub").Exits(t, command.ExitOK, "signed by")
	if _, err := os.Stat("/usr/bin/openssl"); err == nil {
		tool(t, "openssl", "pkeyutl", "-verify", "-pubin", "-inkey", filepath.Join(s.dir, "drills.key.pub"), "-rawin", "-in", file+".json", "-sigfile", file+".sig")
	}
	stored := func(kind string) string { return s.reports(kind)[1] }
	for _, c := range []struct {
		name, kind string
		change     func([]byte) []byte
		code       int
		words      string
	}{
		{"another number", "json", func(b []byte) []byte {
			return bytes.Replace(b, []byte(`"outcome": "ok"`), []byte(`"outcome": "no"`), 1)
		}, command.ExitVerify, "the signature does not fit"},
		{"another page", "html", func(b []byte) []byte {
			return bytes.Replace(b, []byte("Restore proven"), []byte("Restore PROVEN"), 1)
		}, command.ExitVerify, "the page is not the one"},
		{"another signature", "sig", func(b []byte) []byte { return make([]byte, len(b)) }, command.ExitVerify, "the signature does not fit"},
		{"no signature", "sig", nil, command.ExitVerify, "its signature is missing"},
		{"no page", "html", nil, command.ExitVerify, "the page"},
	} {
		whole := read(t, stored(c.kind))
		path := stored(c.kind)
		if c.change == nil {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		} else {
			write(t, path, c.change(bytes.Clone(whole)))
		}
		s.run("drills", "verify", "dcs", newest.ID).Exits(t, c.code, newest.ID, c.words)
		write(t, path, whole)
	}
	s.run("keygen", "--signing", "-f", "other.key").Exits(t, command.ExitOK)
	s.run("drills", "verify", "--public-key", "other.key.pub").Exits(t, command.ExitVerify, "the signature does not fit")
	s.run("drills", "verify").Exits(t, command.ExitOK)
}

// Whatever is wrong with a backup, the drill says at which step it came to light, ends with the code of its kind, and keeps the report.
func TestDrillOfDamagedBackups(t *testing.T) {
	t.Parallel()
	s := newDrillSite(t, siteOptions{etcd: etcdtest.Options{Members: 1}})
	s.cluster = drillAgents
	s.configure()
	if r := s.drill(command.ExitNothing); r.OK || r.Failure == nil || r.Failure.Step != "source" || len(s.reports("json")) != 1 || len(s.reports("html")) != 1 {
		t.Errorf("without a backup: %+v", r.Failure)
	}
	b := s.backup()
	data := filepath.Join(s.storeDir(), "dcs", b.Data.Key)
	found, err := filepath.Glob(filepath.Join(s.storeDir(), "dcs", "snapshots", "*", "*", "manifest.json"))
	if err != nil || len(found) != 1 {
		t.Fatalf("manifests: %q, %v", found, err)
	}
	s.marked(b.ID, "", true, "")
	last, passed, why := "", true, "" // the last drill that came to a verdict about the backup
	for _, c := range []struct {
		name, step, words string
		code              int
		damage            func() (undo func())
	}{
		{"truncated", "fetch", "bytes", command.ExitVerify, func() func() {
			whole := read(t, data)
			write(t, data, whole[:len(whole)/2])
			return func() { write(t, data, whole) }
		}},
		{"wrong key", "fetch", "decrypt", command.ExitDecrypt, func() func() {
			path := filepath.Join(s.dir, "age.key")
			whole := read(t, path)
			s.run("keygen", "-f", "wrong.key").Exits(t, command.ExitOK)
			write(t, path, read(t, filepath.Join(s.dir, "wrong.key")))
			return func() { write(t, path, whole) }
		}},
		{"hash mismatch", "check", "HashKV", command.ExitVerify, func() func() {
			whole := read(t, found[0])
			var m map[string]any
			d := json.NewDecoder(bytes.NewReader(whole))
			d.UseNumber()
			if err := d.Decode(&m); err != nil {
				t.Fatal(err)
			}
			m["hash_kv"].(map[string]any)["hash"] = 1
			changed, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			write(t, found[0], changed)
			return func() { write(t, found[0], whole) }
		}},
		{"quota too small", "source", "NOSPACE", command.ExitError, func() func() {
			s.cluster = drillAgents + "    thresholds: {quota: 10kB}\n"
			s.configure()
			return func() { s.cluster = drillAgents; s.configure() }
		}},
		{"objective missed", "objective", "RTO is", command.ExitPartly, func() func() {
			s.cluster = drillAgents + "    objectives: {rto: 1ms}\n"
			s.configure()
			return func() { s.cluster = drillAgents; s.configure() }
		}},
	} {
		undo := c.damage()
		before := len(s.reports("json"))
		r := s.drill(c.code)
		f := r.Failure
		if r.OK || f == nil || f.Step != c.step || !strings.Contains(f.Found, c.words) || f.Code != c.code || f.Expected == "" || f.Try == "" {
			t.Errorf("%s: %+v, want step %s and %q", c.name, f, c.step, c.words)
		}
		if step := r.Step(c.step); step == nil || step.OK {
			t.Errorf("%s: the step that failed is shown as %+v", c.name, step)
		}
		if len(s.reports("json")) != before+1 || len(s.reports("html")) != before+1 {
			t.Errorf("%s: the report of a failed drill is not stored", c.name)
		}
		s.tornDown()
		undo()
		switch c.code {
		case command.ExitVerify: // a key that does not fit and a quota are no verdict
			last, passed, why = r.ID, false, c.step+": "
		case command.ExitPartly:
			last, passed, why = r.ID, true, ""
		}
		s.marked(b.ID, last, passed, why)
		time.Sleep(time.Until(r.Started.Truncate(time.Second).Add(time.Second))) // times of drills are whole seconds, and of two in one the failed one counts
	}
	s.run("drill", "dcs").Exits(t, command.ExitOK, "restore proven", "not signed") // the test damaged what it meant to, and only that
	s.run("drills", "verify").Exits(t, command.ExitUsage, "--public-key")
	s.run("keygen", "--signing", "-f", "drills.key").Exits(t, command.ExitOK)
	s.run("drills", "verify", "--public-key", "drills.key.pub").Exits(t, command.ExitPartly, "not signed")
	s.run("drills", "dcs").Exits(t, command.ExitOK, "FAILED at fetch", "objective missed")
	s.warned(b.ID)
}

// A backup that holds nothing but registrations would leave nothing: there is nothing to restore from.
func TestDrillOfGhostsOnly(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{etcd: etcdtest.Options{Members: 1}, plain: true})
	etcdtest.Lease(t, s.Client(t), 50*time.Minute, "/locks/one", "/locks/two")
	s.backup()
	r := s.drill(command.ExitNothing)
	if f := r.Failure; f == nil || f.Step != "content" || !strings.Contains(f.Found, "all 2 keys") || !strings.Contains(f.Try, "keep_leased") {
		t.Errorf("the failure: %+v", f)
	}
	s.tornDown()

	// Long leases may be data: a restore asks, and the drill says so.
	etcdtest.Put(t, s.Client(t), "/data/one", "1")
	etcdtest.Lease(t, s.Client(t), 5*time.Hour, "/cache/one")
	s.backup()
	r = s.drill(command.ExitOK)
	if len(r.Questions) != 1 || !strings.Contains(r.Questions[0].Flag, "--keep-leased /cache/") || r.Content.Removed != 3 {
		t.Errorf("questions %+v, content %+v", r.Questions, r.Content)
	}
}

// unending starts a drill of a backup that, with its sandbox staged, does not get to its end before the point is released: it is halted when it reads the
// backup for the second time, after everything that is asked of the members of the sandbox.
func (s *site) unending(b taken) (*command.Command, *halt.Point) {
	s.t.Helper()
	return s.haltBeyond("stage", []string{filepath.Dir(filepath.Join(s.storeDir(), "dcs", b.Data.Key))}, "drill", "dcs")
}

// A drill that is killed leaves no process behind, and the next one, or serve, no directory.
func TestDrillKilled(t *testing.T) {
	t.Parallel()
	s := newDrillSite(t, siteOptions{etcd: etcdtest.Options{Members: 1}})
	b := s.backup()
	for _, stage := range []string{"stage", "start", "agents"} {
		c, point := s.unending(b)
		c.Reaches(t, stage)
		c.Kill(t)
		point.Release()
		until(t, "the end of what a killed drill had started", func() bool {
			_, processes := s.sandboxes()
			return len(processes) == 0
		})
	}
	if dirs, _ := s.sandboxes(); len(dirs) == 0 {
		t.Fatal("no drill was killed before it had taken its sandbox down: nothing was tested")
	}
	s.drill(command.ExitOK)
	s.tornDown()
	if found := s.reports("json"); len(found) != 1 {
		t.Errorf("killed drills left reports: %q", found)
	}

	interrupted, point := s.unending(b)
	interrupted.Reaches(t, "start")
	interrupted.Signal(t, syscall.SIGINT)
	point.Release()
	interrupted.Wait(t).Exits(t, command.ExitInterrupt)
	s.tornDown()
	if found := s.reports("json"); len(found) != 1 {
		t.Errorf("an interrupted drill left a report: %q", found)
	}
}

// Production's own etcd is used where it is configured, and who may do what there is compared.
func TestDrillWithAuthenticationAndOwnEtcd(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{etcd: etcdtest.Options{Members: 1, Version: etcdtest.V35}})
	s.fill(50, 200)
	s.EnableAuth(t, "secret", etcdtest.User{Name: "reader", Password: "reader", Read: []string{"/data/"}})
	s.file("password", "secret\n")
	s.cluster = fmt.Sprintf("    username: root\n    password_file: password\n    etcd_binary: %s\n    thresholds: {quota: 4GiB}\n", etcdtest.Binary(t, "etcd", etcdtest.V35))
	s.configure()
	s.backup()
	r := s.drill(command.ExitOK)
	if r.Versions.Etcd != etcdtest.V35 || !strings.HasSuffix(r.Settings.Program, "etcd") || r.Content == nil || !r.Content.Auth || r.Content.Users != 2 || r.Content.Roles != 2 {
		t.Errorf("versions %+v, settings %+v, content %+v", r.Versions, r.Settings, r.Content)
	}
	s.tornDown()
	s.file("password", "wrong\n")
	r = s.drill(command.ExitError)
	if f := r.Failure; f == nil || f.Step != "checks" || !strings.Contains(f.Found, "the password was changed") {
		t.Errorf("with a wrong password: %+v", f)
	}
}

// A user whom etcd knows by a certificate alone is let into the sandbox too, by the same name.
func TestDrillWithCertificatesAsUsers(t *testing.T) {
	t.Parallel()
	for _, binary := range []string{"", etcdtest.Binary(t, "etcd", etcdtest.V36)} {
		s := newSite(t, siteOptions{etcd: etcdtest.Options{Members: 1, TLS: true, Version: etcdtest.V36}})
		s.fill(50, 200)
		s.EnableAuth(t, "secret", etcdtest.User{Name: "client", Password: "unused", Root: true})
		if binary != "" {
			s.cluster = "    etcd_binary: " + binary + "\n"
			s.configure()
		}
		s.backup()
		if r := s.drill(command.ExitOK, "--compare"); r.Content == nil || !r.Content.Auth || r.Content.Users != 2 || r.Compared == nil || r.Compared.Hash != "equal" {
			t.Errorf("etcd %q: content %+v, compared %+v", binary, r.Content, r.Compared)
		}
		s.tornDown()
	}
}

// A live drill stops and rebuilds real members, only where that is allowed and confirmed, and can be undone.
func TestDrillLive(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{})
	s.fill(100, 300)
	rows := s.rows()
	s.run("drill", "dcs", "--live", "--confirm", "dcs").Exits(t, command.ExitRefused, "live_drills: allowed")
	agents := "    agents:\n      - leased: {prefix: /app/, expect: [/app/leader], deadline: 2m}\n"
	s.cluster = agents + "    live_drills: allowed\n    objectives: {rto: 10m}\n"
	s.configure()
	s.run("drill", "dcs", "--live").Exits(t, command.ExitUsage, "--confirm dcs")
	s.run("drill", "dcs", "--live", "--confirm", "other").Exits(t, command.ExitRefused, "nothing was done")
	s.run("drill", "dcs", "--live", "--dry-run").Exits(t, command.ExitOK, "would take a backup")
	if found := s.snapshots(); len(found) > 0 {
		t.Fatalf("refused drills left %q", found)
	}

	// The agent: it keeps a key, and makes it again when it is gone.
	ctx, stop := context.WithCancel(t.Context())
	gone := make(chan struct{})
	client := s.Client(t)
	go func() {
		defer close(gone)
		for ctx.Err() == nil {
			keepRegistered(ctx, client, "/app/leader")
		}
	}()
	defer func() { stop(); <-gone }()
	until(t, "the agent", func() bool {
		short, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		got, err := client.Get(short, "/app/leader")
		return err == nil && len(got.Kvs) == 1
	})

	r := s.drill(command.ExitOK, "--live", "--confirm", "dcs")
	if !r.OK || r.Kind != drills.Live || r.Restore == nil || r.RTOSeconds <= 0 || len(r.Agents) != 1 || r.Agents[0].Verdict != "RECONNECTED" || len(r.Members) != 3 || !r.Members[0].Healthy {
		t.Fatalf("the live drill: %+v", r)
	}
	for _, step := range []string{"backup", "fetch", "stop", "exchange", "start", "prove", "agents", "objective"} {
		if found := r.Step(step); found == nil || !found.OK {
			t.Errorf("step %s: %+v", step, found)
		}
	}
	etcdtest.MustEqual(t, rows, s.rows())
	for _, m := range s.Members {
		if kept, _ := filepath.Glob(m.DataDir + ".before-*"); len(kept) != 1 {
			t.Errorf("%s: the old data dir is not kept: %q", m.Name, kept)
		}
	}
	if len(s.reports("html")) != 1 {
		t.Error("the report is not stored")
	}
	s.run("rollback", "dcs", r.Restore.Run, "--yes", "--discard-writes").Exits(t, command.ExitOK)
	etcdtest.MustEqual(t, rows, s.rows())
}

// keepRegistered holds a key under a lease for as long as that lasts.
func keepRegistered(ctx context.Context, client *clientv3.Client, key string) {
	short, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	lease, err := client.Grant(short, 5)
	if err == nil {
		_, err = client.Txn(short).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).Then(clientv3.OpPut(key, "me", clientv3.WithLease(lease.ID))).Commit()
	}
	for err == nil {
		select {
		case <-ctx.Done():
			return
		case <-time.After(500 * time.Millisecond):
		}
		once, done := context.WithTimeout(ctx, 3*time.Second)
		_, err = client.KeepAliveOnce(once, lease.ID)
		if err == nil {
			var got *clientv3.GetResponse
			if got, err = client.Get(once, key); err == nil && (len(got.Kvs) == 0 || clientv3.LeaseID(got.Kvs[0].Lease) != lease.ID) {
				done()
				return
			}
		}
		done()
	}
	select {
	case <-ctx.Done():
	case <-time.After(200 * time.Millisecond):
	}
}

package patroni

import (
	"encoding/json"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/agents/agentstest"
)

const dir = "/service/main/"

func newScopeAgent(t *testing.T, opt Options) *Scope {
	t.Helper()
	opt.Scope = "main"
	a, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	// On a busy machine an agent that is there may take its time, and is not to be taken for one that is away.
	a.client.patience, a.client.silence = patience, patience
	transport := a.client.http.Transport.(*http.Transport)
	transport.ResponseHeaderTimeout, transport.TLSHandshakeTimeout = 0, 0
	if opt.Dial == nil {
		transport.DialContext = (&net.Dialer{}).DialContext
	}
	return a
}

func baselineOf(t *testing.T, missing []string, known baseline) agents.Baseline {
	t.Helper()
	data, err := json.Marshal(known)
	if err != nil {
		t.Fatal(err)
	}
	return agents.Baseline{Missing: missing, Data: data}
}

func TestPlan(t *testing.T) {
	const requested = `{"leader":"db1","member":"db2","scheduled_at":"2030-01-01T00:00:00+00:00"}`
	const named = `{"leader":"db1","sync_standby":"db2,db3"}`
	base := func() *agentstest.Backup { return running(agentstest.NewBackup(), dir, 1) }
	rest := []string{"http://10.0.1.1:8008", "http://10.0.1.2:8008"}
	const name = "patroni main"
	both := []standing{{URL: rest[0], Name: "db1", SystemID: sysID}, {URL: rest[1], SystemID: sysID}}
	tests := []struct {
		name       string
		kv         *agentstest.Backup
		configured bool
		opt        agents.Options
	}{
		{name: "ordinary", kv: base().Grant(9, 60).Put(dir+"mine", "somebody's lock", 9)},
		{name: "leases-of-a-day-are-ghosts-too", kv: base().Grant(1, 86400)},
		{name: "failover-request", kv: base().Put(dir+"failover", requested, 0)},
		{name: "other-keys", kv: base().Put(dir+"failsafe", `{"db1":"http://10.0.1.1:8008/patroni"}`, 0).Put(dir+"optime/leader", "50331648", 0).Put(dir+"initialize", "", 0)},
		{name: "sync-without-synchronous-mode", kv: base().Put(dir+"sync", named, 0)},
		{name: "sync-names-nobody", kv: base().Put(dir+"config", synchronous, 0).Put(dir+"sync", `{"leader":null,"sync_standby":null}`, 0)},
		{name: "sync-asked", kv: base().Put(dir+"config", synchronous, 0).Put(dir+"sync", named, 0)},
		{name: "sync-removed", kv: base().Put(dir+"config", synchronous, 0).Put(dir+"sync", named, 0), opt: agents.Options{PatroniSync: "remove"}},
		{name: "sync-kept", kv: base().Put(dir+"config", synchronous, 0).Put(dir+"sync", named, 0), opt: agents.Options{PatroniSync: "keep"}},
		{name: "sync-asked-of-a-configured-scope", kv: base().Put(dir+"config", synchronous, 0).Put(dir+"sync", named, 0), configured: true},
		{name: "sync-without-readable-config", kv: base().Put(dir+"config", "{", 0).Put(dir+"sync", named, 0)},
		{name: "sync-unreadable", kv: base().Put(dir+"config", synchronous, 0).Put(dir+"sync", "x", 0)},
		{name: "standby-cluster", kv: base().Put(dir+"config", `{"ttl":30,"loop_wait":10,"standby_cluster":{"host":"10.9.9.9"}}`, 0)},
		{name: "standby-cluster-accepted", kv: base().Put(dir+"config", `{"ttl":30,"loop_wait":10,"standby_cluster":{"host":"10.9.9.9"}}`, 0),
			opt: agents.Options{AcceptUnverified: []string{"main"}}},
		{name: "standby-cluster-configured", kv: base().Put(dir+"config", `{"ttl":30,"loop_wait":10,"standby_cluster":{"host":"10.9.9.9"}}`, 0), configured: true},
		{name: "citus", kv: running(running(agentstest.NewBackup(), "/service/citus/0/", 1), "/service/citus/1/", 3)},
		{name: "citus-accepted", kv: running(running(agentstest.NewBackup(), "/service/citus/0/", 1), "/service/citus/1/", 3),
			opt: agents.Options{AcceptUnverified: []string{"/service/citus"}}},
		{name: "paused-then", kv: base().Put(dir+"config", `{"ttl":30,"pause":true,"loop_wait":10}`, 0), opt: agents.Options{OpenPaused: true}},
		{name: "open-paused", kv: base(), opt: agents.Options{OpenPaused: true}},
		{name: "open-paused-without-config", kv: running(agentstest.NewBackup(), dir, 1).Put(dir+"config", "x", 0), opt: agents.Options{OpenPaused: true}},
		{name: "all-leases-ended", kv: agentstest.NewBackup().Put(dir+"config", dynamic, 0).Put(dir+"initialize", sysID, 0).Put(dir+"failover", requested, 0)},
		{name: "all-agents-there", kv: base(), configured: true,
			opt: agents.Options{OpenPaused: true, Baselines: map[string]agents.Baseline{name: baselineOf(t, nil, baseline{Agents: both, Complete: true})}}},
		{name: "an-agent-is-missing", kv: base(), configured: true,
			opt: agents.Options{Baselines: map[string]agents.Baseline{name: baselineOf(t, rest[1:], baseline{Agents: both[:1]})}}},
		{name: "an-agent-is-missing-open-paused", kv: base(), configured: true,
			opt: agents.Options{OpenPaused: true, Baselines: map[string]agents.Baseline{name: baselineOf(t, rest[1:], baseline{Agents: both[:1]})}}},
		{name: "a-foreign-identifier", kv: base(), configured: true,
			opt: agents.Options{Baselines: map[string]agents.Baseline{name: baselineOf(t, nil, baseline{Agents: []standing{both[0], {URL: rest[1], SystemID: otherSysID}}})}}},
		{name: "paused-agents-will-resume", kv: base(), configured: true,
			opt: agents.Options{Baselines: map[string]agents.Baseline{name: baselineOf(t, nil, baseline{Agents: []standing{{URL: rest[0], Paused: true}}})}}},
		{name: "other-settings-now", kv: base(), configured: true,
			opt: agents.Options{Baselines: map[string]agents.Baseline{name: baselineOf(t, nil, baseline{Agents: both, Complete: true,
				Settings: parseConfig([]byte(`{"ttl":30,"loop_wait":5,"synchronous_mode":true,"pause":true,"postgresql":{"parameters":{"archive_command":"secret"}}}`)).settings()})}}},
		{name: "the-same-settings-now", kv: base(), configured: true,
			opt: agents.Options{Baselines: map[string]agents.Baseline{name: baselineOf(t, nil, baseline{Agents: both, Complete: true, Settings: parseConfig([]byte(dynamic)).settings()})}}},
		{name: "a-configured-scope-beside-another", kv: running(base(), "/service/other/", 11).Put("/service/other/failover", requested, 0), configured: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			own := newScopeAgent(t, Options{REST: rest})
			configured := []agents.Configured{{Name: "patroni", Kind: "patroni", Agent: NewUnconfigured()}}
			if test.configured {
				configured = []agents.Configured{{Name: name, Kind: "patroni", Agent: own}, {Name: "patroni", Kind: "patroni", Agent: NewUnconfigured(own)}}
			}
			d, err := agents.Ghosts(test.kv, configured, test.opt)
			if err != nil {
				t.Fatal(err)
			}
			agentstest.Golden(t, "plan-"+test.name, agentstest.Plan(d))
			for _, e := range d.Edits {
				for _, rel := range []string{"config", "initialize", "history", "status", "failsafe"} {
					if strings.HasSuffix(e.Key, "/"+rel) && e.Value == nil {
						t.Errorf("%s is removed", e.Key)
					}
				}
			}
		})
	}
}

// One etcd carries many scopes: a node that is missing in one is asked about there, and pauses that one alone.
func TestAMissingNodeHoldsItsOwnScope(t *testing.T) {
	kv := running(running(agentstest.NewBackup(), dir, 1), "/service/other/", 11)
	var configured []agents.Configured
	baselines := map[string]agents.Baseline{}
	for scope, missing := range map[string][]string{"main": nil, "other": {"http://10.0.1.2:8008"}} {
		a, err := New(Options{Scope: scope, REST: []string{"http://10.0.1.1:8008", "http://10.0.1.2:8008"}})
		if err != nil {
			t.Fatal(err)
		}
		configured = append(configured, agents.Configured{Name: "patroni /service/" + scope, Kind: "patroni", Agent: a})
		baselines["patroni /service/"+scope] = baselineOf(t, missing, baseline{Agents: []standing{{URL: "http://10.0.1.1:8008", SystemID: sysID}}, Complete: missing == nil})
	}
	d, err := agents.Ghosts(kv, configured, agents.Options{Baselines: baselines})
	if err != nil || len(d.Refusals) != 1 || !strings.Contains(d.Refusals[0].What, "/service/other") {
		t.Errorf("%+v, %v; want one question, on /service/other", d.Refusals, err)
	}
	d, err = agents.Ghosts(kv, configured, agents.Options{Baselines: baselines, OpenPaused: true})
	if err != nil || len(d.Refusals) > 0 {
		t.Fatalf("%+v, %v", d.Refusals, err)
	}
	var paused []string
	for _, e := range d.Edits {
		if e.Value != nil {
			paused = append(paused, e.Key)
		}
	}
	if !slices.Equal(paused, []string{"/service/other/config"}) {
		t.Errorf("paused %v, want /service/other alone", paused)
	}
}

func TestAcceptUnverifiedNames(t *testing.T) {
	for given, want := range map[string]bool{
		"main": true, "/service/main": true, "/service/main/": true, "service/main": true,
		"": false, "/": false, "ain": false, "/main": false, "/service": false, "other": false,
	} {
		if got := accepts(agents.Options{AcceptUnverified: []string{given}}, "/service/main"); got != want {
			t.Errorf("--accept-unverified %q: %v, want %v", given, got, want)
		}
	}
}

func TestPatroniSyncValue(t *testing.T) {
	for _, a := range []agents.Agent{NewUnconfigured(), newScopeAgent(t, Options{})} {
		if _, err := a.Edits(agentstest.NewBackup(), agents.Options{PatroniSync: "yes"}); err == nil {
			t.Error("--patroni-sync yes is taken")
		}
	}
}

func TestObserve(t *testing.T) {
	kv := running(agentstest.NewBackup(), dir, 1).
		Put(dir+"config", `{"ttl":30,"loop_wait":10,"synchronous_mode":"quorum","pause":true}`, 0).
		Put(dir+"sync", `{"leader":"db1","sync_standby":"db2, db3"}`, 0).
		Put(dir+"failover", `{}`, 0).
		Put(dir+"members/db3", `{"conn_url":"postgres://h/","api_url":"https://user:secret@10.0.1.3:8008/patroni","state":"stopped","role":"replica"}`, 2)
	running(kv, "/service/citus/3/", 5)
	all, err := NewUnconfigured().Observe(t.Context(), kv)
	if err != nil {
		t.Fatal(err)
	}
	own, err := newScopeAgent(t, Options{}).Observe(t.Context(), agentstest.NewBackup())
	if err != nil {
		t.Fatal(err)
	}
	var pretty []any
	for _, raw := range []json.RawMessage{all, own} {
		if strings.Contains(string(raw), "secret") {
			t.Error("a password is in the facts")
		}
		var v any
		if err := json.Unmarshal(raw, &v); err != nil {
			t.Fatal(err)
		}
		pretty = append(pretty, v)
	}
	got, err := json.MarshalIndent(pretty, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	agentstest.Golden(t, "facts", string(got)+"\n")
}

func TestDiscover(t *testing.T) {
	kv := running(agentstest.NewBackup(), dir, 1).Put(dir+"members/db3", `{"conn_url":"postgres://h/"}`, 1)
	if got := strings.Join(readScope(kv, dir).discover(), " "); got != "http://127.0.0.1:8008 http://127.0.0.1:8009" {
		t.Errorf("got %s", got)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, test := range []struct {
		opt  Options
		want string
	}{
		{Options{}, "scope is missing"},
		{Options{Scope: "main", REST: []string{"10.0.1.1:8008"}}, "10.0.1.1:8008"},
		{Options{Scope: "main", REST: []string{"ftp://h"}}, "scheme and host"},
		{Options{Scope: "main", REST: []string{"http://h:8008/patroni"}}, "base URL alone"},
		{Options{Scope: "main", REST: []string{"http://u:p@h:8008"}}, "username"},
		{Options{Scope: "main", REST: []string{"http://h:8008", "http://h:8008/"}}, "twice"},
	} {
		_, err := New(test.opt)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: got %v, want an error with %q", test.opt, err, test.want)
		}
		if err != nil && strings.Contains(err.Error(), "u:p@") {
			t.Errorf("the error shows a password: %v", err)
		}
	}
}

func TestUnconfiguredVerify(t *testing.T) {
	backup := running(agentstest.NewBackup(), dir, 1)
	tests := []struct {
		name   string
		backup agents.Reader
		play   func(live *agentstest.Cluster)
		want   string // the check's detail
		ok     bool
	}{
		{"no scope, nothing to prove", agentstest.NewBackup(), func(*agentstest.Cluster) {}, "", false},
		{"all registered", backup, func(live *agentstest.Cluster) {
			time.AfterFunc(time.Second, func() {
				lease := live.Grant(0, 30*time.Second)
				live.Put(dir+"leader", "db2", lease)
				live.Put(dir+"members/db1", memberValue("replica", 1), lease)
				live.Put(dir+"members/db2", memberValue("master", 2), lease)
			})
		}, "leader db2, 2 of the backup's 2 members; the scope is not configured, so its agents were not asked", true},
		{"paused and partly back", backup, func(live *agentstest.Cluster) {
			live.Restore(dir+"config", `{"pause":true}`, 5, 0)
			live.Put(dir+"members/db1", memberValue("replica", 1), live.Grant(0, 30*time.Second))
		}, "no leader yet, 1 of the backup's 2 members (not yet: [db2]); the scope is not configured, so its agents were not asked; " +
			"it is paused: `patronictl resume` when every node it has is back and runs PostgreSQL", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				live := agentstest.NewCluster(1000)
				start := time.Now()
				test.play(live)
				v, err := NewUnconfigured().Verify(t.Context(), agents.Baseline{}, agents.Restored{Revision: 1000, HealthyAt: start, Live: live, Backup: test.backup})
				if err != nil {
					t.Fatal(err)
				}
				if took := time.Since(start); took > 6*time.Second {
					t.Errorf("a scope that nobody configured held the restore for %s", took)
				}
				if test.want == "" {
					if v.Verdict != "" {
						t.Errorf("got %+v, want nothing", v)
					}
					return
				}
				if v.Verdict != agents.Unknown || !v.OK || len(v.Checks) != 1 || v.Checks[0].Detail != test.want || v.Checks[0].OK != test.ok {
					t.Errorf("got %+v, want UNKNOWN with %q", v, test.want)
				}
			})
		})
	}
}

package patroni

import (
	"flag"
	"fmt"
	"strings"
	"testing"

	"github.com/requorum/requorum/agents/agentstest"
)

var _ = flag.Bool("update", false, "write the golden files")

// Values as Patroni writes them.
const (
	sysID       = "7434512345678901234"
	otherSysID  = "7100000000000000001"
	dynamic     = `{"loop_wait":10,"maximum_lag_on_failover":1048576,"postgresql":{"use_pg_rewind":true},"retry_timeout":10,"ttl":30}`
	synchronous = `{"loop_wait":10,"synchronous_mode":true,"ttl":30}`
	history     = `[[1,25110200,"no recovery target specified","2026-11-20T10:00:00.000000+00:00","db2"],[2,33554592,"no recovery target specified","2026-11-21T10:00:00+00:00","db1"]]`
)

func memberValue(role string, port int) string {
	return fmt.Sprintf(`{"conn_url":"postgres://10.0.1.1:5432/postgres","api_url":"http://127.0.0.1:%d/patroni","state":"running","role":%q,"version":"3.0.2","xlog_location":50331648,"timeline":3}`, port, role)
}

// running is a scope as it is on an ordinary day.
func running(b *agentstest.Backup, dir string, lease int64) *agentstest.Backup {
	return b.Grant(lease, 30).Grant(lease+1, 30).
		Put(dir+"config", dynamic, 0).Put(dir+"initialize", sysID, 0).
		Put(dir+"leader", "db1", lease).
		Put(dir+"members/db1", memberValue("master", 8008), lease).
		Put(dir+"members/db2", memberValue("replica", 8009), lease+1).
		Put(dir+"history", history, 0).
		Put(dir+"status", `{"optime":50331648,"slots":{"db2":50331648}}`, 0)
}

func TestRecognise(t *testing.T) {
	kv := func() *agentstest.Backup { return agentstest.NewBackup().Grant(1, 30) }
	tests := []struct {
		name string
		kv   *agentstest.Backup
		want string
	}{
		{"nothing", kv(), ""},
		{"an ordinary scope", running(kv(), "/service/main/", 1), "/service/main/"},
		{"another namespace", running(kv(), "/db/prod/eu/main/", 1), "/db/prod/eu/main/"},
		{"two scopes", running(running(kv(), "/service/b/", 1), "/service/a/", 3), "/service/a/ /service/b/"},
		{"all leases ended", kv().Put("/service/main/config", dynamic, 0).Put("/service/main/initialize", sysID, 0).Put("/service/main/history", history, 0), "/service/main/"},
		{"only config and initialize are left", kv().Put("/service/main/config", dynamic, 0).Put("/service/main/initialize", sysID, 0), "/service/main/"},
		{"empty settings, and initialize", kv().Put("/service/main/config", `{}`, 0).Put("/service/main/initialize", sysID, 0), "/service/main/"},
		{"being initialized", kv().Put("/service/main/initialize", "", 0).Put("/service/main/members/db1", memberValue("replica", 1), 1), "/service/main/"},
		{"a stale failover request beside initialize", kv().Put("/service/main/initialize", sysID, 0).Put("/service/main/failover", `{"leader":"a","member":"b"}`, 0), "/service/main/"},
		{"optime of old versions", kv().Put("/service/main/initialize", sysID, 0).Put("/service/main/optime/leader", "67393608", 0), "/service/main/"},
		{"members as old versions wrote them", kv().Put("/service/main/members/a", "postgres://r:p@10.0.0.1:5432/postgres?application_name=http://10.0.0.1:8008/patroni", 1), "/service/main/"},
		{"a member called leader", kv().Put("/service/main/members/leader", memberValue("replica", 1), 1), "/service/main/"},
		{"a scope called members", running(kv(), "/service/members/", 1), "/service/members/"},
		{"a Citus cluster", running(running(kv(), "/service/citus/0/", 1), "/service/citus/1/", 3), "/service/citus/0/ /service/citus/1/"},
		{"no slash before the scope's keys", kv().Put("config", dynamic, 0).Put("initialize", sysID, 0), ""},

		{"Kubernetes objects", kv().
			Put("/registry/configmaps/default/config", "k8s\x00\n\x0f\n\x02v1", 0).
			Put("/registry/leases/kube-system/leader", "k8s\x00", 1).
			Put("/registry/configmaps/default/history", "k8s\x00", 0), ""},
		{"a program that elects a leader", kv().Put("/demo/leader", "a", 1).Put("/demo/members/a", `{"name":"a"}`, 1).Put("/demo/config", `{"size":3}`, 0), ""},
		{"a program with a config, a status and a ttl", kv().Put("/app/config", `{"ttl":30}`, 0).Put("/app/status", `ok`, 0).Put("/app/leader", "a", 1), ""},
		{"initialize that is no identifier", kv().Put("/app/initialize", "1", 0).Put("/app/config", `{"a":1}`, 0), ""},
		{"members that are plain URLs", kv().Put("/app/members/a", `{"api_url":"http://10.0.0.1/"}`, 1).Put("/app/leader", "a", 1), ""},
		{"settings alone", kv().Put("/app/config", dynamic, 0), ""},
		{"identifier alone", kv().Put("/app/initialize", sysID, 0), ""},
		{"keys below members", kv().Put("/service/main/members/a/b", memberValue("replica", 1), 1), ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			for _, s := range recognise(test.kv) {
				got = append(got, s.dir)
			}
			if strings.Join(got, " ") != test.want {
				t.Errorf("recognised %q, want %q", got, test.want)
			}
		})
	}
}

// What a backup's index keeps by selected must be all that recognise and the
// edits read.
func TestSelectedCoversEveryKey(t *testing.T) {
	sel := selected()
	kept := func(key string) bool {
		for _, s := range sel.Suffixes {
			if strings.HasSuffix(key, s) {
				return true
			}
		}
		for _, s := range sel.Infixes {
			if strings.Contains(key, s) {
				return true
			}
		}
		return false
	}
	for _, rel := range append(plainKeys(), "members/db1") {
		if !kept("/service/main/" + rel) {
			t.Errorf("%s is not selected", rel)
		}
	}
}

func TestCitusOf(t *testing.T) {
	for dir, want := range map[string]string{
		"/service/citus/0/":  "/service/citus/",
		"/service/citus/12/": "/service/citus/",
		"/service/citus/01/": "",
		"/service/main/":     "",
		"/service/-1/":       "",
		"/7/":                "",
	} {
		if got := citusOf(dir); got != want {
			t.Errorf("%s: got %q, want %q", dir, got, want)
		}
	}
}

func TestDirOf(t *testing.T) {
	for _, test := range []struct{ namespace, scope, want string }{
		{"/service", "main", "/service/main/"},
		{"service/", "main", "/service/main/"},
		{"/", "main", "/main/"},
		{"/a//b/", "/main/", "/a/b/main/"},
	} {
		if got := dirOf(test.namespace, test.scope); got != test.want {
			t.Errorf("namespace %s, scope %s: got %s, want %s", test.namespace, test.scope, got, test.want)
		}
	}
}

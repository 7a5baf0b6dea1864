package kubernetes

import (
	"encoding/json"
	"flag"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/agents/agentstest"
)

var _ = flag.Bool("update", false, "write the golden files")

func newAgent(t *testing.T, opt Options) *Agent {
	t.Helper()
	a, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestNewRefuses(t *testing.T) {
	for _, opt := range []Options{{Prefix: "/"}, {Nodes: 1.5}, {Nodes: -1}} {
		if _, err := New(opt); err == nil {
			t.Errorf("%+v is accepted", opt)
		}
	}
}

func row(name, holder string, seconds int32, at time.Time) (key, value string) {
	namespace, object, _ := strings.Cut(name, "/")
	return "/registry/leases/" + name, agentstest.KubernetesLease(namespace, object, holder, seconds, at)
}

// controlPlane is a backup of two API servers, leaders, nodes, events, and leases that nobody renews any more.
func controlPlane() *agentstest.Backup {
	kv := agentstest.NewBackup().Grant(1, 15).Grant(2, 15).Grant(3, 3660)
	put := func(name, holder string, seconds int32, at time.Time) {
		key, value := row(name, holder, seconds, at)
		kv.Put(key, value, 0)
	}
	kv.Put("/registry/masterleases/10.0.0.1", agentstest.KubernetesRegistration("10.0.0.1", 4), 1)
	kv.Put("/registry/masterleases/10.0.0.2", agentstest.KubernetesRegistration("10.0.0.2", 9), 2)
	put("kube-system/kube-scheduler", "cp1_0c8b", 15, renewed)
	put("kube-system/kube-controller-manager", "cp2_77aa", 15, renewed.Add(-time.Second))
	put("kube-system/apiserver-x5l", "apiserver-x5l_9", 3600, renewed.Add(-5*time.Second))
	put("cert-manager/cert-manager", "cert-manager-5d_1", 60, renewed.Add(-8*time.Hour)) // scaled to nothing
	put("kube-system/released", "", 1, renewed)
	put("kube-node-lease/worker1", "worker1", 40, renewed.Add(-3*time.Second))
	put("kube-node-lease/worker2", "worker2", 40, renewed.Add(-8*time.Second))
	put("kube-node-lease/worker3", "worker3", 40, renewed.Add(-time.Hour)) // switched off
	kv.Put("/registry/events/default/pod.17", "k8s\x00", 3)
	kv.Put("/registry/pods/default/pod", "k8s\x00", 0)
	return kv
}

func TestObserve(t *testing.T) {
	kv := controlPlane()
	kv.Put("/registry/leases/kube-system/secret", "k8s:enc:aescbc:v1:key1:\x01\x02", 0)
	kv.Put("/registry/leases/kube-system/text", "garbage\xff", 0)
	got, err := newAgent(t, Options{}).Observe(t.Context(), kv)
	if err != nil {
		t.Fatal(err)
	}
	var all any
	if err := json.Unmarshal(got, &all); err != nil {
		t.Fatal(err)
	}
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	agentstest.Golden(t, "facts", string(text)+"\n")
	empty, err := newAgent(t, Options{Prefix: "/other"}).Observe(t.Context(), kv)
	if want := `{"api_servers":[],"leases":[],"nodes":{"count":0}}`; err != nil || string(empty) != want {
		t.Errorf("without keys: %s, %v; want %s", empty, err, want)
	}
}

// Registrations go, Lease objects stay, and events stay with their leases.
func TestPlan(t *testing.T) {
	for name, test := range map[string]struct {
		options Options
		opt     agents.Options
	}{
		"plan":                  {},
		"plan-keep-leased":      {opt: agents.Options{KeepPrefixes: []string{"/registry/events/", "/registry/masterleases/10.0.0.2"}}},
		"plan-of-another-place": {options: Options{Prefix: "/k8s/registry"}},
	} {
		t.Run(name, func(t *testing.T) {
			configured := []agents.Configured{{Name: "kubernetes /registry/", Kind: "kubernetes", Agent: newAgent(t, test.options)}}
			d, err := agents.Ghosts(controlPlane(), configured, test.opt)
			if err != nil {
				t.Fatal(err)
			}
			agentstest.Golden(t, name, agentstest.Plan(d))
		})
	}
}

// One clock that is ahead does not make everyone else look silent, and one machine's own leases do not confirm each other.
func TestOneClockIsAhead(t *testing.T) {
	kv := controlPlane()
	for _, name := range []string{"kube-system/ahead", "kube-system/ahead-too"} {
		key, value := row(name, "cp9_1", 15, renewed.Add(40*time.Minute))
		kv.Put(key, value, 0)
	}
	e := newAgent(t, Options{}).read(kv.Keys).expected()
	for name, want := range map[string]bool{
		"kube-node-lease/worker2": true, "kube-system/kube-scheduler": true, "kube-system/ahead": true,
		"kube-node-lease/worker3": false, "cert-manager/cert-manager": false, "kube-system/released": false,
	} {
		if _, got := e.Leases[name]; got != want {
			t.Errorf("%s expected: %v", name, got)
		}
	}
}

// What the gate remembers is what it had before, when the backup is not at hand any more.
func TestGate(t *testing.T) {
	a := newAgent(t, Options{})
	first, err := a.Gate(t.Context(), agents.Known{Keys: controlPlane().Keys})
	if err != nil || !strings.HasPrefix(first.Detail, "in the backup 2 API servers, 3 leases being renewed and 2 nodes") {
		t.Fatalf("%+v, %v", first, err)
	}
	second, err := a.Gate(t.Context(), agents.Known{Before: &first})
	if err != nil || string(second.Data) != string(first.Data) || second.Detail != first.Detail {
		t.Errorf("%+v, %v", second, err)
	}
	if none, err := a.Gate(t.Context(), agents.Known{}); err != nil || none.Data != nil {
		t.Errorf("%+v, %v", none, err)
	}
}

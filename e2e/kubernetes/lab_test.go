package kubernetes

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

const (
	token    = "a-token"
	patience = 3 * time.Minute // that anything may take
)

var program string

func inLab() bool { return os.Getenv("REQUORUM_LAB") == "kubernetes" }

func TestMain(m *testing.M) {
	if !inLab() {
		os.Exit(m.Run())
	}
	os.Exit(command.Main(m, func(built, _ string) { program = built }))
}

// lab is a control plane: API servers at several addresses, of which none is ever called, a scheduler, and two nodes.
type lab struct {
	t    *testing.T
	dir  string
	etcd *etcdtest.Cluster
	api  []*apiServer
	http *http.Client
}

type apiServer struct {
	address string // that it registers
	url     string // where it listens
	program *etcdtest.Program
	args    []string
}

// newLab starts everything; more are flags of the API servers.
func newLab(t *testing.T, more ...string) *lab {
	t.Helper()
	if !inLab() {
		t.Skip("make lab-kubernetes runs this")
	}
	programs := serverDir(t)
	l := &lab{t: t, dir: t.TempDir(), http: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // each has a certificate that it made for itself
	}}}
	l.etcd = etcdtest.StartCluster(t, etcdtest.Options{Dir: filepath.Join(l.dir, "etcd")})
	write(t, l.file("tokens.csv"), token+`,admin,admin,"system:masters"`+"\n")
	if out, err := exec.CommandContext(t.Context(), "openssl", "genrsa", "-out", l.file("sa.key"), "2048").CombinedOutput(); err != nil {
		t.Fatalf("openssl: %v: %s", err, out)
	}
	for i, address := range []string{"192.0.2.1", "192.0.2.2"} {
		port := etcdtest.FreePort(t)
		s := &apiServer{address: address, url: fmt.Sprintf("https://127.0.0.1:%d", port), program: etcdtest.NewProgram(t, l.file(fmt.Sprintf("api%d.log", i+1)))}
		s.args = append([]string{filepath.Join(programs, "kube-apiserver"), "--etcd-servers=" + strings.Join(l.etcd.Endpoints(), ","),
			"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", port), "--advertise-address=" + address, "--cert-dir=" + l.file(fmt.Sprintf("certs%d", i+1)),
			"--service-cluster-ip-range=10.96.0.0/24", "--service-account-key-file=" + l.file("sa.key"), "--service-account-signing-key-file=" + l.file("sa.key"),
			"--service-account-issuer=https://lab", "--token-auth-file=" + l.file("tokens.csv"), "--authorization-mode=AlwaysAllow"}, more...)
		s.program.Start(t, s.args...)
		l.api = append(l.api, s)
	}
	for _, s := range l.api {
		l.until(s.address+" to be ready", func() bool { _, code := l.call(s, http.MethodGet, "/readyz", nil); return code == http.StatusOK })
	}
	write(t, l.file("kubeconfig"), fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: %q, insecure-skip-tls-verify: true}}]\n"+
		"users: [{name: u, user: {token: %s}}]\ncontexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\n", l.api[0].url, token))
	// It ends itself when it cannot renew its Lease, and is started again, as a kubelet does.
	etcdtest.NewProgram(t, l.file("scheduler.log")).Start(t, "sh", "-c", `while true; do "$@"; sleep 1; done`, "sh", filepath.Join(programs, "kube-scheduler"),
		"--kubeconfig="+l.file("kubeconfig"), "--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", etcdtest.FreePort(t)), "--authentication-skip-lookup=true")
	for _, name := range []string{"worker1", "worker2"} {
		l.kubelet(name)
	}
	l.configure()
	return l
}

func (l *lab) file(name string) string { return filepath.Join(l.dir, name) }

func (l *lab) until(what string, f func() bool) {
	l.t.Helper()
	for deadline := time.Now().Add(patience); !f(); {
		if time.Now().After(deadline) {
			l.t.Fatalf("waited %s for %s; see the logs: %s", patience, what, l.tails())
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// tails are the ends of all logs.
func (l *lab) tails() string {
	var b strings.Builder
	logs, _ := filepath.Glob(l.file("*.log"))
	for _, log := range logs {
		text, _ := os.ReadFile(log)
		fmt.Fprintf(&b, "\n--- %s\n%s", filepath.Base(log), text[max(0, len(text)-3000):])
	}
	return b.String()
}

// call sends one request to an API server; code is 0 when it does not answer.
func (l *lab) call(s *apiServer, method, path string, body any) (answer map[string]any, code int) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	text, err := json.Marshal(body)
	if err != nil {
		return nil, 0
	}
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, bytes.NewReader(text))
	if err != nil {
		return nil, 0
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := l.http.Do(req)
	if err != nil {
		return nil, 0
	}
	defer resp.Body.Close()
	_ = json.NewDecoder(resp.Body).Decode(&answer) // health checks answer in plain text
	return answer, resp.StatusCode
}

// kubelet renews the Lease of a node every few seconds until the test ends: what was stored last, and after an error what is there.
func (l *lab) kubelet(name string) {
	const leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	l.t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		var lease map[string]any
		for ctx.Err() == nil {
			now := time.Now().UTC().Format("2006-01-02T15:04:05.000000Z")
			code := 0
			if lease == nil {
				if lease, code = l.call(l.api[0], http.MethodGet, leases+"/"+name, nil); code == http.StatusNotFound {
					lease, code = l.call(l.api[0], http.MethodPost, leases, map[string]any{"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
						"metadata": map[string]any{"name": name}, "spec": map[string]any{"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now}})
				}
			} else if spec, ok := lease["spec"].(map[string]any); ok {
				spec["renewTime"] = now
				lease, code = l.call(l.api[0], http.MethodPut, leases+"/"+name, lease)
			}
			if code != http.StatusOK && code != http.StatusCreated {
				lease = nil
			}
			select {
			case <-ctx.Done():
			case <-time.After(3 * time.Second):
			}
		}
	}()
}

func (l *lab) configure() {
	l.t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "clusters:\n  k8s:\n    endpoints: [%s]\n    stores: [main]\n    agents: [{kubernetes: {deadline: 3m}}]\n    members:\n", strings.Join(l.etcd.Endpoints(), ", "))
	for _, m := range l.etcd.Members {
		c := m.Commands(l.t)
		fmt.Fprintf(&b, "      - {name: %s, peer_url: %q, client_url: %q, data_dir: %s, service: {start: %s, stop: %s, status: %s, inhibit: %s, allow: %s}}\n",
			m.Name, m.PeerURL, m.ClientURL, m.DataDir, c.Start, c.Stop, c.Status, c.Inhibit, c.Allow)
	}
	fmt.Fprintf(&b, "stores:\n  main: {file: {path: %s}}\nspool_dir: %s\nallow_tmpfs_spool: true\n", l.file("store"), l.file("spool"))
	write(l.t, l.file("requorum.yaml"), b.String())
}

// requorum runs the program, which must end so and say each of the words.
func (l *lab) requorum(code int, args []string, words ...string) string {
	l.t.Helper()
	r := l.run(args...).Exits(l.t, code, words...)
	return r.Stdout + r.Stderr
}

// run runs the program to its end.
func (l *lab) run(args ...string) command.Result {
	l.t.Helper()
	return command.Run(l.t, command.Options{Dir: l.dir}, append([]string{program}, args...)...)
}

// registered waits until everyone has written what tells that they live.
func (l *lab) registered() {
	l.t.Helper()
	l.until("everyone to register", func() bool {
		text := l.run("-o", "json", "check", "k8s", "--wait", "20s").Stdout
		return strings.Contains(text, "kube-scheduler by") && strings.Contains(text, "worker1, worker2") && strings.Contains(text, "192.0.2.1, 192.0.2.2")
	})
}

func (l *lab) lose() {
	l.t.Helper()
	l.etcd.Kill(l.t)
	l.etcd.Wipe(l.t)
}

// told logs what a restore said of the agents.
func (l *lab) told(out string) {
	l.t.Helper()
	for line := range strings.Lines(out) {
		if strings.Contains(line, "kubernetes /registry/") || strings.Contains(line, "RTO") {
			l.t.Log(strings.TrimSpace(line))
		}
	}
}

// Two API servers lose their etcd and get it back from the past while they run. All are back, nobody sees what came after the backup, and whoever
// watched is told. Then one API server stays away, and is named.
func TestControlPlane(t *testing.T) {
	l := newLab(t)
	l.registered()
	l.requorum(command.ExitOK, []string{"backup", "k8s"})
	l.requorum(command.ExitOK, []string{"show", "k8s", "latest"}, "api_servers: 192.0.2.1, 192.0.2.2", "kube-system/kube-scheduler", "count: 2")
	const maps = "/api/v1/namespaces/default/configmaps"
	if _, code := l.call(l.api[0], http.MethodPost, maps, map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "later"}}); code != http.StatusCreated {
		t.Fatalf("create a ConfigMap: %d", code)
	}
	ended := l.watch(l.api[1], maps)
	l.lose()
	out := l.requorum(command.ExitOK, []string{"restore", "k8s", "--yes"}, "kubernetes /registry/: "+agents.Reconnected, "2 of 2: 192.0.2.1, 192.0.2.2", "kube-system/kube-scheduler by", "2 of 2: worker1, worker2")
	l.told(out)
	for _, s := range l.api {
		if _, code := l.call(s, http.MethodGet, maps+"/later", nil); code != http.StatusNotFound {
			t.Errorf("%s answers %d for what was created after the backup", s.address, code)
		}
	}
	l.until("the watch to end", func() bool { return len(ended) > 0 })
	l.requorum(command.ExitOK, []string{"check", "k8s"}, agents.Reconnected)

	l.requorum(command.ExitOK, []string{"backup", "k8s"})
	l.api[1].program.End(t, syscall.SIGKILL)
	l.lose()
	l.told(l.requorum(command.ExitAgents, []string{"restore", "k8s", "--yes", "--agent-deadline", "60s"}, "NOT BACK", "1 of 2: 192.0.2.1; not: 192.0.2.2 (absent)"))
}

// watch watches until the API server ends that; then the channel has something.
func (l *lab) watch(s *apiServer, path string) <-chan error {
	l.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+path+"?watch=true", nil)
	if err != nil {
		l.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	begun, ended, done := make(chan error, 1), make(chan error, 1), make(chan struct{})
	go func() {
		defer close(done)
		resp, err := (&http.Client{Transport: l.http.Transport}).Do(req)
		begun <- err
		if err != nil {
			return
		}
		defer resp.Body.Close()
		var event json.RawMessage
		for events := json.NewDecoder(resp.Body); err == nil; {
			err = events.Decode(&event)
		}
		ended <- err
	}()
	if err := <-begun; err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { cancel(); <-done })
	return ended
}

// Objects in JSON are read as well, and of those encrypted at rest nothing is claimed.
func TestStoredForms(t *testing.T) {
	for name, test := range map[string]struct {
		flags   []string
		verdict string
		says    string
	}{
		"JSON":      {[]string{"--storage-media-type=application/json"}, agents.Reconnected, "2 of 2: worker1, worker2"},
		"encrypted": {[]string{"--encryption-provider-config=" + encryption(t)}, agents.Unknown, `encrypted at rest ("aescbc")`},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, test.flags...)
			l.until("everyone to write", func() bool { return strings.Contains(l.requorum(2, []string{"check", "k8s"}), test.says) })
			l.requorum(command.ExitOK, []string{"backup", "k8s"})
			l.lose()
			l.told(l.requorum(command.ExitOK, []string{"restore", "k8s", "--yes"}, "kubernetes /registry/: "+test.verdict, "2 of 2: 192.0.2.1, 192.0.2.2", test.says))
		})
	}
}

func encryption(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "encryption.yaml")
	write(t, path, `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources: [leases.coordination.k8s.io]
    providers:
      - aescbc: {keys: [{name: key1, secret: c2VjcmV0IGlzIHNlY3VyZSwgMzIgYnl0ZXMgb2xkISE=}]}
      - identity: {}
`)
	return path
}

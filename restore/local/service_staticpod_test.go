//go:build linux

package local

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/requorum/requorum/restore"
)

// kubeadm's manifest, shortened.
const etcdManifest = `apiVersion: v1
kind: Pod
metadata:
  name: etcd
  namespace: kube-system
spec:
  containers:
  - command:
    - etcd
    - --advertise-client-urls=https://10.0.0.1:2379
    - --cert-file=/etc/kubernetes/pki/etcd/server.crt
    - --data-dir=/var/lib/etcd
    - --experimental-initial-corrupt-check=true
    - --initial-cluster=cp1=https://10.0.0.1:2380
    - --listen-client-urls=https://127.0.0.1:2379,https://10.0.0.1:2379
    - --name=$(NODE)
    env:
    - name: NODE
      value: cp1
    - name: ETCD_WAL_DIR
      value: /var/lib/etcd/wal
    image: registry.example.com/etcd:3.5.15-0
    name: etcd
    volumeMounts:
    - mountPath: /var/lib/etcd
      name: etcd-data
    - mountPath: /etc/kubernetes/pki/etcd
      name: etcd-certs
  hostNetwork: true
  securityContext:
    runAsUser: 995
    seccompProfile: {type: RuntimeDefault}
  volumes:
  - hostPath: {path: /etc/kubernetes/pki/etcd, type: DirectoryOrCreate}
    name: etcd-certs
  - hostPath:
      path: /data/etcd
      type: DirectoryOrCreate
    name: etcd-data
`

// clientManifest is that of a program which listens on a port.
func clientManifest(name string, port int) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %[1]s}\nspec:\n  containers:\n  - command: [%[1]s, --secure-port=%[2]d]\n    name: %[1]s\n", name, port)
}

// newPods is a rig whose member is a static pod beside a control plane. The kubelet does nothing; the API server seems to listen all the time.
func newPods(t *testing.T) (*rig, string, map[string]string) {
	t.Helper()
	r := newRig(t, t.TempDir())
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	kubelet := &exec.Cmd{Path: "/bin/sleep", Args: []string{"kubelet", "600"}}
	if err := kubelet.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = kubelet.Process.Kill()
		_ = kubelet.Wait() // it was killed
	})
	port := l.Addr().(*net.TCPAddr).Port
	r.member.Service = restore.Service{StaticPod: filepath.Join(dir, "etcd.yaml")}
	files := map[string]string{"etcd.yaml": etcdManifest, "other.yaml": clientManifest("nginx", 80), "kube-proxy.txt": "no manifest", ".kube-apiserver.yaml": clientManifest("kube-apiserver", port)}
	for _, name := range companions {
		files[name+".yaml"] = clientManifest(name, port)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	r.old()
	return r, dir, files
}

func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// expect fails the test unless the manifests dir holds exactly these files, as they were.
func expect(t *testing.T, what, dir string, files map[string]string, gone ...string) {
	t.Helper()
	var want []string
	for name := range files {
		if !slices.Contains(gone, name) {
			want = append(want, name)
		}
	}
	slices.Sort(want)
	if got := names(t, dir); !slices.Equal(got, want) {
		t.Fatalf("%s: the manifests directory holds %v, not %v", what, got, want)
	}
	for _, name := range want {
		path := filepath.Join(dir, name)
		data, err := os.ReadFile(path)
		info, serr := os.Stat(path)
		if err != nil || serr != nil || string(data) != files[name] || info.Mode().Perm() != 0o640 {
			t.Errorf("%s: %s is not as it was: %v %v %v\n%s", what, name, err, serr, info.Mode(), data)
		}
	}
}

// etcd's manifest and its clients' are away from the inhibition on; etcd's comes back to be started, theirs once etcd is proven, and after a
// rollback everything is as it was. Each request may come twice.
func TestManifestsMove(t *testing.T) {
	clients := []string{"kube-apiserver.yaml", "kube-controller-manager.yaml", "kube-scheduler.yaml"}
	all := append([]string{"etcd.yaml"}, clients...)
	t.Run("restore", func(t *testing.T) {
		r, dir, files := newPods(t)
		if s := r.state(); !s.Active {
			t.Error("a pod whose manifest is in place counts as stopped")
		}
		r.must(restore.ActLock)
		if err := r.stage(plain); err != nil {
			t.Fatal(err)
		}
		r.must(restore.ActInhibit, restore.ActInhibit, restore.ActStop, restore.ActStop)
		expect(t, "stopped", dir, files, all...)
		r.must(restore.ActExchange, restore.ActAllow, restore.ActAllow)
		expect(t, "allowed", dir, files, all...) // the new member waits for its start
		r.must(restore.ActStart, restore.ActStart)
		expect(t, "started", dir, files, clients...)
		if s := r.state(); !s.Opened() {
			t.Error("the manifest came back before the intent to start was written down")
		}
		r.must(restore.ActResume, restore.ActResume, restore.ActUnlock)
		expect(t, "resumed", dir, files)
	})
	t.Run("rollback to nothing", func(t *testing.T) {
		r, dir, files := newPods(t)
		if err := os.RemoveAll(r.member.DataDir); err != nil {
			t.Fatal(err)
		}
		r.must(restore.ActLock)
		if err := r.stage(plain); err != nil {
			t.Fatal(err)
		}
		r.must(restore.ActInhibit, restore.ActStop, restore.ActExchange, restore.ActRevert, restore.ActDiscard, restore.ActAllow, restore.ActResume)
		expect(t, "rolled back", dir, files, "etcd.yaml") // the kubelet would begin an empty member
		if s := r.state(); s.Journal.Here.WasRunning {
			t.Error("a pod that never had a database counts as having run")
		}
		if err := r.stage(plain); err != nil {
			t.Fatal(err)
		}
		r.must(restore.ActInhibit, restore.ActStop, restore.ActExchange, restore.ActAllow, restore.ActStart, restore.ActResume)
		expect(t, "restored after all", dir, files)
	})
	t.Run("rollback", func(t *testing.T) {
		r, dir, files := newPods(t)
		r.must(restore.ActLock)
		if err := r.stage(plain); err != nil {
			t.Fatal(err)
		}
		r.must(restore.ActInhibit, restore.ActStop, restore.ActExchange, restore.ActRevert, restore.ActDiscard, restore.ActAllow)
		expect(t, "allowed", dir, files, clients...) // whether or not it ran before
		r.must(restore.ActResume, restore.ActUnlock)
		expect(t, "rolled back", dir, files)
	})
}

// A move that was cut off anywhere is completed, and a manifest that somebody else writes meanwhile is not overwritten.
func TestManifestsAreNotLost(t *testing.T) {
	r, dir, files := newPods(t)
	r.must(restore.ActLock)
	p, err := newPlace(r.member, r.run)
	if err != nil {
		t.Fatal(err)
	}
	s := staticPod{p, r.member.Service.StaticPod}
	// Cut off after the copy was made, before the manifest was removed.
	if err := os.WriteFile(s.held(s.manifest), []byte(etcdManifest), 0o640); err != nil {
		t.Fatal(err)
	}
	r.must(restore.ActInhibit)
	if _, err := os.Stat(s.manifest); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the manifest is still in place: %v", err)
	}
	// The same on the way back.
	if err := os.WriteFile(s.manifest, []byte(etcdManifest), 0o640); err != nil {
		t.Fatal(err)
	}
	if s := r.state(); !s.Active {
		t.Error("a manifest that somebody put back is not noticed")
	}
	if err := r.stage(plain); err != nil {
		t.Fatal(err)
	}
	if err := r.apply(restore.ActExchange); err == nil {
		t.Error("exchanged although somebody put the manifest back")
	}
	r.must(restore.ActAllow, restore.ActResume)
	expect(t, "put back by somebody", dir, files)

	r.must(restore.ActInhibit)
	changed := strings.Replace(etcdManifest, "3.5.15", "3.5.16", 1)
	if err := os.WriteFile(s.manifest, []byte(changed), 0o640); err != nil {
		t.Fatal(err)
	}
	r.must(restore.ActInhibit, restore.ActAllow, restore.ActResume)
	files["etcd.yaml"] = changed
	expect(t, "changed meanwhile", dir, files)
	if old, err := os.ReadFile(s.held(s.manifest) + replacedSuffix); err != nil || string(old) != etcdManifest {
		t.Errorf("the manifest that was replaced is lost: %v", err)
	}

	if err := os.Remove(s.manifest); err != nil {
		t.Fatal(err)
	}
	if err := r.apply(restore.ActInhibit); err == nil {
		t.Error("a manifest that is nowhere is no problem")
	}
	if err := os.Symlink(s.held("kube-scheduler.yaml"), filepath.Join(dir, "again.yaml")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.manifest, []byte(etcdManifest), 0o640); err != nil {
		t.Fatal(err)
	}
	if o := s.look(t.Context()); !slices.ContainsFunc(o.problems, func(p restore.Problem) bool { return strings.Contains(p.Detail, "again.yaml is no plain file") }) {
		t.Errorf("problems %+v", o.problems)
	}
	if err := os.Remove(s.manifest); err != nil {
		t.Fatal(err)
	}
	if problems := s.look(t.Context()).problems; len(problems) != 1 || !strings.Contains(problems[0].Detail, "is not there") {
		t.Errorf("problems %+v", problems)
	}
}

// What a pod would start etcd with is read from its manifest, paths as they lie on the host.
func TestManifestSettings(t *testing.T) {
	file := filepath.Join(t.TempDir(), "etcd.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(etcdManifest)
	s := staticPod{&place{member: restore.Member{Name: "cp1", DataDir: "/data/etcd"}}, file}
	o := s.look(t.Context())
	want := restore.Flags{From: "manifest " + file, Name: "cp1", DataDir: "/data/etcd", WALDir: "/data/etcd/wal", Complete: true,
		ListenClient: []string{"https://127.0.0.1:2379", "https://10.0.0.1:2379"}, AdvertiseClient: []string{"https://10.0.0.1:2379"},
		TLSFiles: []string{"/etc/kubernetes/pki/etcd/server.crt"}}
	if o.flags == nil || !reflect.DeepEqual(*o.flags, want) {
		t.Errorf("%+v\nwant %+v", o.flags, want)
	}
	if o.version != "3.5.15" || o.owner == nil || *o.owner != (owner{995, 0}) {
		t.Errorf("version %q, owner %+v", o.version, o.owner)
	}
	for what, c := range map[string]struct{ from, to, problem string }{
		"no volume":      {"path: /data/etcd", "", "lies on no hostPath"},
		"no pod":         {"kind: Pod", "kind: Deployment", "kind \"Deployment\""},
		"no YAML":        {"kind: Pod", "kind: [", "is no manifest"},
		"something else": {"- etcd\n", "- nginx\n", ""},
	} {
		write(strings.Replace(etcdManifest, c.from, c.to, 1))
		o := s.look(t.Context())
		if c.problem != "" && !slices.ContainsFunc(o.problems, func(p restore.Problem) bool { return !p.Warn && strings.Contains(p.Detail, c.problem) }) {
			t.Errorf("%s: %+v", what, o.problems)
		}
	}
	write(strings.Replace(etcdManifest, "value: cp1", "valueFrom: {fieldRef: {fieldPath: spec.nodeName}}", 1))
	if o := s.look(t.Context()); o.flags.Name != "" || o.flags.Complete {
		t.Errorf("a name that only the kubelet knows counts as known: %+v", o.flags)
	}
}

// A process is the pod's only if its whole command line is: another control plane may run on the same machine.
func TestPodProcess(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kube-apiserver.yaml")
	text := "kind: Pod\nspec:\n  containers:\n  - command: [kube-apiserver, --secure-port=6444, --advertise-address=$(HOST)]\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := readPod(file)
	if err != nil {
		t.Fatal(err)
	}
	if p.port() != "6444" || p.program() != "kube-apiserver" {
		t.Errorf("port %s, program %s", p.port(), p.program())
	}
	for line, want := range map[string]bool{
		"/usr/local/bin/kube-apiserver --secure-port=6444 --advertise-address=10.0.0.1": true,
		"kube-apiserver --secure-port=6443 --advertise-address=10.0.0.1":                false,
		"kube-apiserver --secure-port=6444":                                             false,
		"etcd --secure-port=6444 --advertise-address=10.0.0.1":                          false,
		"": false,
	} {
		if got := p.runsAs(strings.Fields(line)); got != want {
			t.Errorf("%q: %v", line, got)
		}
	}
}

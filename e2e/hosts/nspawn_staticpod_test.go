package hosts

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

const (
	manifests = "/etc/kubernetes/manifests"
	// kubeletLog has a line for each start and stop of a pod: which, the inode of etcd's data dir, and whether etcd has served since its last start.
	kubeletLog = "/var/log/kubelet.log"
)

// kubelet runs what the manifests say for as long as they are there, each in a mount namespace of its own with its hostPaths, and starts again what
// has ended. It ignores hidden files, as the real one does, and takes its time to notice a change.
const kubelet = `#!/bin/bash
shopt -s nullglob
declare -A pid sum
begun=0
say() {
  local name=$(basename "$2" .yaml) health=sick
  if [ "$1 $name" = "start etcd" ]; then begun=$(stat -c %s /var/log/etcd.log 2>/dev/null || echo 0); fi
  tail -c +$((begun + 1)) /var/log/etcd.log 2>/dev/null | grep -q "ready to serve client requests" && health=healthy
  echo "$1 $name $(stat -c %i /var/lib/etcd 2>/dev/null || echo none) $health" >>` + kubeletLog + `
}
start() {
  mapfile -t argv < <(sed -n '/^    command:/,/^    [a-z]/s/^    - //p' "$1")
  mapfile -t inside < <(sed -n 's/^    - mountPath: //p' "$1")
  mapfile -t outside < <(sed -n 's/^      path: //p' "$1")
  say start "$1"
  unshare --mount --propagation private bash -c '
    n=$1; shift
    for ((i = 0; i < n; i++)); do mkdir -p "$1" "$2"; mount --bind "$1" "$2"; shift 2; done
    exec "$@"' pod ${#inside[@]} $(for i in "${!inside[@]}"; do echo "${outside[i]} ${inside[i]}"; done) "${argv[@]}" \
    >>/var/log/$(basename "$1" .yaml).log 2>&1 </dev/null &
  pid[$1]=$!
}
stop() {
  say stop "$1"
  kill "${pid[$1]}" 2>/dev/null
  for ((i = 0; i < 300; i++)); do kill -0 "${pid[$1]}" 2>/dev/null || break; sleep 0.1; done
  kill -KILL "${pid[$1]}" 2>/dev/null
  wait "${pid[$1]}"
  unset "pid[$1]" "sum[$1]"
}
while sleep 0.5; do
  for f in "${!pid[@]}"; do [ -e "$f" ] || stop "$f"; done
  for f in ` + manifests + `/[!.]*.yaml; do
    now=$(sha256sum <"$f") || continue
    if [ -n "${pid[$f]}" ] && [ "${sum[$f]}" != "$now" ]; then stop "$f"; fi
    if [ -z "${pid[$f]}" ] || ! kill -0 "${pid[$f]}" 2>/dev/null; then sum[$f]=$now; start "$f"; fi
  done
done
`

const kubeletUnit = `[Unit]
Description=what stands in for a kubelet
[Service]
ExecStart=/bin/bash -c 'exec -a kubelet bash /usr/local/bin/kubelet'
Restart=always
[Install]
WantedBy=multi-user.target
`

// pods makes the host one of a control plane: a kubelet, the manifests of etcd and of its three clients. These are etcd's own gateway: it listens
// on a port, and passes on to etcd. etcd's dir has another path in the pod than on the host.
func (h *debian) pods(t testing.TB, cluster []*debian, state string) map[string]string {
	t.Helper()
	var initial []string
	for _, m := range cluster {
		initial = append(initial, m.name+"="+m.peerURL())
	}
	manifest := func(name string, command []string, volume string) string {
		return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata:
  labels: {component: %[1]s, tier: control-plane}
  name: %[1]s
  namespace: kube-system
spec:
  containers:
  - name: %[1]s
    image: registry.example.com/%[1]s:%[2]s-0
    command:
    - %[3]s
%[4]s  hostNetwork: true
  priorityClassName: system-node-critical
`, name, etcdtest.Latest, strings.Join(command, "\n    - "), volume)
	}
	gateway := func(name string, port int) string {
		return manifest(name, []string{name, "gateway", "start", fmt.Sprintf("--listen-addr=0.0.0.0:%d", port), "--endpoints=" + h.addr + ":2379"}, "")
	}
	files := map[string]string{
		"etcd.yaml": manifest("etcd", []string{"etcd", "--name=" + h.name, "--data-dir=/data", "--listen-client-urls=" + h.clientURL(), "--advertise-client-urls=" + h.clientURL(),
			"--listen-peer-urls=" + h.peerURL(), "--initial-advertise-peer-urls=" + h.peerURL(), "--initial-cluster=" + strings.Join(initial, ","),
			"--initial-cluster-state=" + state, "--logger=zap"},
			"    volumeMounts:\n    - mountPath: /data\n      name: etcd-data\n  volumes:\n  - hostPath:\n      path: "+debianData+"\n      type: DirectoryOrCreate\n    name: etcd-data\n"),
		"kube-apiserver.yaml":          gateway("kube-apiserver", 6443),
		"kube-controller-manager.yaml": gateway("kube-controller-manager", 10257),
		"kube-scheduler.yaml":          gateway("kube-scheduler", 10259),
	}
	for name, text := range files {
		h.file(t, filepath.Join(manifests, name), text, 0o600)
	}
	return files
}

// runKubelet starts the kubelet, on this boot and on all later ones.
func (h *debian) runKubelet(t testing.TB) {
	t.Helper()
	h.file(t, "/usr/local/bin/kubelet", kubelet, 0o755)
	h.file(t, "/etc/systemd/system/kubelet.service", kubeletUnit, 0o644)
	for _, name := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		h.exec(t, "ln", "-sf", "etcd", "/usr/local/bin/"+name)
	}
	h.exec(t, "systemctl", "daemon-reload")
	h.exec(t, "systemctl", "enable", "--now", "kubelet")
}

// intact fails the test unless every manifest lies in its place as it was, and none anywhere else.
func (h *debian) intact(t testing.TB, files map[string]string) {
	t.Helper()
	for name, want := range files {
		if h.read(t, filepath.Join(manifests, name)) != want {
			t.Errorf("%s on %s is not as it was", name, h.name)
		}
	}
	listed := strings.Fields(h.exec(t, "sh", "-c", "ls -A "+manifests+"; ls "+debianData+".requorum | grep -E 'held|replaced|inhibited|lock$' || true"))
	if want := slices.Sorted(maps.Keys(files)); !slices.Equal(slices.Sorted(slices.Values(listed)), want) {
		t.Errorf("on %s there are %v, not %v", h.name, listed, want)
	}
}

// clientsRun waits until the kubelet runs the control plane again.
func (h *debian) clientsRun(t testing.TB) {
	t.Helper()
	for _, name := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		until(t, name+" on "+h.name, func() bool {
			out, _ := h.try(t, "sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '")
			return strings.Contains(out, name+" gateway start")
		})
	}
}

func TestStaticPods(t *testing.T) {
	t.Parallel()
	s, hosts := newDebians(t, 3)
	files := map[string]map[string]string{}
	for _, h := range hosts {
		h.pods(t, hosts, "new")
		h.runKubelet(t)
	}
	client := s.client(t, s.hosts...)
	s.serves(t, client)
	etcdtest.MustFill(t, client, etcdtest.FillOptions{Keys: 500})
	// From here on the manifests are as kubeadm leaves them: each knows of those that joined before it, all but the first as existing.
	for i, h := range hosts {
		state := "existing"
		if i == 0 {
			state = "new"
		}
		files[h.name] = h.pods(t, hosts[:i+1], state)
	}
	for _, h := range hosts {
		until(t, "the changed etcd on "+h.name, func() bool {
			return strings.Count(h.read(t, kubeletLog), "start etcd ") >= 2
		})
		h.clientsRun(t)
	}
	s.serves(t, client)
	d := s.debianDesk(t, "desk1", "{static_pod: "+manifests+"/etcd.yaml}", debianData, hosts)
	d.run(t, "backup", "dcs").Exits(t, command.ExitOK)
	want := s.rows(t, s.hosts...)
	legit := map[string]bool{clusterOf(t, client): true}

	t.Run("wrong configuration", func(t *testing.T) {
		d := s.debianDesk(t, "desk2", "{static_pod: "+manifests+"/etcd.yaml}", "/data", hosts)
		d.run(t, "restore", "dcs", "--replace-healthy", "dcs", "--yes").Exits(t, command.ExitError,
			"data dir is /data in the configuration, "+debianData+" by manifest "+manifests+"/etcd.yaml")
		d = s.debianDesk(t, "desk3", "{static_pod: "+manifests+"/etcd2.yaml}", debianData, hosts)
		d.run(t, "restore", "dcs", "--replace-healthy", "dcs", "--yes").Exits(t, command.ExitError, manifests+"/etcd2.yaml is not there")
	})

	t.Run("restore", func(t *testing.T) {
		for _, h := range hosts {
			h.file(t, kubeletLog, "", 0o644)
		}
		etcdtest.Put(t, client, "/late", "lost")
		d.rebuild(t, "--replace-healthy", "dcs")
		etcdtest.MustEqual(t, want, s.rows(t, s.hosts...))
		legit[clusterOf(t, client)] = true
		for _, h := range hosts {
			h.clientsRun(t)
			h.intact(t, files[h.name])
			inode := strings.TrimSpace(h.exec(t, "stat", "-c", "%i", debianData))
			log := h.read(t, kubeletLog)
			for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
				if !strings.Contains(log, "stop "+name+" ") || strings.Contains(log, "stop "+name+" "+inode+" ") {
					t.Errorf("on %s, %s was not stopped before the exchange:\n%s", h.name, name, log)
				}
				if name != "etcd" && !strings.Contains(log, "start "+name+" "+inode+" healthy\n") {
					t.Errorf("on %s, %s came back before etcd was healthy on its new data dir:\n%s", h.name, name, log)
				}
			}
			if strings.Index(log, "start kube-scheduler") < strings.Index(log, "start kube-apiserver") {
				t.Errorf("on %s the scheduler came back before the API server:\n%s", h.name, log)
			}
		}
	})

	// The hosts lose their power with the manifests away; then everything goes back, or on.
	for point, verb := range map[string]string{"stop": "restore", "exchange": "rollback"} {
		t.Run("power cut after "+point+", then "+verb, func(t *testing.T) {
			etcdtest.Put(t, client, "/late", point)
			before := s.rows(t, s.hosts...)
			d.killedAfter(t, point, "restore", "dcs", "--replace-healthy", "dcs", "--yes")
			for _, h := range hosts {
				h.cut(t)
			}
			for _, h := range hosts {
				h.file(t, kubeletLog, "", 0o644)
			}
			boot(t, hosts...)
			for _, h := range hosts {
				until(t, "the kubelet on "+h.name, func() bool { return h.unit(t, "kubelet", "ActiveState") == "active" })
			}
			quiet(t, 3*time.Second, func() {
				for _, h := range hosts {
					if log := h.read(t, kubeletLog); log != "" {
						t.Fatalf("on %s pods ran in the middle of the swap, after a reboot:\n%s", h.name, log)
					}
				}
			})
			if verb == "restore" {
				d.rebuild(t)
				before = want
			} else {
				d.run(t, "rollback", "dcs", "--yes").Exits(t, command.ExitOK)
			}
			etcdtest.MustEqual(t, before, s.rows(t, s.hosts...))
			legit[clusterOf(t, client)] = true
			for _, h := range hosts {
				h.clientsRun(t)
				h.intact(t, files[h.name])
				h.onlyIn(t, h.read(t, "/var/log/etcd.log"), legit)
			}
		})
	}
}

// quiet looks again and again for a while that something does not happen.
func quiet(t testing.TB, long time.Duration, look func()) {
	t.Helper()
	for end := time.Now().Add(long); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		look()
	}
}

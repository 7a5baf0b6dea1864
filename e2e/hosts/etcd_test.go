package hosts

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/requorum/requorum/internal/etcdtest"
)

// dataDir is where each host's etcd has its data, the same path on all.
const dataDir = "/srv/etcd"

func (h *host) clientURL() string { return "http://" + h.addr + ":2379" }
func (h *host) peerURL() string   { return "http://" + h.addr + ":2380" }

// service is the host's etcd as a configuration names it: a script that is to etcd what a service manager would be. It
// outlives a power cut, as the file that forbids starts does.
func (h *host) service() string {
	const script = "/srv/etcd.sh"
	return fmt.Sprintf("{start: %s start, stop: %[1]s stop, status: %[1]s status, inhibit: %[1]s inhibit, allow: %[1]s allow}", script)
}

// install puts etcd on the host, as a member of a cluster of all that are named.
func (h *host) install(t testing.TB, version string, cluster []*host) {
	t.Helper()
	var initial []string
	for _, m := range cluster {
		initial = append(initial, m.name+"="+m.peerURL())
	}
	text := fmt.Sprintf(`#!/bin/sh
status() { pid=$(cat /srv/etcd.pid 2>/dev/null) && [ -r /proc/$pid/cmdline ] && grep -q -e --data-dir /proc/$pid/cmdline; }
case $1 in
start)
  if [ -e /srv/held ]; then echo "starts are forbidden" >&2; exit 1; fi
  status && exit 0
  setsid %s --name %s --data-dir %s --listen-client-urls %s --advertise-client-urls %[4]s --listen-peer-urls %s \
    --initial-advertise-peer-urls %[5]s --initial-cluster %s --initial-cluster-token old %s --logger zap --log-outputs stderr \
    >>/srv/etcd.log 2>&1 </dev/null &
  echo $! >/srv/etcd.pid
  until status || ! grep -q . /proc/$!/cmdline 2>/dev/null; do sleep 0.05; done ;; # it is, or has ended
stop)
  status || exit 0
  kill "$pid"
  while status; do sleep 0.05; done ;;
status) status ;;
inhibit) touch /srv/held ;;
allow) rm -f /srv/held ;;
esac
`, etcdtest.Binary(t, "etcd", version), h.name, dataDir, h.clientURL(), h.peerURL(), strings.Join(initial, ","), h.flags)
	if err := os.WriteFile(h.disk("srv", "etcd.sh"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// startEtcd does what a service manager does when the host has booted.
func (h *host) startEtcd(t testing.TB) {
	t.Helper()
	h.exec(t, "/srv/etcd.sh", "start")
}

// wipe loses the host's data: what etcd has, and what requorum left beside it.
func (h *host) wipe(t testing.TB) {
	t.Helper()
	h.exec(t, "sh", "-c", "cd /srv && rm -rf etcd etcd.requorum etcd.staged-* etcd.before-*")
}

// found starts a new cluster on the hosts and waits until it serves.
func (s *site) found(t testing.TB, hosts ...*host) *clientv3.Client {
	t.Helper()
	for _, h := range hosts {
		h.install(t, etcdtest.Latest, hosts)
	}
	for _, h := range hosts {
		h.startEtcd(t)
	}
	client := s.client(t, hosts...)
	s.serves(t, client)
	return client
}

// client is one of the test's own, at the desk.
func (s *site) client(t testing.TB, hosts ...*host) *clientv3.Client {
	t.Helper()
	var endpoints []string
	for _, h := range hosts {
		endpoints = append(endpoints, h.clientURL())
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 5 * time.Second, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(s.dial)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// serves waits until each of the client's endpoints answers a linearizable read.
func (s *site) serves(t testing.TB, client *clientv3.Client) {
	t.Helper()
	for _, e := range client.Endpoints() {
		until(t, e+" to serve", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			one, err := clientv3.New(clientv3.Config{Endpoints: []string{e}, Logger: zap.NewNop(), DialOptions: []grpc.DialOption{grpc.WithContextDialer(s.dial)}})
			if err != nil {
				t.Fatal(err)
			}
			defer one.Close()
			_, err = one.Get(ctx, "x")
			return err == nil
		})
	}
}

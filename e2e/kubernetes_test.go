package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/requorum/requorum/agents/agentstest"
	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// A control plane writes to etcd what API servers write: registrations, each time under a new lease, and Lease objects.
type controlPlane struct {
	client *clientv3.Client
	stop   context.CancelFunc
	ctx    context.Context
	wg     sync.WaitGroup
}

func (s *site) controlPlane() *controlPlane {
	s.t.Helper()
	cfg := s.ClientConfig()
	// It finds an etcd that comes back at once, however long that was away.
	cfg.DialOptions = append(cfg.DialOptions, grpc.WithConnectParams(grpc.ConnectParams{
		Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.5, MaxDelay: time.Second}, MinConnectTimeout: 5 * time.Second}))
	client, err := clientv3.New(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	p := &controlPlane{client: client}
	p.ctx, p.stop = context.WithCancel(context.Background())
	s.t.Cleanup(func() { p.end(); client.Close() })
	return p
}

func (p *controlPlane) end() {
	p.stop()
	p.wg.Wait()
}

// every writes again and again until the end; that etcd is away is nothing new to it.
func (p *controlPlane) every(pause time.Duration, write func(ctx context.Context) error) {
	p.wg.Go(func() {
		for p.ctx.Err() == nil {
			ctx, cancel := context.WithTimeout(p.ctx, 5*time.Second)
			_ = write(ctx) // it tries again
			cancel()
			select {
			case <-p.ctx.Done():
			case <-time.After(pause):
			}
		}
	})
}

func (p *controlPlane) server(address string) {
	generation := uint64(0)
	p.every(2*time.Second, func(ctx context.Context) error {
		generation++
		lease, err := p.client.Grant(ctx, 15)
		if err != nil {
			return err
		}
		_, err = p.client.Put(ctx, "/registry/masterleases/"+address, agentstest.KubernetesRegistration(address, generation), clientv3.WithLease(lease.ID))
		return err
	})
}

func (p *controlPlane) holder(name, holder string) {
	p.every(time.Second, func(ctx context.Context) error {
		namespace, object, _ := strings.Cut(name, "/")
		_, err := p.client.Put(ctx, "/registry/leases/"+name, agentstest.KubernetesLease(namespace, object, holder, 15, time.Now().UTC()))
		return err
	})
}

// An API server's registration is a ghost and goes; events are data and stay with their leases; Lease objects stay, and their holders
// are proven by renewing them. What is encrypted at rest is unknown, and what is missing is named.
func TestKubernetes(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{etcd: etcdtest.Options{Members: 1}, cluster: "    agents: [{kubernetes: {deadline: 90s}}]\n"})
	client := s.Client(t)
	etcdtest.Lease(t, client, time.Hour, "/registry/events/default/pod.17")
	etcdtest.Put(t, client, "/registry/pods/default/pod", "k8s\x00…")
	old := time.Now().Add(-24 * time.Hour).UTC()
	etcdtest.Put(t, client, "/registry/leases/default/abandoned", agentstest.KubernetesLease("default", "abandoned", "gone_1", 15, old))

	before := s.controlPlane()
	before.server("10.0.0.1")
	before.server("10.0.0.2")
	before.holder("kube-system/kube-scheduler", "cp1_aaaa")
	before.holder("kube-node-lease/worker1", "worker1")
	before.holder("kube-node-lease/worker2", "worker2")
	until(t, "everyone to write", func() bool { return len(etcdtest.Rows(t, client)) == 8 })
	s.run("check", "dcs", "--wait", "60s").Exits(t, 2, "there is no backup", "agent kubernetes /registry/: RECONNECTED", "2 of 2: 10.0.0.1, 10.0.0.2", "kube-system/kube-scheduler by cp1_aaaa", "2 of 2: worker1, worker2")
	s.backup()
	s.run("show", "dcs", "latest").Exits(t, command.ExitOK, "kubernetes /registry/", "api_servers: 10.0.0.1, 10.0.0.2", "name kube-system/kube-scheduler, holder cp1_aaaa", "count: 2", "silent true")
	before.end()
	s.lose()

	// One node stays away, and another machine leads.
	after := s.controlPlane()
	after.server("10.0.0.1")
	after.server("10.0.0.2")
	after.holder("kube-system/kube-scheduler", "cp2_bbbb")
	after.holder("kube-node-lease/worker1", "worker1")
	r := s.run("-o", "json", "restore", "dcs", "--yes", "--agent-deadline", "30s").Exits(t, command.ExitAgents, "kube-node-lease/worker2 (last held by worker2)", "cp2_bbbb")
	var report restored
	r.Decode(t, &report)
	if len(report.GhostsRemoved) != 1 || report.GhostsRemoved[0].Prefix != "/registry/masterleases/" || report.GhostsRemoved[0].Count != 2 {
		t.Errorf("removed %+v: only registrations are ghosts", report.GhostsRemoved)
	}
	if rows := fmt.Sprint(etcdtest.Rows(t, s.Client(t))); !strings.Contains(rows, "/registry/events/default/pod.17") || !strings.Contains(rows, "default/abandoned") {
		t.Error("events or Lease objects are lost")
	}
	s.run("check", "dcs", "--wait", "20s").Exits(t, 2, "NOT BACK", "1 of 2: worker1; not: kube-node-lease/worker2") // a node that fell silent minutes ago

	// The same with less asked of the nodes, and with an object that nobody can read.
	after.holder("kube-node-lease/worker2", "worker2")
	etcdtest.Put(t, s.Client(t), "/registry/leases/kube-system/secret", "k8s:enc:aescbc:v1:key1:\x01\xff")
	etcdtest.Put(t, s.Client(t), "/registry/leases/kube-system/garbage", "\x00\xff\x1b[2J")
	s.cluster = "    agents: [{kubernetes: {nodes: 50%, deadline: 90s}}]\n"
	s.configure()
	s.backup()
	s.run("show", "dcs", "latest").Exits(t, command.ExitOK, `encrypted at rest ("aescbc"): 1`, "not in a known form: 1")
	after.end()
	s.lose()
	last := s.controlPlane()
	last.server("10.0.0.1")
	last.server("10.0.0.2")
	last.holder("kube-system/kube-scheduler", "cp2_bbbb")
	last.holder("kube-node-lease/worker1", "worker1")
	last.every(time.Second, func(ctx context.Context) error {
		for _, name := range []string{"secret", "garbage"} {
			if _, err := last.client.Put(ctx, "/registry/leases/kube-system/"+name, "k8s:enc:aescbc:v1:key1:\x02"); err != nil {
				return err
			}
		}
		return nil
	})
	s.run("restore", "dcs", "--yes").Exits(t, command.ExitOK, "agent    kubernetes /registry/: UNKNOWN", "2 of 2 written since", "1 of 2: worker1")
}

package hosts

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// TestBastion has a desk that reaches a bastion and nothing else, through a ProxyCommand that runs ssh itself. The member's SSH and etcd are reached so, and the agents' REST
// APIs through the member: one is on its machine, the other on a machine that only the member reaches, and that nobody can log in to.
func TestBastion(t *testing.T) {
	t.Parallel()
	s := newSite(t, 3)
	member, gate, apart := s.hosts[0], s.hosts[1], s.hosts[2]
	member.sshOnlyFrom(t, gate)
	apart.sshOnlyFrom(t)
	member.hideFromDesk(t)
	member.hide(t, agentPort, deskAddr, gate.addr)
	apart.hide(t, agentPort, deskAddr, gate.addr)
	s.view = gate.ns

	d := s.newDesk(t, "desk1", member)
	ssh := func(name string) string { return filepath.Join(d.dir, ".ssh", name) }
	config := fmt.Sprintf(`Host h1
  HostName %s
  User root
  ProxyCommand ssh -F %s -W [%%h]:%%p gate
Host gate
  HostName %s
  User root
  IdentityFile %s
  IdentitiesOnly yes
  UserKnownHostsFile %s
`, member.addr, ssh("config"), gate.addr, ssh("id_ed25519"), ssh("known_hosts"))
	d.file(t, ".ssh/config", config)
	d.members[0].url = "ssh://h1"
	a, b := s.agent(t, member, "a", "master"), s.agent(t, apart, "b", "replica")
	d.more = fmt.Sprintf("    agents:\n      - patroni: {scope: main, rest: [%q, %q]}\n", a.url(), b.url())
	d.configure(t)

	client := s.found(t, member)
	for _, addr := range []string{member.addr + ":22", member.addr + ":2379", a.addr(), b.addr()} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if conn, err := dialFrom(ctx, s.desk, addr); err == nil {
			conn.Close()
			t.Fatalf("the desk reaches %s by itself: nothing that follows shows anything", addr)
		}
		cancel()
	}
	etcdtest.MustFill(t, client, etcdtest.FillOptions{Keys: 500})
	registered(t, client, a, b)
	d.run(t, "config", "check").Exits(t, command.ExitOK)
	d.run(t, "backup", "dcs").Exits(t, command.ExitOK)
	want := s.rows(t, member)
	member.off(t)
	member.on(t)
	member.wipe(t)

	// What ssh says is in the error.
	d.file(t, ".ssh/config", strings.ReplaceAll(config, "UserKnownHostsFile "+ssh("known_hosts"), "UserKnownHostsFile /dev/null"))
	d.run(t, "config", "check").Exits(t, command.ExitUsage, "ProxyCommand \"ssh -F "+ssh("config")+" -W ["+member.addr+"]:22 gate\" ended: exit status 255", "Host key verification failed.")
	d.file(t, ".ssh/config", config)

	// An agent that is away is missed: so the other answered.
	b.close()
	d.run(t, "restore", "dcs", "--yes").Exits(t, command.ExitRefused, "1 of 2 agents did not answer", b.url())
	b.serve(t)
	d.run(t, "restore", "dcs", "--yes").Exits(t, command.ExitOK, "members registered anew", "agents see etcd after", "WAL moves on every replica after")
	etcdtest.MustEqual(t, want, s.rows(t, member))

	until(t, "every ssh at the desk to be gone", func() bool {
		out, err := exec.Command("ip", "netns", "pids", s.desk).Output()
		if err != nil {
			return false
		}
		for _, pid := range strings.Fields(string(out)) {
			if name, err := os.ReadFile("/proc/" + pid + "/comm"); err == nil && strings.TrimSpace(string(name)) == "ssh" {
				return false
			}
		}
		return true
	})
}

// hide closes a port of the host to some addresses.
func (h *host) hide(t testing.TB, port string, from ...string) {
	t.Helper()
	for _, addr := range from {
		ip(t, "-n", h.ns, "rule", "add", "ipproto", "tcp", "sport", port, "to", addr, "pref", "10", "prohibit")
	}
}

const (
	agentPort = "8008" // of Patroni's REST API
	systemID  = "7123456789012345678"
)

// A standIn answers on a host as an agent of Patroni does, and keeps itself registered.
type standIn struct {
	host       *host
	name, role string
	began      time.Time

	mu     sync.Mutex
	server *http.Server
}

// agent starts one.
func (s *site) agent(t testing.TB, h *host, name, role string) *standIn {
	t.Helper()
	a := &standIn{host: h, name: name, role: role, began: time.Now()}
	a.serve(t)
	t.Cleanup(a.close)
	return a
}

func (a *standIn) addr() string { return net.JoinHostPort(a.host.addr, agentPort) }
func (a *standIn) url() string  { return "http://" + a.addr() }

// serve has the agent answer.
func (a *standIn) serve(t testing.TB) {
	t.Helper()
	l, err := listenIn(a.host.ns, a.addr())
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: a, ReadHeaderTimeout: time.Minute}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.server = server
	go func() { _ = server.Serve(l) }() // until it is closed
}

// close has it answer no more.
func (a *standIn) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	_ = a.server.Close() // there is nothing to lose
}

func (a *standIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/primary":
		if a.role != "master" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	case "/patroni":
		now := time.Now()
		lsn := 0x3000000 + now.Sub(a.began).Milliseconds()
		xlog, replication := fmt.Sprintf(`{"location":%d}`, lsn), `[{"application_name":"b","state":"streaming"}]`
		if a.role != "master" {
			xlog, replication = fmt.Sprintf(`{"received_location":%d,"replayed_location":%[1]d}`, lsn), "[]"
		}
		fmt.Fprintf(w, `{"state":"running","role":%q,"timeline":1,"xlog":%s,"replication":%s,"dcs_last_seen":%d,"database_system_identifier":%q,"patroni":{"version":"3.0.2","scope":"main"}}`,
			a.role, xlog, replication, now.Unix(), systemID)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// registered keeps agents registered, as often as etcd is lost, until the test ends. The first of them leads.
func registered(t testing.TB, client *clientv3.Client, all ...*standIn) {
	t.Helper()
	const dir = "/service/main/"
	for key, value := range map[string]string{"initialize": systemID, "config": `{"ttl":30,"loop_wait":1}`} {
		etcdtest.Put(t, client, dir+key, value)
	}
	register := func(ctx context.Context, i int) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		a := all[i]
		key := dir + "members/" + a.name
		found, err := client.Get(ctx, key)
		if err != nil {
			return err
		}
		if len(found.Kvs) == 1 {
			_, err := client.KeepAliveOnce(ctx, clientv3.LeaseID(found.Kvs[0].Lease))
			return err
		}
		lease, err := client.Grant(ctx, 30)
		if err != nil {
			return err
		}
		put := []clientv3.Op{clientv3.OpPut(key, fmt.Sprintf(`{"api_url":"%s/patroni","state":"running","role":%q}`, a.url(), a.role), clientv3.WithLease(lease.ID))}
		if i == 0 {
			put = append(put, clientv3.OpPut(dir+"leader", a.name, clientv3.WithLease(lease.ID)))
		}
		_, err = client.Txn(ctx).Then(put...).Commit()
		return err
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for i := range all {
		until(t, all[i].name+" to register", func() bool { return register(ctx, i) == nil })
		running.Go(func() {
			for ctx.Err() == nil {
				_ = register(ctx, i) // etcd may be away
				select {
				case <-ctx.Done():
				case <-time.After(time.Second):
				}
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

// listenIn listens in a network namespace.
func listenIn(ns, addr string) (l net.Listener, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // which ends with this goroutine; a socket stays where it was made
		var away *os.File
		if away, err = os.Open("/run/netns/" + ns); err != nil {
			return
		}
		defer away.Close()
		if err = unix.Setns(int(away.Fd()), unix.CLONE_NEWNET); err != nil {
			return
		}
		l, err = net.Listen("tcp", addr)
	}()
	<-done
	return l, err
}

package hosts

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// etcdUnit is etcd as distributions package it: settings in an environment file, another user, restarted for ever.
const etcdUnit = `[Unit]
Description=etcd
After=network.target
[Service]
Type=notify
User=etcd
EnvironmentFile=/etc/default/etcd
ExecStart=/usr/local/bin/etcd $DAEMON_ARGS
Restart=always
RestartSec=500ms
LimitNOFILE=65536
[Install]
WantedBy=multi-user.target
`

// agentUnit is a program that requires etcd, and that no restore is to stop.
const agentUnit = `[Unit]
Requires=etcd.service
After=etcd.service
[Service]
ExecStart=/bin/sleep infinity
`

// installUnit makes the host a member of a cluster of all that are named, and enables its unit.
func (h *debian) installUnit(t testing.TB, cluster []*debian) {
	t.Helper()
	var initial []string
	for _, m := range cluster {
		initial = append(initial, m.name+"="+m.peerURL())
	}
	h.file(t, "/etc/systemd/system/etcd.service", etcdUnit, 0o644)
	h.file(t, "/etc/systemd/system/agent.service", agentUnit, 0o644)
	h.file(t, "/etc/default/etcd", fmt.Sprintf(`# settings of etcd
ETCD_NAME=%s
ETCD_DATA_DIR="%s"
ETCD_LISTEN_CLIENT_URLS="%s"
ETCD_ADVERTISE_CLIENT_URLS="%[3]s"
ETCD_LISTEN_PEER_URLS='%s'
ETCD_INITIAL_ADVERTISE_PEER_URLS=%[4]s
ETCD_INITIAL_CLUSTER=%s
DAEMON_ARGS="--logger zap --initial-cluster-token old"
`, h.name, debianData, h.clientURL(), h.peerURL(), strings.Join(initial, ",")), 0o644)
	h.exec(t, "install", "-d", "-o", "etcd", "-g", "etcd", "-m", "700", debianData)
	h.exec(t, "systemctl", "daemon-reload")
	h.exec(t, "systemctl", "enable", "--now", "--no-block", "etcd")
}

// debianDesk is a desk whose configuration names the hosts with a service and a data dir.
func (s *site) debianDesk(t testing.TB, name, service, data string, hosts []*debian) *desk {
	t.Helper()
	var plain []*host
	for _, h := range hosts {
		plain = append(plain, h.host)
	}
	d := s.newDesk(t, name, plain...)
	var b strings.Builder
	fmt.Fprintf(&b, "clusters:\n  dcs:\n    stores: [main]\n    members:\n")
	for _, h := range hosts {
		fmt.Fprintf(&b, "      - {name: %s, host: %q, peer_url: %q, client_url: %q, data_dir: %s, service: %s}\n",
			h.name, h.ssh("root"), h.peerURL(), h.clientURL(), data, service)
	}
	fmt.Fprintf(&b, "stores:\n  main: {file: {path: %s}}\nspool_dir: %s\nallow_tmpfs_spool: true\n", filepath.Join(s.dir, "store"), filepath.Join(d.dir, "spool"))
	d.file(t, "requorum.yaml", b.String())
	return d
}

var clusterID = regexp.MustCompile(`"cluster-id":"([0-9a-f]+)"`)

// onlyIn fails the test if the etcd that wrote a log ever was in another cluster than these, or began on an empty data dir but for its
// first start of all.
func (h *debian) onlyIn(t testing.TB, log string, clusters map[string]bool) {
	t.Helper()
	found := clusterID.FindAllStringSubmatch(log, -1)
	if len(found) == 0 {
		t.Errorf("etcd on %s has no log", h.name)
	}
	for _, m := range found {
		if !clusters[m[1]] {
			t.Errorf("etcd on %s once was in cluster %s, which is neither the old nor a restored one", h.name, m[1])
		}
	}
	if n := strings.Count(log, `"msg":"starting local member"`); n != 1 {
		t.Errorf("etcd on %s began an empty member %d times", h.name, n)
	}
}

// journal is all that etcd's unit has ever written.
func (h *debian) journal(t testing.TB) string {
	t.Helper()
	return h.exec(t, "journalctl", "--unit=etcd", "--no-pager", "--output=cat")
}

// lose ends etcd on the host at once, and removes its data.
func (h *debian) lose(t testing.TB) {
	t.Helper()
	h.exec(t, "kill", "-KILL", h.unit(t, "etcd", "MainPID"))
	h.exec(t, "systemctl", "stop", "--job-mode=ignore-requirements", "etcd")
	h.exec(t, "sh", "-c", "rm -rf "+debianData+" "+debianData+".*")
}

// somebody starts etcd on the hosts again and again, as somebody does who has not been told, until the returned function is called.
func somebody(t testing.TB, hosts []*debian) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for _, h := range hosts {
		init := h.init(t)
		all.Go(func() {
			for ctx.Err() == nil {
				// It is refused most of the time.
				_ = exec.CommandContext(ctx, "nsenter", "-t", init, "-m", "-u", "-n", "-p", "--", "systemctl", "start", "--no-block", "etcd").Run()
				select {
				case <-ctx.Done():
				case <-time.After(200 * time.Millisecond):
				}
			}
		})
	}
	return func() {
		cancel()
		all.Wait()
	}
}

// rebuild restores, which must succeed.
func (d *desk) rebuild(t testing.TB, flags ...string) restored {
	t.Helper()
	var r restored
	d.run(t, append([]string{"-o", "json", "restore", "dcs", "--yes"}, flags...)...).Exits(t, command.ExitOK).Decode(t, &r)
	if !r.OK {
		t.Errorf("the restore is not ok: %+v", r)
	}
	return r
}

// clusterOf is the id of the cluster that answers.
func clusterOf(t testing.TB, client *clientv3.Client) string {
	t.Helper()
	var id string
	until(t, "a member to tell its cluster", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		s, err := client.Status(ctx, client.Endpoints()[0])
		if err == nil {
			id = fmt.Sprintf("%x", s.Header.ClusterId)
		}
		return err == nil
	})
	return id
}

// settled fails the test if a restore left anything on the host that would keep etcd from being started.
func (h *debian) settled(t testing.TB) {
	t.Helper()
	for _, left := range []string{"/etc/systemd/system/etcd.service.d", debianData + ".requorum/inhibited", debianData + ".requorum/lock"} {
		if out, err := h.try(t, "stat", left); err == nil {
			t.Errorf("on %s the restore left %s", h.name, out)
		}
	}
	until(t, "etcd's unit on "+h.name+" to be active", func() bool { return h.unit(t, "etcd", "ActiveState") == "active" }) // systemd may hear of it late
}

func TestSystemd(t *testing.T) {
	t.Parallel()
	s, hosts := newDebians(t, 3)
	for _, h := range hosts {
		h.installUnit(t, hosts)
	}
	client := s.client(t, s.hosts...)
	s.serves(t, client)
	etcdtest.MustFill(t, client, etcdtest.FillOptions{Keys: 500})
	d := s.debianDesk(t, "desk1", "{systemd: etcd}", debianData, hosts)
	d.run(t, "backup", "dcs").Exits(t, command.ExitOK)
	want := s.rows(t, s.hosts...)
	legit := map[string]bool{clusterOf(t, client): true}

	t.Run("wrong configuration", func(t *testing.T) {
		wrong := s.debianDesk(t, "desk2", "{systemd: etcd}", "/var/lib/etcd2", hosts)
		wrong.run(t, "restore", "dcs", "--replace-healthy", "dcs", "--yes").Exits(t, command.ExitError, "data dir is /var/lib/etcd2 in the configuration, "+debianData+" by unit etcd.service")
		missing := s.debianDesk(t, "desk3", "{systemd: etcd-server}", debianData, hosts)
		missing.run(t, "restore", "dcs", "--replace-healthy", "dcs", "--yes").Exits(t, command.ExitError, "no unit etcd-server.service")
		// Whoever restored by hand as root left a dir that etcd's own user cannot open.
		hosts[1].exec(t, "chown", "root:root", debianData)
		r := d.run(t, "restore", "dcs", "--replace-healthy", "dcs", "--yes").Exits(t, command.ExitError, hosts[1].name+": owner", "nothing was changed")
		mend := regexp.MustCompile(`chown -R \S+ ` + debianData).FindString(r.Stderr)
		hosts[1].exec(t, "sh", "-c", mend)
		if got := strings.TrimSpace(hosts[1].exec(t, "stat", "-c", "%U:%G", debianData)); got != "etcd:etcd" {
			t.Errorf("%q makes %s the owner", mend, got)
		}
		etcdtest.MustEqual(t, want, s.rows(t, s.hosts...))
	})

	t.Run("total loss", func(t *testing.T) {
		agents := map[string]string{}
		for _, h := range hosts {
			h.exec(t, "systemctl", "start", "agent")
			agents[h.name] = h.unit(t, "agent", "MainPID")
			h.lose(t)
		}
		r := d.rebuild(t)
		etcdtest.MustEqual(t, want, s.rows(t, s.hosts...))
		for _, h := range hosts {
			if got := strings.TrimSpace(h.exec(t, "stat", "-c", "%U:%G %a", debianData)); got != "etcd:etcd 700" {
				t.Errorf("the data dir on %s is of %s, not of the unit's user", h.name, got)
			}
			if pid := h.unit(t, "agent", "MainPID"); pid == "0" || pid != agents[h.name] {
				t.Errorf("the restore stopped what requires etcd on %s: process %s is %s now", h.name, agents[h.name], pid)
			}
			h.settled(t)
		}
		legit[clusterOf(t, client)] = true
		t.Logf("stages %+v", r.Stages)
	})

	// At each point the coordinator dies, all hosts lose their power, and somebody starts etcd on each of them all the time.
	for _, point := range []string{"stop", "exchange", "allow"} {
		t.Run("power cut after "+point, func(t *testing.T) {
			etcdtest.Put(t, client, "/late", point)
			d.killedAfter(t, point, "restore", "dcs", "--replace-healthy", "dcs", "--yes")
			for _, h := range hosts {
				h.cut(t)
			}
			boot(t, hosts...)
			if point != "allow" {
				for _, h := range hosts {
					if out, err := h.try(t, "systemctl", "start", "etcd"); err == nil {
						t.Errorf("%s started etcd in the middle of the swap, after a reboot: %s", h.name, out)
					}
					if state := h.unit(t, "etcd", "ActiveState"); state != "inactive" {
						t.Errorf("etcd on %s is %s", h.name, state)
					}
				}
			}
			stop := somebody(t, hosts)
			d.rebuild(t)
			stop()
			etcdtest.MustEqual(t, want, s.rows(t, s.hosts...))
			legit[clusterOf(t, client)] = true
			for _, h := range hosts {
				h.settled(t)
				h.onlyIn(t, h.journal(t), legit)
			}
		})
	}
}

package main

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/requorum/requorum/internal/config"
	"github.com/requorum/requorum/internal/progress"
	"github.com/requorum/requorum/restore"
	"github.com/requorum/requorum/restore/local"
	"github.com/requorum/requorum/restore/ssh"
)

// host is where a member lives.
func (t *target) host(m config.Member, reporter *progress.Reporter) (restore.Host, error) {
	if m.Host.Local() {
		return local.New(local.Options{Log: t.log()}), nil
	}
	if err := t.reachHosts(t.cfg, reporter); err != nil {
		return nil, err
	}
	h, err := t.ssh.Host(string(m.Host))
	if err != nil {
		return nil, usage("member %s of cluster %s: %v", m.Name, t.cluster.Name, err)
	}
	return h, nil
}

// reachHosts prepares for members on other machines. Nothing is connected yet.
func (a *app) reachHosts(cfg *config.Config, reporter *progress.Reporter) error {
	if a.ssh != nil {
		return nil
	}
	o := a.sshOptions(cfg)
	if reporter != nil {
		o.Progress = reporter
	}
	var err error
	if a.ssh, err = ssh.New(o); err != nil {
		return usage("ssh: %v", err)
	}
	return nil
}

// sshOptions are what the configuration says of SSH.
func (a *app) sshOptions(cfg *config.Config) ssh.Options {
	o := ssh.Options{Config: string(cfg.SSH.Config), NoSudo: !cfg.SSH.Sudo, Version: version, SpoolDir: string(cfg.SpoolDir),
		Dead: local.Dead, Log: a.log()}
	for _, f := range cfg.SSH.IdentityFiles {
		o.IdentityFiles = append(o.IdentityFiles, string(f))
	}
	for _, f := range cfg.SSH.KnownHosts {
		o.KnownHosts = append(o.KnownHosts, string(f))
	}
	for _, f := range cfg.SSH.Binaries {
		o.Binaries = append(o.Binaries, string(f))
	}
	return o
}

// A dialer connects to host:port.
type dialer func(ctx context.Context, addr string) (net.Conn, error)

// tunnels lead to what the machines of members behind jump hosts reach. There is one for each configuration, so that its connections share logins.
type tunnels struct {
	mu sync.Mutex
	of map[*config.Config]*ssh.Tunnel
}

// through is the tunnel of the target's configuration.
func (t *target) through() *ssh.Tunnel {
	ts := t.tunnels
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.of[t.cfg] == nil {
		if ts.of == nil {
			ts.of = map[*config.Config]*ssh.Tunnel{}
		}
		ts.of[t.cfg] = ssh.NewTunnel(t.sshOptions(t.cfg))
	}
	return ts.of[t.cfg]
}

func (ts *tunnels) close() {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for _, t := range ts.of {
		t.Close()
	}
	ts.of = nil
}

// tunnel is how etcd is reached: from here, or, where a member lives behind jump hosts, from its own machine.
func (t *target) tunnel() dialer {
	through := t.through()
	return func(ctx context.Context, addr string) (net.Conn, error) {
		for _, m := range t.cluster.Members {
			if u, err := url.Parse(string(m.ClientURL)); err == nil && !m.Host.Local() && u.Host == addr {
				return through.Dial(ctx, addr, string(m.Host))
			}
		}
		return through.Dial(ctx, addr)
	}
}

// agentTunnel is how agents are reached where members live behind jump hosts, nil where none does: from here, or from the machine that the agent shares
// with a member, or, if it shares none, from any machine of a member.
func (t *target) agentTunnel() dialer {
	through := t.through()
	var hosts []string
	shared := map[string][]string{} // by the names of machines
	for _, m := range t.cluster.Members {
		host := string(m.Host)
		if m.Host.Local() || !through.Leads(host) {
			continue
		}
		if !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
		for _, raw := range []string{string(m.ClientURL), string(m.PeerURL), host} {
			if u, err := url.Parse(raw); err == nil && !slices.Contains(shared[u.Hostname()], host) {
				shared[u.Hostname()] = append(shared[u.Hostname()], host)
			}
		}
	}
	if len(hosts) == 0 {
		return nil
	}
	return func(ctx context.Context, addr string) (net.Conn, error) {
		name, _, err := net.SplitHostPort(addr)
		if own := shared[name]; err == nil && len(own) > 0 {
			return through.Dial(ctx, addr, own...)
		}
		return through.Dial(ctx, addr, hosts...)
	}
}

// leaveHosts ends the connections to members' machines, which then remove what was brought there.
func (a *app) leaveHosts() {
	a.tunnels.close()
	if a.ssh == nil {
		return
	}
	if err := a.ssh.Close(); err != nil {
		a.log().Warn("leave the hosts", "error", err)
	}
	a.ssh = nil
}

// probeHosts asks every machine that members live on whether a restore could work there.
func (t *target) probeHosts(ctx context.Context) (problems []config.Problem) {
	asked := map[config.Host]bool{}
	for i, m := range t.cluster.Members {
		if m.Host == "" || m.Host.Local() || asked[m.Host] {
			continue
		}
		asked[m.Host] = true
		h, err := t.host(m, nil)
		if err == nil {
			err = h.(*ssh.Host).Check(ctx)
		}
		if err != nil {
			p := t.cfg.At(fmt.Sprintf("clusters.%s.members[%d].host", t.cluster.Name, i))
			p.What = err.Error()
			problems = append(problems, p)
		}
	}
	return problems
}

// newHostAgentCommand is what requorum runs of itself on hosts that it reaches by SSH.
func newHostAgentCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:    "host-agent",
		Short:  "Serve a restore on the host of a member (run by requorum over SSH)",
		Hidden: true,
	}
	only(cmd)
	cmd.AddCommand(
		&cobra.Command{
			Use:   "serve",
			Short: "Carry out one request that comes on stdin",
			Args:  exactArgs(),
			RunE: func(cmd *cobra.Command, _ []string) error {
				return agentError(ssh.Serve(hostContext(cmd.Context()), os.Stdin, os.Stdout, local.New(local.Options{Log: a.log()}), version))
			},
		},
		&cobra.Command{
			Use:   "keep",
			Short: "Remove this program when stdin ends",
			Args:  exactArgs(),
			RunE: func(cmd *cobra.Command, _ []string) error {
				return agentError(ssh.Keep(hostContext(cmd.Context()), os.Stdin, os.Stdout, version))
			},
		})
	return cmd
}

// hostContext is for a process whose other end may vanish: that must not kill it in the middle of a change. It hears of
// that by the end of its stdin.
func hostContext(ctx context.Context) context.Context {
	vanished := make(chan os.Signal, 1)
	signal.Notify(vanished, syscall.SIGPIPE, syscall.SIGHUP) // caught, so that what it starts does not inherit that they are ignored
	return ctx
}

// agentError gives an agent's end its exit code.
func agentError(err error) error {
	if err == nil {
		return nil
	}
	_, _ = os.Stderr.WriteString("requorum: " + err.Error() + "\n") // nobody else is told
	return codeError{ssh.ExitCode(err)}
}

package etcdtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// A Member is one etcd server of a cluster.
type Member struct {
	Name      string
	Version   string // of the server, as in [Versions]
	Dir       string // holds DataDir and LogFile
	DataDir   string
	LogFile   string // of all runs of this member
	ClientURL string
	PeerURL   string

	// Args is the whole command line, program first, of the next start; a test may change it.
	Args []string

	cluster *Cluster
	process *process
}

// Start starts the member, if it does not run, and does not wait until it serves.
func (m *Member) Start(t testing.TB) {
	t.Helper()
	if err := m.process.start(m.Args); err != nil {
		t.Fatalf("start %s: %v", m.Name, err)
	}
}

// Stop ends the member with SIGTERM, as a service manager does, and waits for its exit.
func (m *Member) Stop(t testing.TB) {
	t.Helper()
	m.end(t, syscall.SIGTERM)
}

// Kill ends the member with SIGKILL and waits for its exit. It works on a paused member.
func (m *Member) Kill(t testing.TB) {
	t.Helper()
	m.end(t, syscall.SIGKILL)
}

func (m *Member) end(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := m.process.end(sig); err != nil {
		t.Fatalf("end %s: %v", m.Name, err)
	}
}

// Pause stops the member's execution with SIGSTOP and returns when every thread of it has stopped; its connections stay open and silent.
func (m *Member) Pause(t testing.TB) {
	t.Helper()
	if err := m.process.signal(syscall.SIGSTOP); err != nil {
		t.Fatalf("pause %s: %v", m.Name, err)
	}
	for end := time.Now().Add(patience); !stopped(m.process.pid()); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("pause %s: it runs on", m.Name)
		}
	}
}

// Resume continues a paused member.
func (m *Member) Resume(t testing.TB) {
	t.Helper()
	if err := m.process.signal(syscall.SIGCONT); err != nil {
		t.Fatalf("resume %s: %v", m.Name, err)
	}
}

// Wipe removes the data directory of a member that does not run.
func (m *Member) Wipe(t testing.TB) {
	t.Helper()
	if m.Running() {
		t.Fatalf("wipe %s: it runs", m.Name)
	}
	if err := os.RemoveAll(m.DataDir); err != nil {
		t.Fatalf("wipe %s: %v", m.Name, err)
	}
}

// Addr is host and port of the member's client URL.
func (m *Member) Addr() string {
	_, addr, _ := strings.Cut(m.ClientURL, "://")
	return addr
}

// Running says whether the member's process exists, paused or not.
func (m *Member) Running() bool { return m.process.running() }

// PID is the member's process, 0 when it does not run.
func (m *Member) PID() int { return m.process.pid() }

// ID asks the running member for its member id.
func (m *Member) ID(t testing.TB) uint64 {
	t.Helper()
	return m.Status(t).Header.MemberId
}

// Status asks the running member for its status.
func (m *Member) Status(t testing.TB) *clientv3.StatusResponse {
	t.Helper()
	var status *clientv3.StatusResponse
	err := poll(t.Context(), healthTimeout, func(ctx context.Context) (err error) {
		status, err = m.status(ctx)
		return err
	})
	if err != nil {
		t.Fatalf("ask %s for its status: %v", m.Name, err)
	}
	return status
}

// WaitHealthy waits until the member answers a linearizable read.
func (m *Member) WaitHealthy(t testing.TB) {
	t.Helper()
	if err := m.waitHealthy(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// LogTail returns the last lines of the member's log, without those that only inform.
func (m *Member) LogTail(lines int) string {
	log, err := os.ReadFile(m.LogFile)
	if err != nil {
		return err.Error()
	}
	all := slices.DeleteFunc(strings.Split(strings.TrimSpace(string(log)), "\n"), func(line string) bool {
		return strings.Contains(line, `"level":"info"`)
	})
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// do calls f with a client of this member alone.
func (m *Member) do(f func(*clientv3.Client) error) error {
	client, err := clientv3.New(m.cluster.ClientConfig(m.ClientURL))
	if err != nil {
		return err
	}
	defer client.Close()
	return f(client)
}

func (m *Member) status(ctx context.Context) (status *clientv3.StatusResponse, err error) {
	err = m.do(func(client *clientv3.Client) error {
		status, err = client.Status(ctx, m.ClientURL)
		return err
	})
	return status, err
}

// lists says whether the member knows another at the peer URL; it needs no quorum.
func (m *Member) lists(ctx context.Context, peerURL string) (found bool) {
	err := m.do(func(client *clientv3.Client) error {
		list, err := client.MemberList(ctx, clientv3.WithSerializable())
		if err != nil {
			return err
		}
		for _, other := range list.Members {
			found = found || slices.Contains(other.PeerURLs, peerURL)
		}
		return nil
	})
	return err == nil && found
}

func (m *Member) waitHealthy(ctx context.Context) error {
	exited := false
	err := poll(ctx, healthTimeout, func(ctx context.Context) error {
		if exited = !m.Running(); exited {
			return nil
		}
		// A refused connection would make gRPC wait a second before it tries again.
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", m.Addr())
		if err != nil {
			return err
		}
		conn.Close()
		return m.do(func(client *clientv3.Client) error {
			_, err := client.Get(ctx, "health")
			if errors.Is(err, rpctypes.ErrPermissionDenied) {
				return nil // decided after the read
			}
			return err
		})
	})
	if exited {
		return fmt.Errorf("%s is not healthy: its process ended: %s; its log:\n%s", m.Name, m.process.exit(), m.LogTail(10))
	}
	if err != nil {
		return fmt.Errorf("%s is not healthy: %w", m.Name, err)
	}
	return nil
}

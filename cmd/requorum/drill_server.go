package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/requorum/requorum/drills"
	"github.com/requorum/requorum/internal/member"
)

// serverStart bounds the start of one member of a sandbox, which waits for a quorum of the others.
const serverStart = 10 * time.Minute

// sandboxServer is the etcd of a place: binary, or the one that is built in.
func sandboxServer(binary string, secure *sandboxTLS, p drills.Place) drills.Server {
	log := filepath.Join(p.Dir, "etcd.log")
	quota := p.QuotaBytes
	if quota == 0 {
		quota = -1
	}
	if binary == "" {
		o := member.Options{Name: p.Name, DataDir: p.DataDir, ListenClient: p.ClientURL, ListenPeer: p.PeerURL, InitialCluster: p.InitialCluster, QuotaBytes: quota, LogFile: log}
		if secure != nil {
			o.TLS = &secure.files
		}
		return &embeddedServer{options: o}
	}
	args := []string{"--name", p.Name, "--data-dir", p.DataDir, "--listen-client-urls", p.ClientURL, "--advertise-client-urls", p.ClientURL,
		"--listen-peer-urls", p.PeerURL, "--initial-advertise-peer-urls", p.PeerURL, "--initial-cluster", p.InitialCluster, fmt.Sprintf("--quota-backend-bytes=%d", quota)}
	if secure != nil {
		args = append(args, "--cert-file", secure.files.Cert, "--key-file", secure.files.Key, "--trusted-ca-file", secure.files.CA, "--client-cert-auth")
	}
	return &programServer{program: binary, args: args, log: log}
}

// embeddedServer is this binary as an etcd, in a child process.
type embeddedServer struct {
	options member.Options

	mu      sync.Mutex
	process *member.Process
}

func (s *embeddedServer) running() bool {
	if s.process == nil {
		return false
	}
	select {
	case <-s.process.Done():
		return false
	default:
		return true
	}
}

// Running implements [drills.Server].
func (s *embeddedServer) Running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running()
}

// Start implements [drills.Server].
func (s *embeddedServer) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, serverStart)
	defer cancel()
	var err error
	s.process, err = member.Start(ctx, s.options)
	return err
}

// Stop implements [drills.Server].
func (s *embeddedServer) Stop(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		s.process.Kill()
	}
	return nil
}

// programServer is another etcd as a child process.
type programServer struct {
	program string
	args    []string
	log     string

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
}

func (s *programServer) running() bool {
	if s.done == nil {
		return false
	}
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// Running implements [drills.Server].
func (s *programServer) Running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running()
}

// settled is how long a program must run to have been started: one that does not like its flags ends sooner. Whether it serves is proven afterwards.
const settled = 100 * time.Millisecond

// Start implements [drills.Server].
func (s *programServer) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running() {
		return nil
	}
	log, err := os.OpenFile(s.log, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(s.program, s.args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = dieWithParent()
	// What the environment says to etcd is meant for another one.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "ETCD_") })
	started, done := make(chan error), make(chan struct{})
	var exit error
	go func() {
		// The kernel ends the child together with the thread that started it, so that thread stays until then.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			exit = cmd.Wait()
			close(done)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", s.program, err)
	}
	s.cmd, s.done = cmd, done
	select {
	case <-done:
		return fmt.Errorf("%s ended by itself: %w; its log ends with:\n%s", s.program, errors.Join(exit, errors.New("it should have gone on")), logEnd(log))
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(settled):
		return nil
	}
}

// Stop implements [drills.Server].
func (s *programServer) Stop(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running() {
		return nil
	}
	_ = s.cmd.Process.Kill() // fails only for a process that has ended
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s (pid %d) does not end: %w", s.program, s.cmd.Process.Pid, context.Cause(ctx))
	}
}

// logEnd is the end of a log.
func logEnd(f *os.File) string {
	const most = 2 << 10
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	text, err := io.ReadAll(io.NewSectionReader(f, max(0, info.Size()-most), most))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

package ssh

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/requorum/requorum/restore"
)

// TestMain serves as the program that is brought to hosts, and as that of ProxyCommand.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "host-agent" {
		var err error
		if os.Args[2] == "keep" {
			err = Keep(context.Background(), os.Stdin, os.Stdout, "test")
		} else {
			err = Serve(context.Background(), os.Stdin, os.Stdout, fakeHost{}, "test")
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(ExitCode(err))
	}
	if len(os.Args) > 2 && os.Args[1] == "relay" {
		if err := relay(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// fakeHost is what runs on the other side. A member's data dir is the file of its database.
type fakeHost struct{}

func (fakeHost) Inspect(_ context.Context, req restore.InspectRequest) (restore.State, error) {
	s := restore.State{Member: req.Member.Name, Host: "other", Place: restore.PlaceOld}
	if req.Run != "" {
		s.Lock = &restore.Lock{Run: req.Run, Owner: restore.Owner{Token: "gone"}}
	}
	return s, nil
}

func (fakeHost) Apply(ctx context.Context, req restore.ApplyRequest) error {
	switch {
	case req.Action == restore.ActLock && req.Gone != "gone":
		return fmt.Errorf("wrapped: %w", &restore.HostError{Code: restore.HostLocked, Member: req.Member.Name, What: "held", Lock: &restore.Lock{Run: "r1", Owner: restore.Owner{Token: "gone"}}})
	case req.Action == restore.ActStop:
		if err := os.WriteFile(req.Member.DataDir, []byte("began"), 0o600); err != nil {
			return err
		}
		<-ctx.Done()
		return errors.Join(context.Cause(ctx), os.WriteFile(req.Member.DataDir, []byte("ended"), 0o600))
	case req.Action == restore.ActStart:
		return errors.New("plainly wrong")
	}
	return nil
}

func (fakeHost) Stage(_ context.Context, req restore.StageRequest, db io.Reader) error {
	if req.Token == "unwanted" {
		return nil
	}
	if req.Token == "full" {
		if _, err := io.CopyN(io.Discard, db, 1<<20); err != nil {
			return err
		}
		return errors.New("no space left on device")
	}
	f, err := os.OpenFile(req.Member.DataDir, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := restore.NewChecksum()
	n, err := io.Copy(sum, f)
	if err != nil {
		return err
	}
	from, err := db.(restore.Transfer).Resume(n, hex.EncodeToString(sum.Sum(nil)))
	if err != nil {
		return err
	}
	if err := f.Truncate(from); err != nil {
		return err
	}
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return err
	}
	_, err = io.Copy(f, db)
	return err
}

func (fakeHost) Fetch(_ context.Context, req restore.FetchRequest, w io.Writer) error {
	f, err := os.Open(req.Member.DataDir)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

var _ fs.FileInfo // the errors of fakeHost are fs.ErrNotExist where a file is missing

// A server is an SSH server in this process, with a home directory of its own. Its commands run here.
type server struct {
	t    *testing.T
	addr string
	dir  string // takes the place of /var/tmp and /tmp
	key  gossh.Signer
	path string // of its commands
	name string // of 127.0.0.1, known to it alone

	mu       sync.Mutex
	commands []string
	conns    []net.Conn
	silent   int // questions for silent.invalid
}

func newSigner(t testing.TB) (gossh.Signer, []byte) {
	t.Helper()
	_, secret, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := gossh.NewSignerFromKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	block, err := gossh.MarshalPrivateKey(secret, "")
	if err != nil {
		t.Fatal(err)
	}
	return signer, pem.EncodeToMemory(block)
}

// startServer serves on loopback and lets in whoever has the key.
func startServer(t *testing.T, client gossh.PublicKey) *server {
	t.Helper()
	s := &server{t: t, dir: t.TempDir(), path: os.Getenv("PATH")}
	s.key, _ = newSigner(t)
	config := &gossh.ServerConfig{PublicKeyCallback: func(_ gossh.ConnMetadata, key gossh.PublicKey) (*gossh.Permissions, error) {
		if string(key.Marshal()) != string(client.Marshal()) {
			return nil, errors.New("not let in")
		}
		return nil, nil
	}}
	config.AddHostKey(s.key)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, conn)
			s.mu.Unlock()
			wg.Go(func() { s.serve(conn, config, &wg) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		s.mu.Lock()
		for _, c := range s.conns {
			c.Close()
		}
		s.mu.Unlock()
		wg.Wait()
	})
	return s
}

func (s *server) serve(conn net.Conn, config *gossh.ServerConfig, wg *sync.WaitGroup) {
	defer conn.Close()
	_, channels, requests, err := gossh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	wg.Go(func() {
		for r := range requests {
			if r.WantReply {
				_ = r.Reply(false, nil)
			}
		}
	})
	for c := range channels {
		switch c.ChannelType() {
		case "session":
			channel, requests, err := c.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { s.session(channel, requests) })
		case "direct-tcpip":
			var to struct {
				Host  string
				Port  uint32
				From  string
				FPort uint32
			}
			if err := gossh.Unmarshal(c.ExtraData(), &to); err != nil {
				return
			}
			if to.Host == "silent.invalid" {
				s.mu.Lock()
				s.silent++
				s.mu.Unlock()
				continue // like one that does not answer
			}
			if to.Host == s.name {
				to.Host = "127.0.0.1"
			}
			out, err := net.Dial("tcp", net.JoinHostPort(to.Host, fmt.Sprint(to.Port)))
			if err != nil {
				_ = c.Reject(gossh.ConnectionFailed, err.Error())
				continue
			}
			channel, requests, err := c.Accept()
			if err != nil {
				return
			}
			go gossh.DiscardRequests(requests)
			wg.Go(func() { _, _ = io.Copy(out, channel); out.Close() })
			wg.Go(func() { _, _ = io.Copy(channel, out); channel.Close() })
		default:
			_ = c.Reject(gossh.UnknownChannelType, "no")
		}
	}
}

func (s *server) session(channel gossh.Channel, requests <-chan *gossh.Request) {
	defer channel.Close()
	for r := range requests {
		if r.Type != "exec" {
			_ = r.Reply(false, nil)
			continue
		}
		var command struct{ Text string }
		if err := gossh.Unmarshal(r.Payload, &command); err != nil {
			return
		}
		s.mu.Lock()
		s.commands = append(s.commands, command.Text)
		s.mu.Unlock()
		_ = r.Reply(true, nil)
		cmd := exec.Command("/bin/sh", "-c", "echo a login shell that talks; "+strings.ReplaceAll(command.Text, "/var/tmp /tmp", s.dir))
		cmd.Env = []string{"PATH=" + s.path, "HOME=" + s.dir}
		cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
		stdin, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			return
		}
		go func() {
			_, _ = io.Copy(stdin, channel) // until the client ends it, or the connection
			stdin.Close()
		}()
		code := struct{ Status uint32 }{}
		if err := cmd.Wait(); err != nil {
			code.Status = uint32(max(cmd.ProcessState.ExitCode(), 1))
		}
		_, _ = channel.SendRequest("exit-status", false, gossh.Marshal(&code))
		return
	}
}

// brought counts how often a program was brought.
func (s *server) brought() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.commands {
		if strings.Contains(c, "cat >") {
			n++
		}
	}
	return n
}

// left lists what is in the directory for programs.
func (s *server) left() []string {
	found, _ := filepath.Glob(filepath.Join(s.dir, "requorum-*", "*"))
	dirs, _ := filepath.Glob(filepath.Join(s.dir, "requorum-*"))
	return append(found, dirs...)
}

// A client has a home directory with a key and known_hosts.
type client struct {
	t    *testing.T
	home string
	key  gossh.Signer
	said *talk
}

type talk struct {
	mu   sync.Mutex
	text strings.Builder
}

func (k *talk) Start(stage string, n int64) { k.Say("start %s %d", stage, n) }
func (k *talk) Advance(string, int64)       {}
func (k *talk) Done(stage, detail string)   { k.Say("done %s %s", stage, detail) }
func (k *talk) Say(f string, a ...any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	fmt.Fprintf(&k.text, f+"\n", a...)
}
func (k *talk) String() string { k.mu.Lock(); defer k.mu.Unlock(); return k.text.String() }
func (c *client) file(name, text string) string {
	c.t.Helper()
	path := filepath.Join(c.home, ".ssh", name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return path
}

func newClient(t *testing.T) *client {
	t.Helper()
	c := &client{t: t, home: t.TempDir(), said: &talk{}}
	if err := os.Mkdir(filepath.Join(c.home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", c.home)
	t.Setenv("SSH_AUTH_SOCK", "")
	var secret []byte
	c.key, secret = newSigner(t)
	c.file("id_ed25519", string(secret))
	return c
}

// knows writes known_hosts.
func (c *client) knows(servers ...*server) {
	c.t.Helper()
	var text string
	for _, s := range servers {
		text += knownhosts.Line([]string{s.addr}, s.key.PublicKey()) + "\n"
	}
	c.file("known_hosts", text)
}

// open returns the host at an address.
func (c *client) open(addr string, change func(*Options)) (*Hosts, *Host) {
	c.t.Helper()
	o := Options{Version: "test", SpoolDir: filepath.Join(c.home, "spool"), Progress: c.said, NoSudo: true,
		Dead: func(l restore.Lock) bool { return l.Token == "gone" }}
	if change != nil {
		change(&o)
	}
	hosts, err := New(o)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		if err := hosts.Close(); err != nil {
			c.t.Error(err)
		}
	})
	h, err := hosts.Host("ssh://tester@" + addr)
	if err != nil {
		c.t.Fatal(err)
	}
	return hosts, h
}

// until polls until f says so.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !f(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited a minute for %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

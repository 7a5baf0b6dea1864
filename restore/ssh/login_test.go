package ssh

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gossh "golang.org/x/crypto/ssh"
	sshagent "golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/requorum/requorum/restore"
)

func TestHostKeys(t *testing.T) {
	c := newClient(t)
	s := startServer(t, c.key.PublicKey())
	another, _ := newSigner(t)
	name := knownhosts.Normalize(s.addr)
	line := func(key gossh.PublicKey) string { return knownhosts.Line([]string{s.addr}, key) + "\n" }
	finger := gossh.FingerprintSHA256(s.key.PublicKey())
	for _, test := range []struct{ name, known, want string }{
		{"known", line(s.key.PublicKey()), ""},
		{"known by a hash", strings.Replace(line(s.key.PublicKey()), name, knownhosts.HashHostname(name), 1), ""},
		{"known beside an older one", line(another.PublicKey()) + line(s.key.PublicKey()), ""},
		{"nothing is known", "", "is not in " + filepath.Join(c.home, ".ssh", "known_hosts") + ": compare the fingerprint"},
		{"another host", knownhosts.Line([]string{"10.9.9.9"}, s.key.PublicKey()) + "\n", finger},
		{"changed", line(another.PublicKey()), "has changed: it shows ssh-ed25519 " + finger + ", known is ssh-ed25519 " + gossh.FingerprintSHA256(another.PublicKey())},
		{"revoked", line(s.key.PublicKey()) + "@revoked * " + strings.Join(strings.Fields(line(s.key.PublicKey()))[1:], " ") + "\n", "is revoked"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c.file("known_hosts", test.known)
			_, h := c.open(s.addr, nil)
			_, err := h.Inspect(t.Context(), restore.InspectRequest{})
			var wrong *HostKeyError
			switch {
			case test.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case test.want != "" && (!errors.As(err, &wrong) || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), s.addr)):
				t.Errorf("%v, not %q", err, test.want)
			}
		})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	logins := 0
	for _, command := range s.commands {
		if strings.HasSuffix(command, " keep") {
			logins++
		}
	}
	if logins != 3 {
		t.Errorf("%d logins succeeded, not three", logins)
	}
}

// TestAlgorithms shows that a host which has several keys is asked for one that is known.
func TestAlgorithms(t *testing.T) {
	c := newClient(t)
	key, _ := newSigner(t)
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := gossh.NewPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	c.file("known_hosts", knownhosts.Line([]string{"10.0.0.1"}, other)+"\n"+knownhosts.Line([]string{"10.0.0.2"}, key.PublicKey())+"\n")
	for addr, want := range map[string]string{"10.0.0.1": gossh.KeyAlgoECDSA256, "10.0.0.2": gossh.KeyAlgoED25519} {
		s, err := (Options{}).settings("ssh://" + addr)
		if err != nil {
			t.Fatal(err)
		}
		l, err := newLedger(s)
		if err != nil {
			t.Fatal(err)
		}
		plain := slices.DeleteFunc(l.algorithms(), func(a string) bool { return strings.Contains(a, "-cert-") })
		if plain[0] != want || len(plain) < 3 {
			t.Errorf("%s is asked for %v, not first for %s", addr, plain, want)
		}
	}
}

func TestLogin(t *testing.T) {
	c := newClient(t)
	right, secret := newSigner(t)
	s := startServer(t, right.PublicKey())
	c.knows(s)
	inspect := func(change func(*Options)) error {
		_, h := c.open(s.addr, change)
		_, err := h.Inspect(t.Context(), restore.InspectRequest{})
		return err
	}
	if err := inspect(nil); err == nil || !strings.Contains(err.Error(), "user tester is not let in") || !strings.Contains(err.Error(), "authorized_keys") {
		t.Errorf("a wrong key: %v", err)
	}
	named := c.file("right", string(secret))
	if err := inspect(func(o *Options) { o.IdentityFiles = []string{named} }); err != nil {
		t.Errorf("a key that is named: %v", err)
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := gossh.MarshalPrivateKeyWithPassphrase(private, "", []byte("phrase"))
	if err != nil {
		t.Fatal(err)
	}
	locked := c.file("locked", string(pem.EncodeToMemory(block)))
	if err := inspect(func(o *Options) { o.IdentityFiles = []string{locked} }); err == nil || !strings.Contains(err.Error(), locked+" has a passphrase: load it into an SSH agent with ssh-add") {
		t.Errorf("a key with a passphrase: %v", err)
	}

	// An agent has the key.
	raw, err := gossh.ParseRawPrivateKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	ring := sshagent.NewKeyring()
	if err := ring.Add(sshagent.AddedKey{PrivateKey: raw}); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _ = sshagent.ServeAgent(ring, conn); conn.Close() }()
		}
	}()
	t.Setenv("SSH_AUTH_SOCK", socket)
	if err := inspect(nil); err != nil {
		t.Errorf("a key of an agent: %v", err)
	}
	c.file("config", "IdentitiesOnly yes\nIdentityFile ~/.ssh/locked\n")
	if err := inspect(nil); err == nil {
		t.Error("with IdentitiesOnly a key of the agent was used that no file names")
	}
	c.file("locked.pub", string(gossh.MarshalAuthorizedKey(right.PublicKey())))
	if err := inspect(nil); err != nil {
		t.Errorf("a key of an agent that a file names: %v", err)
	}
	t.Setenv("SSH_AUTH_SOCK", "/nonexistent")
	if err := inspect(nil); err == nil || !strings.Contains(err.Error(), "the SSH agent does not answer") {
		t.Errorf("no agent: %v", err)
	}
}

func TestJump(t *testing.T) {
	c := newClient(t)
	gate, s := startServer(t, c.key.PublicKey()), startServer(t, c.key.PublicKey())
	c.knows(gate, s)
	c.file("config", "Host 127.0.0.1\n  User tester\nHost inside\n  HostName 127.0.0.1\n  Port "+s.addr[strings.LastIndex(s.addr, ":")+1:]+"\n  ProxyJump "+gate.addr+"\n")
	_, h := c.open("inside", nil)
	db, stage := database(t, 3<<20)
	if err := h.Stage(t.Context(), stage, db); err != nil {
		t.Fatal(err)
	}
	same(t, db, stage.Member.DataDir)
	if len(gate.commands) != 0 {
		t.Errorf("on the jump host there ran %q", gate.commands)
	}
	c.knows(s)
	_, h = c.open("inside", nil)
	var wrong *HostKeyError
	if err := h.Check(t.Context()); !errors.As(err, &wrong) || !strings.Contains(err.Error(), "jump host 127.0.0.1") {
		t.Errorf("a jump host that is not known: %v", err)
	}
	var fetched bytes.Buffer
	if err := h.Fetch(t.Context(), restore.FetchRequest{Member: stage.Member}, &fetched); err == nil {
		t.Error("something came through a jump host that is not known")
	}
}

package seal

import (
	"crypto/ed25519"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"
)

func sshKey(t *testing.T, passphrase string) (public string, private []byte) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	var block *pem.Block
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(key, "someone")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "someone", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(sshPub))), pem.EncodeToMemory(block)
}

func TestSSHKeys(t *testing.T) {
	public, private := sshKey(t, "")
	to, err := ParseRecipients([]string{public + " root@host"})
	if err != nil {
		t.Fatal(err)
	}
	if got := Names(to); !slices.Equal(got, []string{public}) {
		t.Errorf("names: %q, want the key without its comment", got)
	}
	name := filepath.Join(t.TempDir(), "id")
	if err := os.WriteFile(name, private, 0o600); err != nil {
		t.Fatal(err)
	}
	ids, err := ReadIdentities(name)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := open(sealed(t, []byte("x"), to...), true, ids...); err != nil || string(got) != "x" {
		t.Errorf("opened %q, %v", got, err)
	}
	if !Fits(ids, Names(to)) {
		t.Errorf("%q does not fit %q", Recipient(ids[0]), Names(to))
	}
}

func TestFits(t *testing.T) {
	to, id := newKey(t)
	_, other := newKey(t)
	if !Fits([]age.Identity{other, id}, Names([]age.Recipient{to})) {
		t.Error("an identity does not fit its own recipient")
	}
	if Fits([]age.Identity{other}, Names([]age.Recipient{to})) || Fits(nil, Names([]age.Recipient{to})) {
		t.Error("a stranger fits")
	}
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	pq, err := ParseRecipient(hybrid.Recipient().String())
	if err != nil {
		t.Fatal(err)
	}
	if !Fits([]age.Identity{hybrid}, Names([]age.Recipient{pq})) {
		t.Error("a post-quantum identity does not fit its own recipient")
	}
	if _, err := ParseRecipients([]string{hybrid.Recipient().String(), Names([]age.Recipient{to})[0]}); err == nil {
		t.Error("post-quantum and other recipients were mixed: age cannot encrypt to both")
	}
}

func TestBadKeys(t *testing.T) {
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"", "age1", k.Recipient[:20], k.Identity, "ssh-dss AAAA", "ssh-ed25519 ???", "github:someone", k.Recipient + "x"} {
		_, err := ParseRecipient(s)
		if err == nil {
			t.Errorf("recipient %q was accepted", s)
		} else if strings.Contains(err.Error(), "AGE-SECRET-KEY-1") {
			t.Errorf("the error shows a secret: %v", err)
		}
	}
	public, locked := sshKey(t, "secret")
	for text, words := range map[string]string{
		"":                           "not a list",
		"# only a comment\n":         "not a list",
		k.Recipient:                  "this is a recipient",
		public:                       "this is a recipient",
		k.Identity[:40]:              "not a list",
		string(locked):               "passphrase",
		"-----BEGIN NONSENSE-----\n": "ssh private key",
		"age-encryption.org/v1\n->":  "itself encrypted",
		strings.Repeat("#", maxKeyFile) + "\n" + k.Identity: "longer",
	} {
		_, err := ParseIdentities([]byte(text))
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("identity file %.40q: %v, want an error with %q", text, err, words)
		} else if strings.Contains(err.Error(), "SECRET-KEY-1") {
			t.Errorf("the error shows a secret: %v", err)
		}
	}
	if _, err := ReadIdentities(filepath.Join(t.TempDir(), "missing")); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("a missing identity file: %v", err)
	}
}

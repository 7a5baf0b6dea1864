package seal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"golang.org/x/crypto/ssh"
)

// maxKeyFile bounds what is read of an identity file, in bytes.
const maxKeyFile = 1 << 20

// Key is an age key pair.
type Key struct {
	Identity  string // secret: AGE-SECRET-KEY-1…
	Recipient string // public: age1…
}

// NewKey makes a key pair.
func NewKey() (Key, error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return Key{}, fmt.Errorf("age key: %w", err)
	}
	return Key{id.String(), id.Recipient().String()}, nil
}

// ParseRecipient reads what age encrypts to: age1…, age1pq1… (post-quantum), ssh-ed25519 or ssh-rsa public keys. The result is a
// fmt.Stringer that gives the recipient back without an ssh key's comment.
func ParseRecipient(s string) (age.Recipient, error) {
	s = strings.TrimSpace(s)
	switch {
	case strings.HasPrefix(s, "AGE-"):
		return nil, errors.New("recipient: this is an identity, the secret half of a key; a recipient begins with age1") // never show it
	case strings.HasPrefix(s, "age1pq1"):
		r, err := age.ParseHybridRecipient(s)
		if err != nil {
			return nil, fmt.Errorf("recipient %q: %w", s, err)
		}
		return r, nil
	case strings.HasPrefix(s, "age1"):
		r, err := age.ParseX25519Recipient(s)
		if err != nil {
			return nil, fmt.Errorf("recipient %q: %w", s, err)
		}
		return r, nil
	case strings.HasPrefix(s, "ssh-"):
		r, err := agessh.ParseRecipient(s)
		if err != nil {
			return nil, fmt.Errorf("recipient %q: %w", s, err)
		}
		return sshRecipient{r, sshText(s)}, nil
	}
	return nil, fmt.Errorf("recipient %q: expected age1…, or an ssh-ed25519 or ssh-rsa public key", s)
}

// ParseRecipients reads several, which must be able to stand together: age refuses to mix post-quantum keys with others.
func ParseRecipients(list []string) ([]age.Recipient, error) {
	var all []age.Recipient
	for _, s := range list {
		r, err := ParseRecipient(s)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	if len(all) > 0 {
		if _, err := age.Encrypt(io.Discard, all...); err != nil {
			return nil, fmt.Errorf("recipients: %w", err)
		}
	}
	return all, nil
}

// sshRecipient knows what it was parsed from, which those of agessh do not.
type sshRecipient struct {
	age.Recipient
	text string
}

func (r sshRecipient) String() string { return r.text }

// sshText is an authorized key without its comment.
func sshText(s string) string {
	fields := strings.Fields(s)
	return strings.Join(fields[:min(2, len(fields))], " ")
}

// Names returns the recipients as text, for a manifest.
func Names(recipients []age.Recipient) []string {
	var names []string
	for _, r := range recipients {
		if s, ok := r.(fmt.Stringer); ok {
			names = append(names, s.String())
		} else {
			names = append(names, fmt.Sprintf("%T", r))
		}
	}
	return names
}

// ReadIdentities reads an identity file: age identities, one a line, with comments after "#", or an unencrypted ssh private key.
func ReadIdentities(name string) ([]age.Identity, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("identity file: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("identity file: %w", err)
	}
	ids, err := ParseIdentities(b)
	if err != nil {
		return nil, fmt.Errorf("identity file %s: %w", name, err)
	}
	return ids, nil
}

// ParseIdentities reads the contents of an identity file. Its errors never show any of them.
func ParseIdentities(b []byte) ([]age.Identity, error) {
	if len(b) > maxKeyFile {
		return nil, fmt.Errorf("longer than %d bytes", maxKeyFile)
	}
	text := bytes.TrimSpace(b)
	switch {
	case bytes.HasPrefix(text, []byte("age1")), bytes.HasPrefix(text, []byte("ssh-")):
		return nil, errors.New("this is a recipient, the public half of a key; an identity begins with AGE-SECRET-KEY-")
	case bytes.HasPrefix(text, []byte(ageMagic)), bytes.HasPrefix(text, []byte("-----BEGIN AGE ENCRYPTED FILE-----")):
		return nil, errors.New("it is itself encrypted: decrypt it first (age -d)")
	case bytes.HasPrefix(text, []byte("-----BEGIN")):
		return sshIdentities(text)
	}
	ids, err := age.ParseIdentities(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("not a list of age identities (AGE-SECRET-KEY-…), one a line: %w", err)
	}
	return ids, nil
}

func sshIdentities(pem []byte) ([]age.Identity, error) {
	id, err := agessh.ParseIdentity(pem)
	if _, ok := errors.AsType[*ssh.PassphraseMissingError](err); ok {
		return nil, errors.New("the ssh key has a passphrase, and nobody is there to be asked for it: use one without, or an age key")
	}
	if err != nil {
		return nil, fmt.Errorf("ssh private key: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		return nil, fmt.Errorf("ssh private key: %w", err)
	}
	return []age.Identity{sshIdentity{id, sshText(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))}}, nil
}

// sshIdentity knows its public half.
type sshIdentity struct {
	age.Identity
	recipient string
}

// Recipient returns the public half of an identity as text, "" if it cannot be told.
func Recipient(id age.Identity) string {
	switch id := id.(type) {
	case *age.X25519Identity:
		return id.Recipient().String()
	case *age.HybridIdentity:
		return id.Recipient().String()
	case sshIdentity:
		return id.recipient
	}
	return ""
}

// Fits reports whether one of ids is the secret half of one of the recipients, as far as that can be told.
func Fits(ids []age.Identity, recipients []string) bool {
	return slices.ContainsFunc(ids, func(id age.Identity) bool {
		public := Recipient(id)
		return public != "" && slices.Contains(recipients, public)
	})
}

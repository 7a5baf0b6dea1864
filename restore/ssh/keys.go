package ssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	gossh "golang.org/x/crypto/ssh"
	sshagent "golang.org/x/crypto/ssh/agent"
)

// keyring collects the keys to log in with: those of files that were named, then an agent's, then those of the usual files. What could not be used is in
// notes, for the error of a login that fails.
type keyring struct {
	settings
	notes []string
	tried int
	conn  net.Conn // to the agent
}

func (k *keyring) note(format string, args ...any) {
	k.notes = append(k.notes, fmt.Sprintf(format, args...))
}

func (k *keyring) close() {
	if k.conn != nil {
		_ = k.conn.Close() // it only read
	}
}

// signers are the keys in the order in which they are tried: what files name comes first, wherever its secret half is, since servers give up after a few.
func (k *keyring) signers(ctx context.Context) ([]gossh.Signer, error) {
	named, public := k.files(k.identities)
	public = append(public, publics(named)...)
	var all, others []gossh.Signer
	all = append(all, named...)
	for _, s := range k.agentKeys(ctx) {
		switch {
		case slices.ContainsFunc(public, func(p []byte) bool { return bytes.Equal(p, plain(s.PublicKey()).Marshal()) }):
			all = append(all, s)
		case !k.only:
			others = append(others, s)
		}
	}
	all = append(all, others...)
	if len(k.identities) == 0 {
		usual, _ := k.files([]string{home("id_ed25519"), home("id_ecdsa"), home("id_rsa")})
		all = append(all, usual...)
	}
	seen := map[string]bool{}
	var signers []gossh.Signer
	for _, s := range append(k.certified(all), all...) {
		if id := string(s.PublicKey().Marshal()); !seen[id] {
			seen[id] = true
			signers = append(signers, s)
		}
	}
	if len(signers) == 0 {
		return nil, fmt.Errorf("there is no key to log in with: %s", strings.Join(k.notes, "; "))
	}
	k.tried = len(signers)
	return signers, nil
}

// certified are the keys for which there is a certificate among those that are named, each with it.
func (k *keyring) certified(keys []gossh.Signer) (signers []gossh.Signer) {
	for _, path := range k.certificates {
		cert, err := readCertificate(path)
		if err != nil {
			k.note("%v", err)
			continue
		}
		at := slices.IndexFunc(keys, func(s gossh.Signer) bool { return bytes.Equal(s.PublicKey().Marshal(), cert.Key.Marshal()) })
		if at < 0 {
			k.note("the key of certificate %s is neither in a file nor in an agent", path)
			continue
		}
		if s, err := gossh.NewCertSigner(cert, keys[at]); err == nil {
			signers = append(signers, s)
		}
	}
	return signers
}

// plain is the key itself where it comes with a certificate.
func plain(key gossh.PublicKey) gossh.PublicKey {
	if cert, ok := key.(*gossh.Certificate); ok {
		return cert.Key
	}
	return key
}

func publics(signers []gossh.Signer) (all [][]byte) {
	for _, s := range signers {
		all = append(all, s.PublicKey().Marshal())
	}
	return all
}

// files reads key files. public are the public halves of those that cannot be used here, which an agent may hold.
func (k *keyring) files(paths []string) (signers []gossh.Signer, public [][]byte) {
	for _, path := range paths {
		if b, err := os.ReadFile(path + ".pub"); err == nil {
			if key, _, _, _, err := gossh.ParseAuthorizedKey(b); err == nil {
				public = append(public, key.Marshal())
			}
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			k.note("there is no %s", path)
			continue
		}
		if err != nil {
			k.note("%v", err)
			continue
		}
		s, err := gossh.ParsePrivateKey(b)
		var locked *gossh.PassphraseMissingError
		switch {
		case errors.As(err, &locked):
			k.note("%s has a passphrase: load it into an SSH agent with ssh-add", path)
			if locked.PublicKey != nil {
				public = append(public, locked.PublicKey.Marshal())
			}
			continue
		case err != nil:
			k.note("%s: %v", path, err)
			continue
		}
		if c := certificate(path, s); c != nil {
			signers = append(signers, c)
		}
		signers = append(signers, s)
	}
	return signers, public
}

// certificate is the key with the certificate that lies beside it, if there is one.
func certificate(path string, s gossh.Signer) gossh.Signer {
	cert, err := readCertificate(path + "-cert.pub")
	if err != nil {
		return nil
	}
	signer, err := gossh.NewCertSigner(cert, s)
	if err != nil {
		return nil
	}
	return signer
}

func readCertificate(path string) (*gossh.Certificate, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, _, _, _, err := gossh.ParseAuthorizedKey(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	cert, ok := key.(*gossh.Certificate)
	if !ok {
		return nil, fmt.Errorf("%s is a %s, not a certificate", path, key.Type())
	}
	return cert, nil
}

func (k *keyring) agentKeys(ctx context.Context) []gossh.Signer {
	if k.agent == "" {
		k.note("no SSH agent runs (SSH_AUTH_SOCK is not set)")
		return nil
	}
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", k.agent)
	if err != nil {
		k.note("the SSH agent does not answer: %v", err)
		return nil
	}
	k.conn = conn
	signers, err := sshagent.NewClient(conn).Signers()
	if err != nil {
		k.note("the SSH agent at %s: %v", k.agent, err)
	} else if len(signers) == 0 {
		k.note("the SSH agent at %s holds no key", k.agent)
	}
	return signers
}

package ssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
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

// signers are the keys in the order in which they are tried.
func (k *keyring) signers(ctx context.Context) ([]gossh.Signer, error) {
	named, public := k.files(k.identities, true)
	var all []gossh.Signer
	all = append(all, named...)
	for _, s := range k.agentKeys(ctx) {
		listed := false
		for _, p := range append(public, publics(named)...) {
			listed = listed || bytes.Equal(p, s.PublicKey().Marshal())
		}
		if listed || !k.only {
			all = append(all, s)
		}
	}
	if len(k.identities) == 0 {
		usual, _ := k.files([]string{home("id_ed25519"), home("id_ecdsa"), home("id_rsa")}, false)
		all = append(all, usual...)
	}
	seen := map[string]bool{}
	var signers []gossh.Signer
	for _, s := range all {
		if id := string(s.PublicKey().Marshal()); !seen[id] {
			seen[id] = true
			signers = append(signers, s)
		}
	}
	if len(signers) == 0 {
		return nil, fmt.Errorf("there is no key to log in with: %s", strings.Join(k.notes, "; "))
	}
	return signers, nil
}

func publics(signers []gossh.Signer) (all [][]byte) {
	for _, s := range signers {
		all = append(all, s.PublicKey().Marshal())
	}
	return all
}

// files reads key files. public are the public halves of those that cannot be used here, which an agent may hold.
func (k *keyring) files(paths []string, named bool) (signers []gossh.Signer, public [][]byte) {
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
	b, err := os.ReadFile(path + "-cert.pub")
	if err != nil {
		return nil
	}
	key, _, _, _, err := gossh.ParseAuthorizedKey(b)
	if err != nil {
		return nil
	}
	cert, ok := key.(*gossh.Certificate)
	if !ok {
		return nil
	}
	signer, err := gossh.NewCertSigner(cert, s)
	if err != nil {
		return nil
	}
	return signer
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

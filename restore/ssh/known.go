package ssh

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// A HostKeyError says that a machine did not prove to be the one that it should be. Nothing was sent to it.
type HostKeyError struct {
	Host    string // host:port as known_hosts would have it
	Offered string // type and fingerprint of the key that it showed
	// Known are the keys on record, as file:line and fingerprint; none: the host is not known.
	Known       []string
	Authorities []string // on record, none of which signed the key
	Revoked     bool
	Files       []string // that were looked into
}

func (e *HostKeyError) Error() string {
	name := knownhosts.Normalize(e.Host)
	switch {
	case e.Revoked:
		return fmt.Sprintf("the host key of %s, %s, is revoked (%s): do not connect until somebody has found out why", name, e.Offered, strings.Join(e.Known, ", "))
	case len(e.Known) > 0:
		return fmt.Sprintf("the host key of %s has changed: it shows %s, known is %s. Either the host was set up anew, or somebody is in between. "+
			"If it was set up anew, compare the fingerprint at its console (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), remove the old key with ssh-keygen -R %s, and add the new one",
			name, e.Offered, strings.Join(e.Known, ", "), name)
	}
	if len(e.Authorities) > 0 {
		return fmt.Sprintf("the host key of %s, %s, is not in %s, and has no certificate of the authority there, %s: have the key signed, or compare the fingerprint at the host's console "+
			"(ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub) and add the line that ssh-keyscan %s prints", name, e.Offered, strings.Join(e.Files, ", "), strings.Join(e.Authorities, ", "), scanArgs(e.Host))
	}
	where := strings.Join(e.Files, ", ")
	if where == "" {
		where = "any known_hosts file, since none exists"
	}
	return fmt.Sprintf("the host key of %s, %s, is not in %s: compare the fingerprint at its console (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), and then connect once with ssh, or "+
		"add the line that ssh-keyscan %s prints", name, e.Offered, where, scanArgs(e.Host))
}

func scanArgs(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || port == "22" {
		return host
	}
	return "-p " + port + " " + host
}

// A ledger is what known_hosts files say of one machine.
type ledger struct {
	host        string
	files       []string
	check       gossh.HostKeyCallback
	keys        []knownhosts.KnownKey // the machine's own
	authorities []knownhosts.KnownKey // whose certificates it may show
}

func newLedger(s settings) (*ledger, error) {
	l := &ledger{host: s.known}
	marked := map[string]bool{} // file:line of authorities
	for _, file := range s.knownHosts {
		b, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read known_hosts: %w", err)
		}
		l.files = append(l.files, file)
		n := 0
		for line := range strings.Lines(string(b)) {
			n++
			marked[fmt.Sprint(file, ":", n)] = strings.HasPrefix(strings.TrimSpace(line), "@cert-authority")
		}
	}
	var err error
	if l.check, err = knownhosts.New(l.files...); err != nil {
		return nil, fmt.Errorf("read known_hosts: %w: correct or remove that line", err)
	}
	var wrong *knownhosts.KeyError
	if errors.As(l.check(l.host, &net.TCPAddr{}, nobody{}), &wrong) {
		for _, k := range wrong.Want {
			if marked[fmt.Sprint(k.Filename, ":", k.Line)] {
				l.authorities = append(l.authorities, k)
			} else {
				l.keys = append(l.keys, k)
			}
		}
	}
	return l, nil
}

// errCertificate is about a certificate of an authority that is known.
var errCertificate = errors.New("a host certificate is not valid")

// verify is a host key callback. Whatever name was dialed, the machine is looked up by the one of its settings. A certificate of an authority that is not
// known is passed over, as ssh(1) does: then the key itself must be known.
func (l *ledger) verify(_ string, remote net.Addr, key gossh.PublicKey) error {
	if cert, ok := key.(*gossh.Certificate); ok && !holds(l.authorities, cert.SignatureKey) {
		key = cert.Key
	}
	_, certified := key.(*gossh.Certificate)
	err := l.check(l.host, remote, key)
	if err == nil && (certified || holds(l.keys, key)) {
		return nil
	}
	e := &HostKeyError{Host: l.host, Offered: key.Type() + " " + gossh.FingerprintSHA256(key), Files: l.files}
	list := func(keys []knownhosts.KnownKey) (all []string) {
		for _, k := range keys {
			all = append(all, fmt.Sprintf("%s %s (%s:%d)", k.Key.Type(), gossh.FingerprintSHA256(k.Key), k.Filename, k.Line))
		}
		return all
	}
	var revoked *knownhosts.RevokedError
	switch {
	case errors.As(err, &revoked):
		e.Revoked, e.Known = true, list([]knownhosts.KnownKey{revoked.Revoked})
	case certified:
		return fmt.Errorf("%w: %s shows it, and %w: have its host key signed anew", errCertificate, knownhosts.Normalize(l.host), err)
	default:
		e.Known, e.Authorities = list(l.keys), list(l.authorities)
	}
	return e
}

func holds(keys []knownhosts.KnownKey, key gossh.PublicKey) bool {
	return slices.ContainsFunc(keys, func(k knownhosts.KnownKey) bool { return bytes.Equal(k.Key.Marshal(), key.Marshal()) })
}

// nobody is a key that no host has.
type nobody struct{}

func (nobody) Type() string                          { return "none" }
func (nobody) Marshal() []byte                       { return []byte("none") }
func (nobody) Verify([]byte, *gossh.Signature) error { return errors.New("no key") }

// algorithms are those that the machine shall prove itself by: certificates first where an authority is known for it, then the types of its known keys, so that a
// host with several keys shows one that is known.
func (l *ledger) algorithms() []string {
	rank := func(algorithm string) int {
		switch {
		case strings.Contains(algorithm, "-cert-"):
			if len(l.authorities) > 0 {
				return 0
			}
			return 3
		case slices.ContainsFunc(l.keys, func(k knownhosts.KnownKey) bool {
			t := k.Key.Type()
			return t == algorithm || t == gossh.KeyAlgoRSA && (algorithm == gossh.KeyAlgoRSASHA256 || algorithm == gossh.KeyAlgoRSASHA512)
		}):
			return 1
		}
		return 2
	}
	all := slices.Clone(gossh.SupportedAlgorithms().HostKeys)
	slices.SortStableFunc(all, func(a, b string) int { return rank(a) - rank(b) })
	return all
}

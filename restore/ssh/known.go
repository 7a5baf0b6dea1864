package ssh

import (
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
	Known   []string
	Revoked bool
	Files   []string // that were looked into
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
	host  string
	files []string
	check gossh.HostKeyCallback
}

func newLedger(s settings) (*ledger, error) {
	l := &ledger{host: s.known}
	for _, file := range s.knownHosts {
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		l.files = append(l.files, file)
	}
	var err error
	if l.check, err = knownhosts.New(l.files...); err != nil {
		return nil, fmt.Errorf("read known_hosts: %w", err)
	}
	return l, nil
}

// verify is a host key callback. Whatever name was dialed, the machine is looked up by the one of its settings.
func (l *ledger) verify(_ string, remote net.Addr, key gossh.PublicKey) error {
	err := l.check(l.host, remote, key)
	if err == nil {
		return nil
	}
	e := &HostKeyError{Host: l.host, Offered: key.Type() + " " + gossh.FingerprintSHA256(key), Files: l.files}
	list := func(keys ...knownhosts.KnownKey) {
		for _, k := range keys {
			e.Known = append(e.Known, fmt.Sprintf("%s %s (%s:%d)", k.Key.Type(), gossh.FingerprintSHA256(k.Key), k.Filename, k.Line))
		}
	}
	var wrong *knownhosts.KeyError
	var revoked *knownhosts.RevokedError
	switch {
	case errors.As(err, &revoked):
		e.Revoked = true
		list(revoked.Revoked)
	case errors.As(err, &wrong):
		list(wrong.Want...)
	default:
		return err // a certificate that is not valid, and what is wrong with it
	}
	return e
}

// nobody is a key that no host has.
type nobody struct{}

func (nobody) Type() string                          { return "none" }
func (nobody) Marshal() []byte                       { return []byte("none") }
func (nobody) Verify([]byte, *gossh.Signature) error { return errors.New("no key") }

// algorithms are those that the machine shall prove itself by: the types of its known keys first, so that a host with several keys shows one that is known.
func (l *ledger) algorithms() []string {
	all := gossh.SupportedAlgorithms().HostKeys
	var wrong *knownhosts.KeyError
	if !errors.As(l.check(l.host, &net.TCPAddr{}, nobody{}), &wrong) {
		return all
	}
	known := func(algorithm string) bool {
		if strings.Contains(algorithm, "-cert-") {
			return true // whether an authority is known shows when it is used
		}
		return slices.ContainsFunc(wrong.Want, func(k knownhosts.KnownKey) bool {
			t := k.Key.Type()
			return t == algorithm || t == gossh.KeyAlgoRSA && (algorithm == gossh.KeyAlgoRSASHA256 || algorithm == gossh.KeyAlgoRSASHA512)
		})
	}
	first := slices.DeleteFunc(slices.Clone(all), func(a string) bool { return !known(a) })
	return append(first, slices.DeleteFunc(slices.Clone(all), known)...)
}

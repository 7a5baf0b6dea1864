package config

import (
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/requorum/requorum/schedules"
)

// Loopback says whether an address to listen on is reached from this machine only, and is an error if it is no HOST:PORT.
func Loopback(listen string) (bool, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil || port == "" {
		return false, fmt.Errorf("%s is no address to listen on: write HOST:PORT, such as 127.0.0.1:9379", quote(listen))
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback(), nil
}

// Guard refuses an address that others can reach unless the answers are encrypted and the callers must show a token.
func (s Serve) Guard(listen string) error {
	loopback, err := Loopback(listen)
	if err != nil || loopback || s.TLS != nil && s.guarded() {
		return err
	}
	var missing []string
	if s.TLS == nil {
		missing = append(missing, "serve.tls")
	}
	if !s.guarded() {
		missing = append(missing, "serve.token_file")
	}
	return fmt.Errorf("%s can be reached from other machines: that needs %s; or listen on 127.0.0.1", listen, strings.Join(missing, " and "))
}

func (s Serve) guarded() bool { return s.TokenFile != "" || !s.Token.IsZero() }

// Bearer returns a function that reads the token that callers must show, each time anew; nil when there is none.
func (s Serve) Bearer() func() (string, error) {
	if !s.guarded() {
		return nil
	}
	return func() (string, error) {
		secret, err := either(s.Token, s.TokenFile)
		if err != nil {
			return "", fmt.Errorf("serve.token_file: %w", err)
		}
		return secret.Reveal(), nil
	}
}

// TLSConfig is the server's side of TLS, nil without any. Certificates that were renewed count at the next handshake.
func (s Serve) TLSConfig(now func() time.Time) (*tls.Config, error) {
	if s.TLS == nil {
		return nil, nil
	}
	own := TLS{Cert: s.TLS.Cert, Key: s.TLS.Key}
	if _, err := own.pair(now()); err != nil {
		return nil, fmt.Errorf("serve.tls: %w", err)
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, Time: now,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return own.pair(now()) }}
	if s.TLS.ClientCA != "" {
		pool, err := ReadCA(s.TLS.ClientCA, now())
		if err != nil {
			return nil, fmt.Errorf("serve.tls: %w", err)
		}
		c.ClientCAs, c.ClientAuth = pool, tls.RequireAndVerifyClientCert
	}
	return c, nil
}

func (k *checker) serve() {
	s := k.Serve
	if !k.reported("serve.listen") {
		if err := s.Guard(s.Listen); err != nil {
			k.add("serve.listen", err.Error(), "")
		}
	}
	if k.written("serve.token") && k.written("serve.token_file") {
		k.add("serve.token_file", "token and token_file are both written", "keep token_file")
	}
	k.exposed("serve.token_file", s.TokenFile)
	if s.TLS != nil {
		k.exposed("serve.tls.key", s.TLS.Key)
	}
	k.atLeastOne("serve.runs_at_once", s.RunsAtOnce)
	k.positive("serve.grace", s.Grace)
	if d := time.Duration(s.Watch); d < time.Second && !k.reported("serve.watch") {
		k.add("serve.watch", "observing a cluster more often than each second would be a load of its own", "write 1s or more; the default is 15s")
	}
}

func (k *checker) atLeastOne(key string, n int) {
	if n < 1 && k.written(key) && !k.reported(key) {
		k.add(key, "it must be at least 1", "write 1 or more")
	}
}

func (k *checker) election(e Election) {
	k.connection("election", e.Connection)
	if len(e.Endpoints) == 0 && !k.reported("election") && !k.reported("election.endpoints") {
		k.add("election.endpoints", "there is no endpoint", "list the client URLs of the etcd that several replicas of serve share")
	}
	if d := time.Duration(e.Lease); (d < schedules.MinLease || d%time.Second != 0) && !k.reported("election.lease") {
		k.add("election.lease", "etcd leases last whole seconds, and 2s at least", "write such as 15s: how long a replica that is gone holds its clusters")
	}
	if strings.HasSuffix(e.Prefix, "/") {
		k.add("election.prefix", "it ends with a /", "leave the / at its end out")
	}
}

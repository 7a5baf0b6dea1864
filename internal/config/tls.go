package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/requorum/requorum/internal/seal"
)

// TLSConfig is what a client of these endpoints needs: nil when none of them is https. CA files are read now, client
// certificates at each handshake, so that renewed ones count without a new start. An error names the file and what is
// wrong with it: missing, no PEM, certificate and key that do not belong together, not yet valid, expired.
func (c Connection) TLSConfig(now func() time.Time) (*tls.Config, error) {
	if !slices.ContainsFunc(c.Endpoints, URL.HTTPS) {
		return nil, nil
	}
	return c.Access.TLSConfig(now)
}

// TLSConfig is what a client of an https server needs; see [Connection.TLSConfig].
func (a Access) TLSConfig(now func() time.Time) (*tls.Config, error) {
	var t TLS
	if a.TLS != nil {
		t = *a.TLS
	}
	return t.Config(now)
}

// Config builds the client's side of TLS; see [Connection.TLSConfig].
func (t TLS) Config(now func() time.Time) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName, Time: now}
	if t.CA != "" {
		pool, err := ReadCA(t.CA, now())
		if err != nil {
			return nil, err
		}
		c.RootCAs = pool
	}
	if t.Cert != "" || t.Key != "" {
		if _, err := t.pair(now()); err != nil {
			return nil, err
		}
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return t.pair(now()) }
	}
	return c, nil
}

// ReadCA reads a file of CA certificates. A file in which every certificate has expired is an error.
func ReadCA(file File, now time.Time) (*x509.CertPool, error) {
	data, err := os.ReadFile(string(file))
	if err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	pool := x509.NewCertPool()
	var expired, valid int
	var last time.Time
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("CA %s: a certificate in it is damaged: %w", file, err)
		}
		pool.AddCert(cert)
		if now.After(cert.NotAfter) {
			expired, last = expired+1, cert.NotAfter
			continue
		}
		valid++
	}
	switch {
	case expired+valid == 0:
		return nil, fmt.Errorf("CA %s holds no certificate: expected -----BEGIN CERTIFICATE-----", file)
	case valid == 0:
		return nil, fmt.Errorf("CA %s expired on %s: renew it", file, last.UTC().Format(time.RFC3339))
	}
	return pool, nil
}

// pair reads the client's certificate and key.
func (t TLS) pair(now time.Time) (*tls.Certificate, error) {
	cert, err := os.ReadFile(string(t.Cert))
	if err != nil {
		return nil, fmt.Errorf("client certificate: %w", err)
	}
	key, err := os.ReadFile(string(t.Key))
	if err != nil {
		return nil, fmt.Errorf("key of the client certificate: %w", err)
	}
	if block, _ := pem.Decode(cert); block == nil {
		return nil, fmt.Errorf("client certificate %s is no PEM: expected -----BEGIN CERTIFICATE-----", t.Cert)
	}
	if block, _ := pem.Decode(key); block == nil {
		return nil, fmt.Errorf("key %s is no PEM: expected -----BEGIN PRIVATE KEY-----", t.Key)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("client certificate %s and key %s do not work together: %w", t.Cert, t.Key, err)
	}
	switch leaf := pair.Leaf; {
	case leaf == nil:
		return nil, fmt.Errorf("client certificate %s: %w", t.Cert, errors.New("it cannot be read"))
	case now.After(leaf.NotAfter):
		return nil, fmt.Errorf("client certificate %s (%s) expired on %s: renew it", t.Cert, leaf.Subject, leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(leaf.NotBefore):
		return nil, fmt.Errorf("client certificate %s (%s) is valid only from %s on: check this machine's clock", t.Cert, leaf.Subject, leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	return &pair, nil
}

// fullNames are recipients as seal writes them: without an SSH key's comment.
func fullNames(list []Recipient) []string {
	parsed, err := seal.ParseRecipients(texts(list))
	if err != nil {
		return nil
	}
	return seal.Names(parsed)
}

// CheckFiles reads what the configuration points to on this machine - TLS files, files of secrets, identities - and reports what is wrong.
// It is apart from Load, since an expired certificate must not stop a command that does not need it.
func (c *Config) CheckFiles(now time.Time) Problems {
	k := &checker{Config: c}
	fails := func(key string, err error) {
		if err != nil {
			k.add(key, err.Error(), "")
		}
	}
	access := func(key string, a Access) {
		if _, _, err := a.Credentials(); err != nil {
			fails(key+".password_file", err)
		}
		if t := a.TLS; t != nil {
			if t.CA != "" {
				_, err := ReadCA(t.CA, now)
				fails(key+".tls.ca", err)
			}
			if t.Cert != "" && t.Key != "" {
				_, err := t.pair(now)
				fails(key+".tls.cert", err)
			}
		}
	}
	for _, cl := range c.Sorted() {
		access("clusters."+cl.Name, cl.Access)
		for i, a := range cl.Agents {
			if a.Patroni != nil {
				access(item("clusters."+cl.Name+".agents")(i)+".patroni", a.Patroni.Access)
			}
		}
		if cl.IdentityFile == "" {
			continue
		}
		ids, err := seal.ReadIdentities(string(cl.IdentityFile))
		fails("clusters."+cl.Name+".identity_file", err)
		if err == nil && len(cl.Recipients) > 0 && !seal.Fits(ids, fullNames(cl.Recipients)) {
			k.add("clusters."+cl.Name+".identity_file", "it opens nothing that is encrypted to the recipients", "add the recipient of this identity, or name the identity of one of the recipients")
		}
	}
	for _, name := range sortedKeys(c.Stores) {
		s := c.Stores[name].S3
		if s == nil {
			continue
		}
		_, _, _, err := s.Credentials()
		fails("stores."+name+".s3.secret_key_file", err)
		if s.CA != "" {
			_, err := ReadCA(s.CA, now)
			fails("stores."+name+".s3.ca", err)
		}
	}
	if c.Election != nil {
		access("election", c.Election.Access)
	}
	if c.Serve.TLS != nil {
		_, err := c.Serve.TLSConfig(func() time.Time { return now })
		fails("serve.tls", err)
	}
	if bearer := c.Serve.Bearer(); bearer != nil {
		_, err := bearer()
		fails("serve.token_file", err)
	}
	k.notifyFiles(fails)
	k.problems.Sort()
	return k.problems
}

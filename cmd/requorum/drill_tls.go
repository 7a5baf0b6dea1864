package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/requorum/requorum/internal/member"
)

// sandboxTLS lets a client into a sandbox that etcd knows by its certificate alone: an authority for one drill signs one in the same name.
type sandboxTLS struct {
	client        *tls.Config
	ca, cert, key []byte     // of the authority and of the members, PEM
	files         member.TLS // where write put them
}

// sandboxLife is how long the certificates of a sandbox are valid.
const sandboxLife = 7 * 24 * time.Hour

// newSandboxTLS makes an authority, the members' certificate for loopback, and the client's with that common name. The keys of authority and client
// never leave this process.
func newSandboxTLS(commonName string) (*sandboxTLS, error) {
	authority, authorityKey, err := certificate("requorum drill", nil, nil)
	if err != nil {
		return nil, err
	}
	server, serverKey, err := certificate("requorum drill member", authority, authorityKey)
	if err != nil {
		return nil, err
	}
	client, clientKey, err := certificate(commonName, authority, authorityKey)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(serverKey)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(authority)
	return &sandboxTLS{
		client: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool, Certificates: []tls.Certificate{{Certificate: [][]byte{client.Raw}, PrivateKey: clientKey}}},
		ca:     pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Raw}),
		cert:   pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Raw}),
		key:    pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	}, nil
}

// certificate makes one that the parent signs, an authority of its own without a parent.
func certificate(commonName string, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	c := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: commonName}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(sandboxLife),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	signer := parentKey
	if parent == nil {
		c.IsCA, c.KeyUsage, c.ExtKeyUsage, c.IPAddresses = true, x509.KeyUsageCertSign, nil, nil
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		return nil, nil, err
	}
	made, err := x509.ParseCertificate(der)
	return made, key, err
}

// write puts what the members need into a sandbox.
func (s *sandboxTLS) write(dir string) error {
	s.files = member.TLS{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "member.pem"), Key: filepath.Join(dir, "member-key.pem")}
	return errors.Join(os.WriteFile(s.files.CA, s.ca, 0o600), os.WriteFile(s.files.Cert, s.cert, 0o600), os.WriteFile(s.files.Key, s.key, 0o600))
}

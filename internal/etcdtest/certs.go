package etcdtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A KeyPair is a certificate and its key, as PEM files.
type KeyPair struct {
	Cert, Key string

	loaded tls.Certificate
}

// Certs are certificates for 127.0.0.1 and localhost, for servers and clients alike, as files.
type Certs struct {
	CA      string  // trusted by servers and clients
	Server  KeyPair // signed by CA
	Client  KeyPair // signed by CA
	Expired KeyPair // signed by CA, expired an hour ago
	OtherCA string  // trusted by nobody
	Foreign KeyPair // signed by OtherCA

	pool *x509.CertPool
}

// NewCerts writes certificates into dir, which it makes.
func NewCerts(t testing.TB, dir string) *Certs {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	ca := newAuthority(t, dir, "ca")
	other := newAuthority(t, dir, "other-ca")
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	valid := time.Now().Add(90 * 24 * time.Hour) // far enough off that nothing warns of it
	return &Certs{
		CA:      ca.file,
		Server:  ca.issue(t, dir, "server", valid),
		Client:  ca.issue(t, dir, "client", valid),
		Expired: ca.issue(t, dir, "expired", time.Now().Add(-time.Hour)),
		OtherCA: other.file,
		Foreign: other.issue(t, dir, "foreign", valid),
		pool:    pool,
	}
}

// ClientTLS trusts CA and presents pair.
func (c *Certs) ClientTLS(pair KeyPair) *tls.Config {
	return &tls.Config{RootCAs: c.pool, Certificates: []tls.Certificate{pair.loaded}, MinVersion: tls.VersionTLS12}
}

type authority struct {
	file string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB, dir, name string) *authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber:          serial(t),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-48 * time.Hour),
		NotAfter:              time.Now().Add(100 * 24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, name+".pem")
	writePEM(t, file, "CERTIFICATE", der)
	return &authority{file: file, cert: cert, key: key}
}

func (a *authority) issue(t testing.TB, dir, name string, notAfter time.Time) KeyPair {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: serial(t),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-24 * time.Hour),
		NotAfter:     notAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pair := KeyPair{Cert: filepath.Join(dir, name+".pem"), Key: filepath.Join(dir, name+"-key.pem")}
	writePEM(t, pair.Cert, "CERTIFICATE", der)
	writePEM(t, pair.Key, "PRIVATE KEY", keyDER)
	if pair.loaded, err = tls.LoadX509KeyPair(pair.Cert, pair.Key); err != nil {
		t.Fatal(err)
	}
	return pair
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func serial(t testing.TB) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func writePEM(t testing.TB, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

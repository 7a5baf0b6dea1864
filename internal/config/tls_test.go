package config

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
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/internal/seal"
)

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// issue writes a self-signed certificate and its key and returns their files.
func issue(t *testing.T, dir, name string, serial int64, from, to time.Time) (cert, key File) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: to,
		DNSNames: []string{"etcd.test"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}}, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	pk, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	write := func(suffix, kind string, b []byte) File {
		file := filepath.Join(dir, name+suffix)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), 0o600); err != nil {
			t.Fatal(err)
		}
		return File(file)
	}
	return write(".pem", "CERTIFICATE", der), write("-key.pem", "PRIVATE KEY", pk)
}

func at(now time.Time) func() time.Time { return func() time.Time { return now } }

func TestTLSErrors(t *testing.T) {
	dir := t.TempDir()
	good, goodKey := issue(t, dir, "good", 1, noon.Add(-day), noon.Add(day))
	_, otherKey := issue(t, dir, "other", 2, noon.Add(-day), noon.Add(day))
	old, oldKey := issue(t, dir, "old", 3, noon.Add(-2*day), noon.Add(-day))
	early, earlyKey := issue(t, dir, "early", 4, noon.Add(day), noon.Add(2*day))
	junk := File(filepath.Join(dir, "junk"))
	if err := os.WriteFile(string(junk), []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		tls  TLS
		want string
	}{
		{TLS{CA: good, Cert: good, Key: goodKey}, ""},
		{TLS{CA: junk}, "holds no certificate"},
		{TLS{CA: goodKey}, "holds no certificate"},
		{TLS{CA: old}, "old.pem expired on 2026-05-31T12:00:00Z: renew it"},
		{TLS{CA: File(dir + "/gone")}, "gone: no such file"},
		{TLS{Cert: File(dir + "/gone"), Key: goodKey}, "client certificate: open"},
		{TLS{Cert: good, Key: File(dir + "/gone")}, "key of the client certificate: open"},
		{TLS{Cert: junk, Key: goodKey}, "is no PEM"},
		{TLS{Cert: good, Key: junk}, "is no PEM"},
		{TLS{Cert: good, Key: otherKey}, "do not work together"},
		{TLS{Cert: old, Key: oldKey}, "(CN=old) expired on 2026-05-31T12:00:00Z: renew it"},
		{TLS{Cert: early, Key: earlyKey}, "is valid only from 2026-06-02T12:00:00Z on"},
	} {
		_, err := c.tls.Config(at(noon))
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: got %v, want %q", c.tls, err, c.want)
		}
	}
}

func TestTLSOnlyForHTTPS(t *testing.T) {
	c, err := Connection{Endpoints: []URL{"http://h:1"}}.TLSConfig(at(noon))
	if c != nil || err != nil {
		t.Errorf("http: %v, %v", c, err)
	}
	c, err = Connection{Endpoints: []URL{"https://h:1"}}.TLSConfig(at(noon))
	if c == nil || err != nil || c.RootCAs != nil || c.MinVersion != tls.VersionTLS12 {
		t.Errorf("https: %+v, %v", c, err)
	}
}

// A client certificate that is renewed in place counts at the next handshake.
func TestTLSReloads(t *testing.T) {
	dir := t.TempDir()
	server, serverKey := issue(t, dir, "server", 1, noon.Add(-day), noon.Add(day))
	cert, key := issue(t, dir, "client", 100, noon.Add(-day), noon.Add(day))
	pair, err := tls.LoadX509KeyPair(string(server), string(serverKey))
	if err != nil {
		t.Fatal(err)
	}
	client, err := TLS{CA: server, Cert: cert, Key: key, ServerName: "etcd.test"}.Config(at(noon))
	if err != nil {
		t.Fatal(err)
	}
	handshake := func() int64 {
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		s := tls.Server(a, &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert, MaxVersion: tls.VersionTLS12, Time: at(noon)})
		done := make(chan error, 1)
		go func() { done <- s.HandshakeContext(t.Context()) }()
		if err := tls.Client(b, client).HandshakeContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		return s.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	if got := handshake(); got != 100 {
		t.Errorf("serial %d, want 100", got)
	}
	issue(t, dir, "client", 101, noon.Add(-day), noon.Add(day))
	if got := handshake(); got != 101 {
		t.Errorf("serial %d after renewal, want 101", got)
	}
}

func TestCheckFiles(t *testing.T) {
	dir := t.TempDir()
	issue(t, dir, "old", 1, noon.Add(-2*day), noon.Add(-day))
	issue(t, dir, "good", 1, noon.Add(-day), noon.Add(day))
	mine, err := seal.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	other, err := seal.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"empty": "\n", "pw": "x", "mine.key": mine.Identity, "other.key": other.Identity, "junk.key": "junk"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := Parse(filepath.Join(dir, "x.yaml"), []byte(`clusters:
  a: {endpoints: ["https://h:1"], stores: [s], username: u, password_file: empty, tls: {ca: old.pem, cert: old.pem, key: old-key.pem}, recipients: [`+mine.Recipient+`], identity_file: other.key}
  b: {endpoints: ["https://h:1"], stores: [s], username: u, password_file: pw, tls: {ca: good.pem, cert: good.pem, key: good-key.pem}, recipients: [`+mine.Recipient+`], identity_file: mine.key}
  c: {endpoints: ["http://h:1"], stores: [s], identity_file: junk.key}
stores:
  s: {s3: {bucket: b, endpoint: "https://s3", ca: empty, access_key: k, secret_key_file: empty}}
`), env(nil))
	if err != nil {
		t.Fatal(err)
	}
	got := strings.ReplaceAll(c.CheckFiles(noon).Error(), dir+"/", "")
	const want = `x.yaml:2: clusters.a.password_file: password of user u: empty is empty
x.yaml:2: clusters.a.tls.ca: CA old.pem expired on 2026-05-31T12:00:00Z: renew it
x.yaml:2: clusters.a.tls.cert: client certificate old.pem (CN=old) expired on 2026-05-31T12:00:00Z: renew it
x.yaml:2: clusters.a.identity_file: it opens nothing that is encrypted to the recipients; add the recipient of this identity, or name the identity of one of the recipients
x.yaml:4: clusters.c.identity_file: identity file junk.key: not a list of age identities (AGE-SECRET-KEY-…), one a line: error at line 1: unknown identity type
x.yaml:6: stores.s.s3.ca: CA empty holds no certificate: expected -----BEGIN CERTIFICATE-----
x.yaml:6: stores.s.s3.secret_key_file: secret key of bucket b: empty is empty`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

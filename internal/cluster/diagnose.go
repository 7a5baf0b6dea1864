package cluster

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"
)

// diagnoseTimeout bounds one look at an endpoint that did not answer.
const diagnoseTimeout = 2 * time.Second

// The HTTP/2 connection preface and an empty SETTINGS frame: what a gRPC client says first. A
// server answers it with its own settings.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"

// A finding is why an endpoint cannot be talked to.
type finding struct {
	what, advice string
	sentinels    []error
	err          error
}

// diagnose connects to the endpoint as gRPC would and says what goes wrong, in terms of the person
// who configured it: gRPC itself reports most of this as a deadline. It returns nil when nothing is
// wrong up to the first answer of the server.
func (e *endpoint) diagnose(ctx context.Context) *finding {
	ctx, cancel := context.WithTimeout(ctx, diagnoseTimeout)
	defer cancel()
	conn, err := e.dial(ctx, e.host)
	if err != nil {
		return dialFinding(err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if !e.secure {
		return e.diagnosePlain(ctx, conn)
	}
	config := e.tls.Clone()
	config.NextProtos = []string{"h2"}
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		return e.tlsFinding(ctx, err)
	}
	// With TLS 1.3 a server judges the client's certificate only after the handshake is complete
	// for the client, so its answer must be read.
	if err := speak(secured); err != nil {
		return e.tlsFinding(ctx, err)
	}
	return nil
}

func (e *endpoint) diagnosePlain(ctx context.Context, conn net.Conn) *finding {
	err := speak(conn)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return silent(err)
	}
	// A server that hangs up on plain text may be speaking TLS.
	second, dialErr := e.dial(ctx, e.host)
	if dialErr == nil {
		defer second.Close()
		handshake := tls.Client(second, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}) // only to see whether it speaks TLS
		err := handshake.HandshakeContext(ctx)
		var alert *net.OpError
		if err == nil || errors.As(err, &alert) && alert.Op == "remote error" {
			return &finding{what: "the server speaks TLS", advice: "write the endpoint as https://" + e.host + " and configure tls", sentinels: []error{ErrTLS}}
		}
	}
	return &finding{what: fmt.Sprintf("the server closed the connection: %v", err), advice: "is this an etcd client URL?", err: err}
}

// speak says what a gRPC client says first and waits for the first byte of an answer.
func speak(conn net.Conn) error {
	if _, err := io.WriteString(conn, preface); err != nil {
		return err
	}
	_, err := bufio.NewReader(conn).ReadByte()
	return err
}

func silent(err error) *finding {
	return &finding{
		what:   "it accepts connections but says nothing",
		advice: "the process may be stopped, hung on its disk or overloaded: look at it on its host",
		err:    err,
	}
}

func dialFinding(err error) *finding {
	f := &finding{what: fmt.Sprintf("cannot connect: %v", err), err: err}
	var dns *net.DNSError
	var timeout net.Error
	switch {
	case errors.As(err, &dns):
		f.what = fmt.Sprintf("the host name %q cannot be resolved: %s", dns.Name, dns.Err)
		f.advice = "check the endpoint and the name server"
	case errors.Is(err, syscall.ECONNREFUSED):
		f.what = "connection refused: nothing listens there"
		f.advice = "check the port, and whether etcd runs on that host"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		f.advice = "check the network between here and that host"
	case errors.As(err, &timeout) && timeout.Timeout():
		f.what = fmt.Sprintf("no connection within %v", diagnoseTimeout)
		f.advice = "the host may be down, or a firewall drops the packets"
	}
	return f
}

func (e *endpoint) tlsFinding(ctx context.Context, err error) *finding {
	f := &finding{what: fmt.Sprintf("TLS: %v", err), sentinels: []error{ErrTLS}, err: err}
	var (
		record    tls.RecordHeaderError
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		host      x509.HostnameError
		remote    *net.OpError
	)
	closed := errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)
	switch {
	case ctx.Err() != nil:
		return silent(err)
	case closed && e.speaksPlain(ctx):
		f.what, f.advice = "the server does not speak TLS", "write the endpoint as http://"+e.host
	case errors.As(err, &record):
		f.what, f.advice = "the server does not speak TLS", "write the endpoint as http://"+e.host
	case errors.As(err, &authority):
		f.what = "the server's certificate is signed by an authority that is not trusted here"
		if authority.Cert != nil {
			f.what += fmt.Sprintf(" (issuer %q)", authority.Cert.Issuer)
		}
		f.advice = "set tls.ca to the certificate of the authority that signs etcd's server certificates"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		f.what, f.advice = "the server's certificate is expired or not valid yet", "check the clocks, renew the certificate"
		if c := invalid.Cert; c != nil {
			f.what = fmt.Sprintf("the server's certificate is valid from %s to %s only", c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339))
		}
	case errors.As(err, &host):
		f.what = fmt.Sprintf("the server's certificate is not for %s", e.tls.ServerName)
		if host.Certificate != nil {
			f.what += fmt.Sprintf(" but for %q", names(host.Certificate))
		}
		f.advice = "use one of these names in the endpoint, or issue the certificate for this one"
	case errors.As(err, &remote) && remote.Op == "remote error":
		f.what = fmt.Sprintf("the server ended the handshake: %v", remote.Err)
		alert := strings.TrimPrefix(remote.Err.Error(), "tls: ")
		switch {
		case slices.Contains(certificateAlerts, alert) && e.hasCertificate():
			f.what = fmt.Sprintf("the server does not accept the client certificate: %v", remote.Err)
			f.advice = "check that tls.cert is signed by etcd's --trusted-ca-file, not expired and allowed for client authentication"
		case slices.Contains(certificateAlerts, alert):
			f.what = fmt.Sprintf("the server wants a client certificate: %v", remote.Err)
			f.advice = "set tls.cert and tls.key"
		}
	case closed:
		f.what = "the server closed the connection during the TLS handshake"
		f.advice = "it may want another client certificate: look at the log of this member"
	}
	return f
}

// speaksPlain tells whether the server answers without TLS.
func (e *endpoint) speaksPlain(ctx context.Context) bool {
	conn, err := e.dial(ctx, e.host)
	if err != nil {
		return false
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	return speak(conn) == nil
}

// certificateAlerts are the texts of the alerts (RFC 8446, section 6) by which a server refuses a
// client's certificate, or the lack of one. crypto/tls keeps their type to itself.
var certificateAlerts = []string{
	"certificate required", "bad certificate", "handshake failure", "unknown certificate authority", "unknown certificate",
	"expired certificate", "revoked certificate", "unsupported certificate",
}

func (e *endpoint) hasCertificate() bool {
	return len(e.tls.Certificates) > 0 || e.tls.GetClientCertificate != nil
}

func names(c *x509.Certificate) []string {
	list := append([]string(nil), c.DNSNames...)
	for _, ip := range c.IPAddresses {
		list = append(list, ip.String())
	}
	if len(list) == 0 {
		list = append(list, c.Subject.CommonName)
	}
	return list
}

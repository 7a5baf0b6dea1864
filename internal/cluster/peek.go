package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// A Peek is what one endpoint lets be seen beside etcd's own protocol: its clock and its certificate.
type Peek struct {
	Endpoint string

	// Skew is how far the member's clock is ahead of this machine's; negative: behind. It comes from the Date header of
	// /version, which has whole seconds, and from the time that the answer took, and is what it must be at
	// least: 0 when both clocks may agree. Known only if SkewKnown.
	Skew      time.Duration
	SkewKnown bool

	// Certificate is when the first of the certificates that the server sent expires; zero without TLS or when none was seen.
	Certificate time.Time

	Err error // why the clock is not known: the port may serve nothing but gRPC
}

// Peek looks at every endpoint at once, each over a connection of its own that is closed again: a certificate that was
// renewed since is the one that counts. The results are in the order of the endpoints.
func (c *Client) Peek(ctx context.Context) []Peek {
	out := make([]Peek, len(c.endpoints))
	c.each(func(i int, e *endpoint) {
		ctx, cancel := context.WithTimeout(ctx, c.options.DialTimeout)
		defer cancel()
		out[i] = e.peek(ctx)
	})
	return out
}

func (e *endpoint) peek(ctx context.Context) Peek {
	p := Peek{Endpoint: e.name}
	scheme := "http"
	transport := &http.Transport{ // no proxy of the environment, and HTTP/1.1, which etcd serves beside gRPC
		DialContext:       (&net.Dialer{}).DialContext,
		DisableKeepAlives: true,
	}
	if e.secure {
		scheme = "https"
		transport.TLSClientConfig = e.tls.Clone()
		transport.TLSClientConfig.VerifyConnection = func(s tls.ConnectionState) error {
			p.Certificate = earliest(s.PeerCertificates)
			return nil
		}
	}
	client := &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	p.Err = func() error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+e.host+"/version", nil)
		if err != nil {
			return err
		}
		before := time.Now()
		answer, err := client.Do(r)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		after := time.Now()
		_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 4<<10)) // the header is all that is wanted
		date, err := http.ParseTime(answer.Header.Get("Date"))
		if err != nil {
			return fmt.Errorf("its answer has no date: %w", err)
		}
		p.Skew, p.SkewKnown = skew(before, after, date), true
		return nil
	}()
	if p.Err != nil {
		p.Err = fmt.Errorf("clock of %s: %w", e.name, p.Err)
	}
	return p
}

// skew is the least difference between the clocks that explains an answer dated date, in whole seconds, to a question asked at
// before and answered at after.
func skew(before, after, date time.Time) time.Duration {
	switch earliest, latest := date, date.Add(time.Second); {
	case latest.Before(before):
		return latest.Sub(before)
	case earliest.After(after):
		return earliest.Sub(after)
	}
	return 0
}

// earliest is when the first of the certificates expires.
func earliest(chain []*x509.Certificate) time.Time {
	var first time.Time
	for _, c := range chain {
		if first.IsZero() || c.NotAfter.Before(first) {
			first = c.NotAfter
		}
	}
	return first
}

// ClientCertificate is when the certificate that the client presents expires; the zero time without one.
func (c *Client) ClientCertificate() (time.Time, error) {
	config := c.options.TLS
	if config == nil {
		return time.Time{}, nil
	}
	var pair *tls.Certificate
	switch {
	case config.GetClientCertificate != nil:
		var err error
		if pair, err = config.GetClientCertificate(new(tls.CertificateRequestInfo)); err != nil {
			return time.Time{}, err
		}
	case len(config.Certificates) > 0:
		pair = &config.Certificates[0]
	}
	if pair == nil || len(pair.Certificate) == 0 {
		return time.Time{}, nil
	}
	var chain []*x509.Certificate
	var errs []error
	for _, der := range pair.Certificate {
		cert, err := x509.ParseCertificate(der)
		chain, errs = append(chain, cert), append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return time.Time{}, fmt.Errorf("client certificate: %w", err)
	}
	return earliest(chain), nil
}

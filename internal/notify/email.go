package notify

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"net/smtp"
	"net/textproto"
	"strings"
	"time"
)

// Security is how the way to a mail server is protected.
type Security string

// The ways. With StartTLS a server that does not offer it gets nothing.
const (
	StartTLS Security = "starttls" // port 587
	TLS      Security = "tls"      // from the first byte, port 465
	Plain    Security = "plain"    // not at all; passwords are then sent to this machine's own server only
)

// EmailOptions say through which server mail goes, and to whom.
type EmailOptions struct {
	Server   string // host:port
	Security Security
	TLS      *tls.Config // nil: the system's authorities
	From     string
	To       []string
	Username string // "" does not log in
	Password Secret
	Hello    string // how this machine calls itself; "" is localhost
}

// An Email is a receiver of mail.
type Email struct {
	o    EmailOptions
	host string
	from *mail.Address
	to   []*mail.Address
}

// NewEmail fails when an address or the server cannot be used.
func NewEmail(o EmailOptions) (*Email, error) {
	e := &Email{o: o}
	var err error
	if e.host, _, err = net.SplitHostPort(o.Server); err != nil || e.host == "" {
		return nil, fmt.Errorf("mail server %q: write it as HOST:PORT", o.Server)
	}
	if e.from, err = mail.ParseAddress(o.From); err != nil {
		return nil, fmt.Errorf("sender %q: %w", o.From, err)
	}
	for _, to := range o.To {
		a, err := mail.ParseAddress(to)
		if err != nil {
			return nil, fmt.Errorf("recipient %q: %w", to, err)
		}
		e.to = append(e.to, a)
	}
	if len(e.to) == 0 {
		return nil, errors.New("mail has no recipient")
	}
	switch o.Security {
	case StartTLS, TLS, Plain:
	default:
		return nil, fmt.Errorf("mail server %s: security %q is none of starttls, tls and plain", o.Server, o.Security)
	}
	return e, nil
}

// Kind implements Receiver.
func (e *Email) Kind() string { return "email" }

// Send implements Receiver.
func (e *Email) Send(ctx context.Context, m Message) error {
	password := ""
	if e.o.Username != "" {
		var err error
		if password, err = e.o.Password(); err != nil {
			return &Error{What: "its password: " + err.Error()}
		}
	}
	err := e.send(ctx, password, m)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	hidden := base64.StdEncoding.EncodeToString([]byte("\x00" + e.o.Username + "\x00" + password))
	out := &Error{What: "mail server " + e.o.Server + ": " + scrub(err.Error(), []string{password, hidden, base64.StdEncoding.EncodeToString([]byte(password))})}
	if answer, ok := errors.AsType[*textproto.Error](err); ok {
		out.Permanent = answer.Code >= 500
	}
	return out
}

func (e *Email) send(ctx context.Context, password string, m Message) error {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if e.o.TLS != nil {
		config = e.o.TLS.Clone()
	}
	if config.ServerName == "" {
		config.ServerName = e.host
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", e.o.Server)
	if err != nil {
		return err
	}
	defer conn.Close()
	// net/smtp knows no context: its end closes the connection.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if e.o.Security == TLS {
		conn = tls.Client(conn, config)
	}
	c, err := smtp.NewClient(conn, e.host)
	if err != nil {
		return err
	}
	if e.o.Hello != "" {
		if err := c.Hello(e.o.Hello); err != nil {
			return err
		}
	}
	if e.o.Security == StartTLS {
		if ok, _ := c.Extension("STARTTLS"); !ok {
			return errors.New("it does not offer STARTTLS, and nothing is sent in the clear")
		}
		if err := c.StartTLS(config); err != nil {
			return err
		}
	}
	if e.o.Username != "" {
		if err := e.login(c, password); err != nil {
			return fmt.Errorf("logging in as %s: %w", e.o.Username, err)
		}
	}
	if err := c.Mail(e.from.Address); err != nil {
		return err
	}
	for _, to := range e.to {
		if err := c.Rcpt(to.Address); err != nil {
			return fmt.Errorf("recipient %s: %w", to.Address, err)
		}
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write(e.compose(m)); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	_ = c.Quit() // the message is taken
	return nil
}

// login uses PLAIN, or LOGIN where a server offers nothing better. Both refuse to send a password in the clear to another machine.
func (e *Email) login(c *smtp.Client, password string) error {
	ok, kinds := c.Extension("AUTH")
	if !ok {
		return errors.New("it offers no way to log in")
	}
	for kind := range strings.FieldsSeq(kinds) {
		if strings.EqualFold(kind, "PLAIN") {
			return c.Auth(smtp.PlainAuth("", e.o.Username, password, e.host))
		}
	}
	return c.Auth(&loginAuth{PlainAuth: smtp.PlainAuth("", e.o.Username, password, e.host), username: e.o.Username, password: password})
}

// loginAuth is AUTH LOGIN, which some servers speak alone. It starts where PLAIN would.
type loginAuth struct {
	PlainAuth          smtp.Auth
	username, password string
}

func (a *loginAuth) Start(server *smtp.ServerInfo) (string, []byte, error) {
	if _, _, err := a.PlainAuth.Start(server); err != nil {
		return "", nil, err
	}
	return "LOGIN", nil, nil
}

func (a *loginAuth) Next(asked []byte, more bool) ([]byte, error) {
	if !more {
		return nil, nil
	}
	switch question := strings.ToLower(string(asked)); {
	case strings.HasPrefix(question, "user"):
		return []byte(a.username), nil
	case strings.HasPrefix(question, "pass"):
		return []byte(a.password), nil
	}
	return nil, errors.New("it asks for something that LOGIN does not know")
}

// compose writes the mail. Nothing in a message can become a header of its own.
func (e *Email) compose(m Message) []byte {
	var b bytes.Buffer
	header := func(name, value string) { fmt.Fprintf(&b, "%s: %s\r\n", name, value) }
	var to []string
	for _, a := range e.to {
		to = append(to, a.String())
	}
	header("From", e.from.String())
	header("To", strings.Join(to, ", "))
	header("Subject", subjectLine("[requorum] "+m.Summary))
	header("Date", m.Time.Format(time.RFC1123Z))
	header("Message-ID", "<"+rand.Text()+"@"+domain(e.from.Address)+">")
	header("Auto-Submitted", "auto-generated")
	header("MIME-Version", "1.0")
	header("Content-Type", "text/plain; charset=utf-8")
	header("Content-Transfer-Encoding", "quoted-printable")
	b.WriteString("\r\n")
	w := quotedprintable.NewWriter(&b)
	text := m.Text + "\n-- \nrequorum on " + m.Host + "\n"
	_, _ = w.Write([]byte(strings.ReplaceAll(text, "\n", "\r\n"))) // into memory
	_ = w.Close()
	return b.Bytes()
}

// subjectLine encodes a subject, at most some 150 letters of it, on lines that any server takes.
func subjectLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > 150 {
		s = string(r[:149]) + "…"
	}
	return strings.ReplaceAll(mime.QEncoding.Encode("utf-8", s), "?= =?", "?=\r\n =?")
}

func domain(address string) string {
	_, host, _ := strings.Cut(address, "@")
	return host
}

package notify

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/requorum/requorum/internal/etcdtest"
)

func is(s string) Secret { return func() (string, error) { return s, nil } }

func message() Message {
	m := Message{Time: time.Date(2026, 11, 22, 5, 55, 0, 0, time.UTC), Host: "replica-1", Standing: 1, Recovered: []Told{},
		Problems: []Told{{Problem: Problem{Cluster: "dcs", Name: "rpo", Severity: "critical", What: `no backup of "größe" <now>`, Advice: "requorum backup dcs"}, Times: 1}}}
	m.describe()
	return m
}

// taken is one request that a local receiver got.
type taken struct {
	method, path, body string
	header             http.Header
}

func receiver(t *testing.T, answer http.HandlerFunc) (url string, requests func() []taken) {
	t.Helper()
	var mu sync.Mutex
	var all []taken
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		all = append(all, taken{r.Method, r.URL.RequestURI(), string(body), r.Header})
		mu.Unlock()
		if answer != nil {
			answer(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL, func() []taken {
		mu.Lock()
		defer mu.Unlock()
		return all
	}
}

func TestWebhook(t *testing.T) {
	address, requests := receiver(t, nil)
	plainHook, err := NewWebhook(WebhookOptions{URL: is(address + "/hook?key=1"), Bearer: is("t0ken")})
	if err != nil {
		t.Fatal(err)
	}
	templated, err := NewWebhook(WebhookOptions{URL: is(address), ContentType: "text/plain", Template: `{{range .Problems}}{{.Cluster}} {{json .What}}{{end}} {{.Status}}`})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []Receiver{plainHook, templated, NewBeat(is(address + "/ping"))} {
		if err := r.Send(t.Context(), message()); err != nil {
			t.Fatalf("%s: %v", r.Kind(), err)
		}
	}
	got := requests()
	var m Message
	if err := json.Unmarshal([]byte(got[0].body), &m); err != nil || m.Problems[0].What != message().Problems[0].What || m.Status != "problem" || !strings.Contains(got[0].body, `"recovered":[]`) {
		t.Errorf("the message is %s (%v)", got[0].body, err)
	}
	if got[0].path != "/hook?key=1" || got[0].header.Get("Authorization") != "Bearer t0ken" || got[0].header.Get("Content-Type") != "application/json" {
		t.Errorf("the request is %+v", got[0])
	}
	if want := `dcs "no backup of \"größe\" \u003cnow\u003e" problem`; got[1].body != want || got[1].header.Get("Content-Type") != "text/plain" {
		t.Errorf("the template made %s, want %s", got[1].body, want)
	}
	if got[2].method != http.MethodGet || got[2].path != "/ping" || got[2].body != "" {
		t.Errorf("the heartbeat is %+v", got[2])
	}
	for _, bad := range []string{"{{", "{{.Nothing}}", "{{range .Problems}}{{.Nothing}}{{end}}"} {
		if _, err := NewWebhook(WebhookOptions{URL: is(address), Template: bad}); err == nil {
			t.Errorf("the template %s is taken", bad)
		}
	}
}

func TestSlack(t *testing.T) {
	address, requests := receiver(t, nil)
	long := message()
	for i := range 200 {
		long.Problems = append(long.Problems, Told{Problem: Problem{Cluster: fmt.Sprint("c", i), Severity: "warning", What: "länger als der Rest"}})
	}
	long.Standing = len(long.Problems)
	long.describe()
	for _, m := range []Message{message(), long} {
		if err := NewSlack(is(address)).Send(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	var texts []string
	for _, r := range requests() {
		var body struct{ Text string }
		if err := json.Unmarshal([]byte(r.body), &body); err != nil {
			t.Fatal(err)
		}
		texts = append(texts, body.Text)
	}
	if !strings.HasPrefix(texts[0], `*CRITICAL: dcs: no backup of "größe" &lt;now&gt;*`) || !strings.Contains(texts[0], "try: requorum backup dcs") {
		t.Errorf("Slack is told %s", texts[0])
	}
	if len(texts[1]) > 4000 || !strings.Contains(texts[1], "201 problems stand") {
		t.Errorf("a long message has %d bytes and ends with %s", len(texts[1]), texts[1][len(texts[1])-60:])
	}
}

// Whatever goes wrong, the secrets of a receiver are in no error and in no log.
func TestSecretsStaySecret(t *testing.T) {
	const secret = "T00000-XXXXXXXX"
	var log strings.Builder
	logger := slog.New(slog.NewTextHandler(&log, nil))
	closed := fmt.Sprintf("http://127.0.0.1:%d", etcdtest.FreePort(t))
	echo, _ := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, "no %s with %s", r.URL, r.Header.Get("Authorization"))
	})
	redirect, requests := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://127.0.0.1:1/elsewhere?"+r.URL.RawQuery, http.StatusFound)
	})
	busy, _ := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusTooManyRequests)
	})
	broken, _ := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			conn.Close()
		}
	})
	for name, tc := range map[string]struct {
		address   string
		want      string
		permanent bool
		wait      time.Duration
	}{
		"refuses":         {echo, "403 Forbidden: no [redacted]", true, 0},
		"leads elsewhere": {redirect, "302 Found", true, 0},
		"is busy":         {busy, "429", false, 7 * time.Second},
		"hangs up":        {broken, "EOF", false, 0},
		"is not there":    {closed, "connection refused", false, 0},
		"has no name":     {"http://" + strings.Repeat("x", 64) + ".invalid", "no such host", false, 0}, // no name server is asked for what can be no name
		"is no URL":       {"ftp://x", "does not begin with https://", true, 0},
		"is nonsense":     {"http://[::1", "it is no URL", true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			hook, err := NewWebhook(WebhookOptions{URL: is(tc.address + "/services/" + secret + "?key=" + secret), Bearer: is(secret)})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range []Receiver{hook, NewSlack(hook.url), NewBeat(hook.url)} {
				err := r.Send(t.Context(), message())
				e, ok := errors.AsType[*Error](err)
				if !ok || !strings.Contains(err.Error(), tc.want) || e.Permanent != tc.permanent || e.Wait != tc.wait {
					t.Errorf("%s: %+v, want %q", r.Kind(), e, tc.want)
				}
				logger.Error("x", "error", err, "receiver", fmt.Sprint(err))
				if strings.Contains(fmt.Sprintf("%v %+v %#v", err, e, e), secret) {
					t.Errorf("%s tells the secret: %#v", r.Kind(), e)
				}
			}
		})
	}
	if len(requests()) != 3 {
		t.Errorf("%d requests to what leads elsewhere", len(requests()))
	}
	if strings.Contains(log.String(), secret) {
		t.Errorf("the log tells the secret:\n%s", &log)
	}
}

func TestSendEndsWithItsContext(t *testing.T) {
	address, _ := receiver(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	mailer, err := NewEmail(EmailOptions{Server: silent.Addr().String(), Security: Plain, From: "a@example.com", To: []string{"b@example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []Receiver{NewSlack(is(address)), mailer} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		start := time.Now()
		if err := r.Send(ctx, message()); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > time.Minute {
			t.Errorf("%s ended after %v with %v", r.Kind(), time.Since(start), err)
		}
		cancel()
	}
}

// smtpServer is a small server of mail for tests.
type smtpServer struct {
	addr    string
	auth    string // what it offers, such as PLAIN LOGIN; "" nothing
	tls     *tls.Config
	start   bool   // offers STARTTLS
	direct  bool   // speaks TLS from the first byte
	refuses string // answers this to every recipient

	mu    sync.Mutex
	mails []string // envelope and data
}

func (s *smtpServer) listen(t *testing.T) *smtpServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	var conns sync.WaitGroup
	t.Cleanup(func() { l.Close(); conns.Wait() })
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { s.serve(c) })
		}
	})
	return s
}

func (s *smtpServer) serve(c net.Conn) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Minute))
	if s.direct {
		c = tls.Server(c, s.tls)
	}
	in := bufio.NewReader(c)
	line := func() string { l, _ := in.ReadString('\n'); return strings.TrimSpace(l) }
	say := func(f string, args ...any) { fmt.Fprintf(c, f+"\r\n", args...) }
	secret := func(question string) string {
		say("334 %s", base64.StdEncoding.EncodeToString([]byte(question)))
		b, _ := base64.StdEncoding.DecodeString(line())
		return string(b)
	}
	say("220 test")
	envelope, secured, user := "", s.direct, ""
	for {
		l := line()
		verb, rest, _ := strings.Cut(l, " ")
		switch strings.ToUpper(verb) {
		case "":
			return
		case "EHLO":
			say("250-test")
			if s.start && !secured {
				say("250-STARTTLS")
			}
			if s.auth != "" {
				say("250-AUTH %s", s.auth)
			}
			say("250 8BITMIME")
		case "STARTTLS":
			say("220 go")
			c = tls.Server(c, s.tls)
			in, secured = bufio.NewReader(c), true
		case "AUTH":
			var name, password string
			kind, first, _ := strings.Cut(rest, " ")
			if kind == "PLAIN" {
				b, _ := base64.StdEncoding.DecodeString(first)
				parts := strings.Split(string(b), "\x00")
				name, password = parts[1], parts[2]
			} else {
				name, password = secret("Username:"), secret("Password:")
			}
			if password != "p4ssw0rd" {
				say("535 5.7.8 wrong: %s %s", password, first)
				continue
			}
			user = name
			say("235 ok")
		case "MAIL", "RCPT":
			if verb == "RCPT" && s.refuses != "" {
				say("%s", s.refuses)
				continue
			}
			envelope += l + "\n"
			say("250 ok")
		case "DATA":
			say("354 go")
			var data strings.Builder
			for {
				raw, err := in.ReadString('\n')
				if err != nil || raw == ".\r\n" {
					break
				}
				data.WriteString(raw)
			}
			s.mu.Lock()
			s.mails = append(s.mails, fmt.Sprintf("user %s secured %v\n%s\n%s", user, secured, envelope, data.String()))
			s.mu.Unlock()
			say("250 taken")
		case "QUIT":
			say("221 bye")
			return
		default:
			say("500 what?")
		}
	}
}

func TestEmail(t *testing.T) {
	web := httptest.NewTLSServer(nil) // for its certificate
	defer web.Close()
	pool := x509.NewCertPool()
	pool.AddCert(web.Certificate())
	trusting := &tls.Config{RootCAs: pool}
	server := &tls.Config{Certificates: web.TLS.Certificates}
	for _, tc := range []struct {
		name      string
		server    *smtpServer
		o         EmailOptions
		want      string // in what is taken
		fails     string // in the error
		permanent bool
	}{
		{"STARTTLS and PLAIN", &smtpServer{tls: server, start: true, auth: "LOGIN PLAIN"}, EmailOptions{Security: StartTLS, TLS: trusting, Username: "me", Password: is("p4ssw0rd")}, "user me secured true", "", false},
		{"TLS and LOGIN", &smtpServer{tls: server, direct: true, auth: "LOGIN"}, EmailOptions{Security: TLS, TLS: trusting, Username: "me", Password: is("p4ssw0rd")}, "user me secured true", "", false},
		{"plain, nobody", &smtpServer{}, EmailOptions{Security: Plain}, "user  secured false", "", false},
		{"no STARTTLS where it is asked for", &smtpServer{}, EmailOptions{Security: StartTLS}, "", "does not offer STARTTLS", false},
		{"a certificate of nobody", &smtpServer{tls: server, start: true}, EmailOptions{Security: StartTLS}, "", "certificate", false},
		{"a wrong password", &smtpServer{tls: server, start: true, auth: "PLAIN"}, EmailOptions{Security: StartTLS, TLS: trusting, Username: "me", Password: is("wr0ng-one")}, "", "535", true},
		{"an unknown recipient", &smtpServer{refuses: "550 nobody here"}, EmailOptions{Security: Plain}, "", "550", true},
		{"a full mailbox", &smtpServer{refuses: "452 later"}, EmailOptions{Security: Plain}, "", "452", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := tc.server.listen(t)
			tc.o.Server, tc.o.From, tc.o.To = s.addr, "requorum <requorum@example.com>", []string{"Ops <ops@example.com>", "two@example.com"}
			e, err := NewEmail(tc.o)
			if err != nil {
				t.Fatal(err)
			}
			err = e.Send(t.Context(), message())
			if tc.fails != "" {
				f, ok := errors.AsType[*Error](err)
				if !ok || !strings.Contains(f.What, tc.fails) || f.Permanent != tc.permanent {
					t.Errorf("%+v, want %q", err, tc.fails)
				}
				if err != nil && (strings.Contains(err.Error(), "wr0ng-one") || strings.Contains(err.Error(), base64.StdEncoding.EncodeToString([]byte("\x00me\x00wr0ng-one")))) {
					t.Errorf("the password is told: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if len(s.mails) != 1 || !strings.HasPrefix(s.mails[0], tc.want) || !strings.Contains(s.mails[0], "RCPT TO:<ops@example.com>\nRCPT TO:<two@example.com>") {
				t.Fatalf("taken: %q", s.mails)
			}
			_, data, _ := strings.Cut(s.mails[0], "\n\n")
			m, err := mail.ReadMessage(strings.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
			if err != nil || subject != `[requorum] CRITICAL: dcs: no backup of "größe" <now>` {
				t.Errorf("subject %q, %v", subject, err)
			}
			body, err := io.ReadAll(quotedprintable.NewReader(m.Body))
			if err != nil || !strings.Contains(string(body), `no backup of "größe" <now>`) || !strings.Contains(string(body), "requorum on replica-1") {
				t.Errorf("body %q, %v", body, err)
			}
		})
	}
}

// What an error says may hold line breaks: they must not become headers.
func TestNoHeaderIsSmuggledIn(t *testing.T) {
	e, err := NewEmail(EmailOptions{Server: "h:25", Security: Plain, From: "a@example.com", To: []string{"b@example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	m := message()
	m.Summary = "x\r\nBcc: everyone@example.com\r\n\r\nbody " + strings.Repeat("ü", 300)
	read, err := mail.ReadMessage(strings.NewReader(string(e.compose(m))))
	if err != nil {
		t.Fatal(err)
	}
	if read.Header.Get("Bcc") != "" || read.Header.Get("Content-Type") == "" {
		t.Errorf("headers %v", read.Header)
	}
}

func TestEmailOptions(t *testing.T) {
	good := EmailOptions{Server: "h:25", Security: Plain, From: "a@example.com", To: []string{"b@example.com"}}
	for want, change := range map[string]func(*EmailOptions){
		"HOST:PORT": func(o *EmailOptions) { o.Server = "h" }, "sender": func(o *EmailOptions) { o.From = "x" },
		"recipient": func(o *EmailOptions) { o.To = []string{"x y"} }, "no recipient": func(o *EmailOptions) { o.To = nil },
		"none of starttls": func(o *EmailOptions) { o.Security = "ssl" },
	} {
		o := good
		change(&o)
		if _, err := NewEmail(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

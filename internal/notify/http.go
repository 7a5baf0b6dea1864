package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/template"
	"time"
)

// A Secret is read when it is used, so that a rotated one counts at once.
type Secret func() (string, error)

// poster sends one request to a secret URL and says what came of it without telling the URL.
type poster struct {
	url    Secret
	bearer Secret // nil: none
	client *http.Client
}

func newPoster(address, bearer Secret) poster {
	return poster{url: address, bearer: bearer, client: &http.Client{
		Timeout: sendTimeout,
		// Following would hand what is sent, and the secret of the URL as referer, to somebody else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// CheckURL says what is wrong with the URL of a receiver, without telling it.
func CheckURL(address string) error {
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return errors.New("it is no URL")
	case u.Scheme != "https" && u.Scheme != "http":
		return errors.New("the URL does not begin with https:// or http://")
	case u.Host == "":
		return errors.New("the URL names no host")
	}
	return nil
}

// maxAnswer bounds what of an answer is read, and maxQuoted what of it is told.
const (
	maxAnswer = 4 << 10
	maxQuoted = 200
)

func (p poster) do(ctx context.Context, method, contentType string, body []byte) error {
	address, err := p.url()
	if err != nil {
		return &Error{What: "its URL: " + err.Error()}
	}
	if err := CheckURL(address); err != nil {
		return &Error{What: err.Error(), Permanent: true}
	}
	secrets := []string{address}
	r, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return &Error{What: "its URL cannot be requested", Permanent: true}
	}
	secrets = append(secrets, r.URL.RequestURI(), r.URL.EscapedPath(), r.URL.Path, r.URL.RawQuery, r.URL.User.String())
	r.Header.Set("User-Agent", "requorum")
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	if p.bearer != nil {
		token, err := p.bearer()
		if err != nil {
			return &Error{What: "its token: " + err.Error()}
		}
		secrets = append(secrets, token)
		r.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := p.client.Do(r)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // the outer one tells the URL
		}
		return &Error{What: scrub(err.Error(), secrets)}
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(answer.Body, maxAnswer)) // only to be quoted
	if answer.StatusCode >= 200 && answer.StatusCode < 300 {
		return nil
	}
	what := "it answered " + answer.Status
	if said := strings.Join(strings.Fields(string(text)), " "); said != "" {
		said = scrub(said, secrets)
		if r := []rune(said); len(r) > maxQuoted {
			said = string(r[:maxQuoted]) + "…"
		}
		what += ": " + said
	}
	e := &Error{What: what}
	switch code := answer.StatusCode; {
	case code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable:
		if s, err := strconv.Atoi(answer.Header.Get("Retry-After")); err == nil && s > 0 {
			e.Wait = min(time.Duration(s)*time.Second, time.Hour)
		}
	case code == http.StatusRequestTimeout:
	case code < 500:
		e.Permanent = true
	}
	return e
}

// scrub takes secrets out of a text. Parts of a few letters, such as the path /, are none.
func scrub(text string, secrets []string) string {
	for _, s := range secrets {
		if len(s) > 3 {
			text = strings.ReplaceAll(text, s, "[redacted]")
		}
	}
	return text
}

// A Webhook posts each message to a URL: as JSON, or as what a template makes of it.
type Webhook struct {
	poster
	template    *template.Template
	contentType string
}

// WebhookOptions say where to and in what form. The URL is a secret.
type WebhookOptions struct {
	URL         Secret
	Bearer      Secret // sent as Authorization; nil: none
	Template    string // text/template over Message, with json to write a value as JSON; "" sends Message as JSON
	ContentType string // "" is application/json
}

// NewWebhook fails when the template cannot be used.
func NewWebhook(o WebhookOptions) (*Webhook, error) {
	w := &Webhook{poster: newPoster(o.URL, o.Bearer), contentType: o.ContentType}
	if w.contentType == "" {
		w.contentType = "application/json"
	}
	if o.Template == "" {
		return w, nil
	}
	var err error
	if w.template, err = ParseTemplate(o.Template); err != nil {
		return nil, err
	}
	return w, nil
}

// ParseTemplate reads a template and tries it on a message.
func ParseTemplate(text string) (*template.Template, error) {
	t, err := template.New("template").Option("missingkey=error").Funcs(template.FuncMap{"json": asJSON}).Parse(text)
	if err != nil {
		return nil, err
	}
	sample := Message{Problems: []Told{{Problem: Problem{Cluster: "dcs", Name: "rpo", Severity: "critical", What: "a problem"}}}, Recovered: []Told{{}}, News: []News{{}}}
	sample.describe()
	return t, t.Execute(io.Discard, sample)
}

func asJSON(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}

// Kind implements Receiver.
func (w *Webhook) Kind() string { return "webhook" }

// Send implements Receiver.
func (w *Webhook) Send(ctx context.Context, m Message) error {
	var body bytes.Buffer
	if w.template == nil {
		if err := json.NewEncoder(&body).Encode(m); err != nil {
			return &Error{What: "writing the message: " + err.Error(), Permanent: true}
		}
	} else if err := w.template.Execute(&body, m); err != nil {
		return &Error{What: "its template: " + err.Error(), Permanent: true}
	}
	return w.do(ctx, http.MethodPost, w.contentType, body.Bytes())
}

// Slack posts to an incoming webhook of Slack, or of what takes the same: Mattermost, Rocket.Chat, Discord with /slack.
type Slack struct{ poster }

// NewSlack posts to that URL, which is a secret.
func NewSlack(address Secret) *Slack { return &Slack{newPoster(address, nil)} }

// Kind implements Receiver.
func (s *Slack) Kind() string { return "slack" }

// slackText is how long a text may be, in bytes: beyond 4,000 letters Slack splits it.
const slackText = 3500

// Send implements Receiver.
func (s *Slack) Send(ctx context.Context, m Message) error {
	first, rest := m.Summary, strings.TrimSpace(m.Text)
	if len(m.Problems)+len(m.Recovered)+len(m.News) == 1 { // the summary would say it twice
		first, rest, _ = strings.Cut(rest, "\n")
	}
	text := strings.TrimSpace("*" + plain(first) + "*\n" + plain(rest))
	if len(text) > slackText {
		cut := strings.LastIndexByte(text[:slackText], '\n')
		if cut < 0 {
			cut = slackText
		}
		text = strings.ToValidUTF8(text[:cut], "") + fmt.Sprintf("\n… and more: %d problems stand", m.Standing)
	}
	body, err := json.Marshal(map[string]string{"text": text})
	if err != nil {
		return &Error{What: "writing the message: " + err.Error(), Permanent: true}
	}
	return s.do(ctx, http.MethodPost, "application/json", body)
}

// plain keeps Slack from taking parts of a text for links and mentions.
func plain(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s)
}

// A Beat calls a URL, which is a secret.
type Beat struct{ poster }

// NewBeat calls that URL.
func NewBeat(address Secret) *Beat { return &Beat{newPoster(address, nil)} }

// Kind implements Receiver.
func (b *Beat) Kind() string { return "heartbeat" }

// Send implements Receiver: the call is the message.
func (b *Beat) Send(ctx context.Context, _ Message) error {
	return b.do(ctx, http.MethodGet, "", nil)
}

package config

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Notify says whom serve tells what is wrong.
type Notify struct {
	Wait   Duration   `key:"wait" default:"30s"`
	Repeat Duration   `key:"repeat" default:"12h"`
	To     []Receiver `key:"to"`
}

// Receiver is one way to tell people; exactly one of Webhook, Slack and Email is set.
type Receiver struct {
	Webhook  *Webhook   `key:"webhook"`
	Slack    *SecretURL `key:"slack"`
	Email    *Email     `key:"email"`
	Severity Severity   `key:"severity" default:"warning"`
	Clusters []string   `key:"clusters" default:"(all)"`
}

// Kind is the receiver's kind as it is written; "" when none is set.
func (r Receiver) Kind() string {
	switch {
	case r.Webhook != nil:
		return "webhook"
	case r.Slack != nil:
		return "slack"
	case r.Email != nil:
		return "email"
	}
	return ""
}

// SecretURL is a URL that lets whoever knows it in.
type SecretURL struct {
	URL     Secret `key:"url"`
	URLFile File   `key:"url_file"`
}

// Read returns the URL, from its file each time anew.
func (s SecretURL) Read() (string, error) {
	secret, err := either(s.URL, s.URLFile)
	return secret.Reveal(), err
}

// Webhook is a URL that messages are posted to.
type Webhook struct {
	SecretURL
	Token       Secret `key:"token"`
	TokenFile   File   `key:"token_file"`
	Template    string `key:"template" default:"(the message as JSON)"`
	ContentType string `key:"content_type" default:"application/json"`
}

// Bearer returns a function that reads the token to show, each time anew; nil when there is none.
func (w Webhook) Bearer() func() (string, error) {
	if w.Token.IsZero() && w.TokenFile == "" {
		return nil
	}
	return func() (string, error) {
		secret, err := either(w.Token, w.TokenFile)
		return secret.Reveal(), err
	}
}

// Email is people who get mail.
type Email struct {
	Server       string   `key:"server,required"`
	Security     Security `key:"security" default:"starttls"`
	CA           File     `key:"ca" default:"(the system's roots)"`
	From         string   `key:"from,required"`
	To           []string `key:"to,required"`
	Username     string   `key:"username"`
	Password     Secret   `key:"password"`
	PasswordFile File     `key:"password_file"`
}

// ReadPassword returns the password, from its file each time anew.
func (e Email) ReadPassword() (string, error) {
	secret, err := either(e.Password, e.PasswordFile)
	return secret.Reveal(), err
}

type (
	// Severity of what is told: warning or critical.
	Severity string
	// Security is how the way to a mail server is protected: starttls, tls or plain.
	Security string
)

func (s *Severity) parse(text string, _ *decoder) *fault {
	return choose(s, text, "severity", "warning", "critical")
}

func (*Severity) describe() string { return "severity" }

func (s *Security) parse(text string, _ *decoder) *fault {
	return choose(s, text, "security of mail", "starttls", "tls", "plain")
}

func (*Security) describe() string { return "security of mail" }

func choose[T ~string](to *T, text, what string, words ...string) *fault {
	if !slices.Contains(words, text) {
		return &fault{quote(text) + " is no " + what, "write one of " + join(words)}
	}
	*to = T(text)
	return nil
}

func (k *checker) notify() {
	for i, r := range k.Notify.To {
		key := item("notify.to")(i)
		kinds := 0
		for _, kind := range []string{"webhook", "slack", "email"} {
			if k.written(key + "." + kind) {
				kinds++
			}
		}
		if kinds > 1 || kinds == 0 && !k.badIn(key) {
			k.add(key, "a receiver is of exactly one kind", "write webhook, slack or email")
		}
		k.twice(r.Clusters, item(key+".clusters"), "the cluster")
		for j, name := range r.Clusters {
			if k.Clusters[name] == nil && name != "" {
				k.warn(item(key+".clusters")(j), "there is no cluster "+quote(name), "defined are "+join(sortedKeys(k.Clusters)))
			}
		}
		if r.Webhook != nil {
			k.secretURL(key+".webhook", r.Webhook.SecretURL)
			k.oneSecret(key+".webhook", "token", r.Webhook.TokenFile)
		}
		if r.Slack != nil {
			k.secretURL(key+".slack", *r.Slack)
		}
		if r.Email != nil {
			k.email(key+".email", *r.Email)
		}
	}
}

// badIn says whether something in a mapping was reported, or the mapping itself.
func (k *checker) badIn(key string) bool {
	for bad := range k.bad {
		if bad == key || strings.HasPrefix(bad, key+".") {
			return true
		}
	}
	return false
}

// oneSecret reports a secret that is written twice, and a file of it that everyone may read.
func (k *checker) oneSecret(key, name string, file File) {
	if k.written(key+"."+name) && k.written(key+"."+name+"_file") {
		k.add(key+"."+name+"_file", name+" and "+name+"_file are both written", "keep "+name+"_file")
	}
	k.exposed(key+"."+name+"_file", file)
}

func (k *checker) secretURL(key string, s SecretURL) {
	k.oneSecret(key, "url", s.URLFile)
	if !k.written(key+".url") && !k.written(key+".url_file") && !k.badIn(key) {
		k.add(key, "there is no URL", "write url_file, the file that holds it")
	}
	if !s.URL.IsZero() {
		if err := checkSecretURL(s.URL.Reveal()); err != nil {
			k.add(key+".url", err.Error(), "write it like https://…")
		}
	}
}

// checkSecretURL says what is wrong with a URL without telling it.
func checkSecretURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return fmt.Errorf("it is no URL of a web server")
	}
	return nil
}

func (k *checker) email(key string, e Email) {
	k.oneSecret(key, "password", e.PasswordFile)
	k.twice(e.To, item(key+".to"), "the address")
	k.noneIn(key+".to", len(e.To))
	password := k.written(key+".password") || k.written(key+".password_file")
	switch {
	case k.written(key+".username") && !password:
		k.add(key+".username", "there is a username and no password", "add password_file")
	case password && !k.written(key+".username"):
		k.add(key, "there is a password and no username", "add username")
	}
	if e.CA != "" && e.Security == "plain" {
		k.add(key+".ca", "with security: plain no certificate is checked", "use starttls or tls, or remove ca")
	}
	for i, a := range append([]string{e.From}, e.To...) {
		at := key + ".from"
		if i > 0 {
			at = item(key + ".to")(i - 1)
		}
		if a != "" && !strings.Contains(a, "@") {
			k.add(at, quote(a)+" is no mail address", "write it like ops@example.com, or Ops <ops@example.com>")
		}
	}
}

// notifyFiles reads the secrets that notifications need.
func (k *checker) notifyFiles(fails func(key string, err error)) {
	address := func(key string, s SecretURL) {
		if s.URLFile == "" {
			return
		}
		text, err := s.Read()
		if err == nil {
			err = checkSecretURL(text)
		}
		fails(key+".url_file", err)
	}
	for _, cl := range k.Sorted() {
		if cl.Heartbeat != nil {
			address("clusters."+cl.Name+".heartbeat", *cl.Heartbeat)
		}
	}
	for i, r := range k.Notify.To {
		key := item("notify.to")(i)
		switch {
		case r.Webhook != nil:
			address(key+".webhook", r.Webhook.SecretURL)
			if r.Webhook.TokenFile != "" {
				_, err := r.Webhook.Bearer()()
				fails(key+".webhook.token_file", err)
			}
		case r.Slack != nil:
			address(key+".slack", *r.Slack)
		case r.Email != nil && r.Email.PasswordFile != "":
			_, err := r.Email.ReadPassword()
			fails(key+".email.password_file", err)
		}
	}
}

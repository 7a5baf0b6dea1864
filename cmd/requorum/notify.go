package main

import (
	"crypto/tls"
	"fmt"
	"time"

	"github.com/requorum/requorum/internal/config"
	people "github.com/requorum/requorum/internal/notify"
)

// notified are the receivers of a configuration. What is wrong with them is said all at once, as for any other key.
func notified(cfg *config.Config) ([]people.Target, error) {
	var targets []people.Target
	var problems config.Problems
	for i, r := range cfg.Notify.To {
		key := fmt.Sprintf("notify.to[%d]", i)
		receiver, at, err := newReceiver(r)
		if err != nil {
			p := cfg.At(key + "." + at)
			p.What = err.Error()
			problems = append(problems, p)
			continue
		}
		targets = append(targets, people.Target{Name: key, Receiver: receiver, Severity: string(r.Severity), Clusters: r.Clusters})
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return targets, nil
}

// newReceiver makes a receiver; at is the key that an error is about.
func newReceiver(r config.Receiver) (receiver people.Receiver, at string, err error) {
	switch {
	case r.Webhook != nil:
		receiver, err = people.NewWebhook(people.WebhookOptions{URL: r.Webhook.Read, Bearer: r.Webhook.Bearer(), Template: r.Webhook.Template, ContentType: r.Webhook.ContentType})
		return receiver, "webhook.template", err
	case r.Slack != nil:
		return people.NewSlack(r.Slack.Read), "slack", nil
	case r.Email != nil:
		e := r.Email
		var secure *tls.Config
		if e.CA != "" {
			if secure, err = (config.TLS{CA: e.CA}).Config(time.Now); err != nil {
				return nil, "email.ca", err
			}
		}
		receiver, err = people.NewEmail(people.EmailOptions{Server: e.Server, Security: people.Security(e.Security), TLS: secure, From: e.From, To: e.To,
			Username: e.Username, Password: e.ReadPassword, Hello: hostname()})
		return receiver, "email", err
	}
	return nil, "", fmt.Errorf("a receiver of no known kind")
}

// heartbeats are the URLs to call after each backup.
func heartbeats(cfg *config.Config) []people.Heartbeat {
	var all []people.Heartbeat
	for _, cl := range cfg.Sorted() {
		if cl.Heartbeat != nil {
			all = append(all, people.Heartbeat{Name: "clusters." + cl.Name + ".heartbeat", Cluster: cl.Name, Receiver: people.NewBeat(cl.Heartbeat.Read)})
		}
	}
	return all
}

// beats are the heartbeats by cluster, to see whether they changed.
func beats(cfg *config.Config) map[string]*config.SecretURL {
	all := map[string]*config.SecretURL{}
	for name, cl := range cfg.Clusters {
		all[name] = cl.Heartbeat
	}
	return all
}

// newNotifier tells people what the configuration wants them to know.
func (a *app) newNotifier(cfg *config.Config, sent func(kind string, ok bool)) (*people.Notifier, error) {
	targets, err := notified(cfg)
	if err != nil {
		return nil, err
	}
	return people.New(people.Options{Targets: targets, Heartbeats: heartbeats(cfg), Host: hostname(), Wait: time.Duration(cfg.Notify.Wait),
		Repeat: time.Duration(cfg.Notify.Repeat), Sent: sent, Log: a.log()}), nil
}

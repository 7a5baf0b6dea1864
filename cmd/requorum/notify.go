package main

import (
	"crypto/tls"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/requorum/requorum/internal/config"
	people "github.com/requorum/requorum/internal/notify"
)

// listeners are those whom a configuration wants told.
type listeners struct {
	people.Audience
	receivers []config.Receiver           // what Targets were made of, in the same order
	beats     map[string]config.SecretURL // what Heartbeats were made of, by cluster
}

// listening are the listeners of a configuration. Those of the one before that are the same are taken over, so that they go on and know what they were
// told. What is wrong is said all at once, as for any other key.
func listening(cfg *config.Config, before listeners) (listeners, error) {
	now := listeners{Audience: people.Audience{Wait: time.Duration(cfg.Notify.Wait), Repeat: time.Duration(cfg.Notify.Repeat)}, beats: map[string]config.SecretURL{}}
	var problems config.Problems
	var taken []int
	for i, r := range cfg.Notify.To {
		key := fmt.Sprintf("notify.to[%d]", i)
		old := -1
		for j, was := range before.receivers {
			if !slices.Contains(taken, j) && reflect.DeepEqual(r, was) && (r.Email == nil || r.Email.CA == "") { // a CA is read when a receiver is made
				old = j
				break
			}
		}
		now.receivers = append(now.receivers, r)
		if old >= 0 {
			taken = append(taken, old)
			now.Targets = append(now.Targets, before.Targets[old])
			continue
		}
		receiver, at, err := newReceiver(r)
		if err != nil {
			p := cfg.At(key + "." + at)
			p.What = err.Error()
			problems = append(problems, p)
			continue
		}
		now.Targets = append(now.Targets, people.Target{Name: key, Receiver: receiver, Severity: string(r.Severity), Clusters: r.Clusters})
	}
	if len(problems) > 0 {
		return listeners{}, problems
	}
	for _, cl := range cfg.Sorted() {
		if cl.Heartbeat == nil {
			continue
		}
		now.beats[cl.Name] = *cl.Heartbeat
		beat := people.Heartbeat{Name: "clusters." + cl.Name + ".heartbeat", Cluster: cl.Name, Receiver: people.NewBeat(cl.Heartbeat.Read)}
		if was, ok := before.beats[cl.Name]; ok && reflect.DeepEqual(was, *cl.Heartbeat) {
			i := slices.IndexFunc(before.Heartbeats, func(h people.Heartbeat) bool { return h.Cluster == cl.Name })
			beat = before.Heartbeats[i]
		}
		now.Heartbeats = append(now.Heartbeats, beat)
	}
	return now, nil
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

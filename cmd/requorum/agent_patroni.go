package main

import (
	"fmt"
	"time"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/agents/patroni"
	"github.com/requorum/requorum/internal/config"
)

func patroniAgent(c config.Agent, dial dialer) (*madeAgent, error) {
	p := c.Patroni
	if p == nil {
		return nil, nil
	}
	o := patroni.Options{Scope: p.Scope, Namespace: p.Namespace, Dial: dial}
	for _, u := range p.REST {
		o.REST = append(o.REST, string(u))
	}
	username, password, err := p.Credentials()
	if err != nil {
		return nil, fmt.Errorf("agent patroni %s: %w", c.Name(), err)
	}
	o.Username, o.Password = username, password.Reveal()
	if o.TLS, err = p.TLSConfig(time.Now); err != nil {
		return nil, fmt.Errorf("agent patroni %s: %w", c.Name(), err)
	}
	scope, err := patroni.New(o)
	if err != nil {
		return nil, err
	}
	return &madeAgent{agent: scope, deadline: p.Deadline}, nil
}

// unconfiguredPatroni looks after Patroni scopes that nobody configured.
func unconfiguredPatroni(configured []agents.Configured) agents.Configured {
	var scopes []*patroni.Scope
	for _, c := range configured {
		if scope, ok := c.Agent.(*patroni.Scope); ok {
			scopes = append(scopes, scope)
		}
	}
	return agents.Configured{Name: "patroni (unconfigured)", Kind: "patroni", Agent: patroni.NewUnconfigured(scopes...)}
}

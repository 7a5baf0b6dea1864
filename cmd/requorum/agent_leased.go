package main

import (
	"github.com/requorum/requorum/agents/leased"
	"github.com/requorum/requorum/internal/config"
)

func leasedAgent(c config.Agent, _ dialer) (*madeAgent, error) {
	l := c.Leased
	if l == nil {
		return nil, nil
	}
	agent, err := leased.New(leased.Options{Prefix: string(l.Prefix), Count: l.Count, Expect: l.Expect})
	if err != nil {
		return nil, err
	}
	return &madeAgent{agent: agent, deadline: l.Deadline}, nil
}

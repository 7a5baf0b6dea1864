package main

import (
	"errors"
	"time"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/internal/config"
)

// agentKind makes agents of one kind.
type agentKind struct {
	// configured makes the agent that the configuration says, nil if that is of another kind. One that is asked over the network is reached by dial, or from
	// this machine if that is nil.
	configured func(c config.Agent, dial dialer) (*madeAgent, error)
	// beside makes the one that looks after what nobody configured; nil where a kind has none.
	beside func(configured []agents.Configured) agents.Configured
}

// agentKinds are all kinds. A new one is its package, its keys in internal/config, a file beside agent_leased.go, and a line here.
func agentKinds() []agentKind {
	return []agentKind{
		{configured: leasedAgent},
		{configured: patroniAgent, beside: unconfiguredPatroni},
		{configured: kubernetesAgent},
	}
}

// madeAgent is one configured agent.
type madeAgent struct {
	agent    agents.Agent
	deadline config.Duration // how long after etcd is healthy it may take
}

// agents are those of the cluster, and how long each of the configured may take, by name.
func (t *target) agents() ([]agents.Configured, map[string]time.Duration, error) {
	var all []agents.Configured
	var errs []error
	deadlines := make(map[string]time.Duration)
	kinds, dial := agentKinds(), t.agentTunnel()
	for _, c := range t.cluster.Agents {
		for _, kind := range kinds {
			made, err := kind.configured(c, dial)
			if err != nil {
				errs = append(errs, err)
			}
			if made == nil {
				continue
			}
			name := c.Kind() + " " + c.Name()
			all = append(all, agents.Configured{Name: name, Kind: c.Kind(), Agent: made.agent})
			deadlines[name] = time.Duration(made.deadline)
		}
	}
	configured := len(all)
	for _, kind := range kinds {
		if kind.beside != nil {
			all = append(all, kind.beside(all[:configured]))
		}
	}
	return all, deadlines, errors.Join(errs...)
}

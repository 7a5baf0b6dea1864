package main

import (
	"github.com/requorum/requorum/agents/kubernetes"
	"github.com/requorum/requorum/internal/config"
)

func kubernetesAgent(c config.Agent, _ dialer) (*madeAgent, error) {
	k := c.Kubernetes
	if k == nil {
		return nil, nil
	}
	agent, err := kubernetes.New(kubernetes.Options{Prefix: string(k.Prefix), Nodes: k.Nodes.Share()})
	if err != nil {
		return nil, err
	}
	return &madeAgent{agent: agent, deadline: k.Deadline}, nil
}

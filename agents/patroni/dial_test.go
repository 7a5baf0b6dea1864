package patroni

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
)

// TestDial asks agents that this machine does not reach by a dialer of the caller's, which is told host and port of each URL.
func TestDial(t *testing.T) {
	l := newLab(t, 2, "4.1.4")
	var mu sync.Mutex
	var asked []string
	scope := newScopeAgent(t, Options{REST: []string{"http://db1.invalid:8008", "http://db2.invalid"},
		Dial: func(ctx context.Context, addr string) (net.Conn, error) {
			mu.Lock()
			asked = append(asked, addr)
			mu.Unlock()
			if addr == "db2.invalid:80" {
				return nil, errors.New("nobody leads there")
			}
			return (&net.Dialer{}).DialContext(ctx, "tcp", strings.TrimPrefix(l.nodes[0].server.URL, "http://"))
		}})
	answers := scope.ask(t.Context())
	if answers[0].err != nil || answers[0].status.SystemID != sysID {
		t.Errorf("the agent behind the dialer: %+v, %v", answers[0].status, answers[0].err)
	}
	if answers[1].err == nil || !strings.Contains(answers[1].err.Error(), "nobody leads there") {
		t.Errorf("what the dialer says is not told: %v", answers[1].err)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, addr := range asked {
		if addr != "db1.invalid:8008" && addr != "db2.invalid:80" {
			t.Errorf("the dialer was asked for %s", addr)
		}
	}
}

package local

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/requorum/requorum/restore"
)

// use is who uses a member's place.
type use struct {
	status
	processes []restore.Process
	ports     []restore.Port
}

func (u use) stopped() bool { return !u.active && len(u.processes) == 0 && len(u.ports) == 0 }

func (u use) String() string {
	var parts []string
	if u.active {
		parts = append(parts, "the service says that it runs")
	}
	for _, p := range u.processes {
		parts = append(parts, fmt.Sprintf("process %d (%s) %s", p.PID, p.Command, p.How))
	}
	for _, p := range u.ports {
		if p.PID != 0 {
			parts = append(parts, fmt.Sprintf("%s is served by process %d (%s)", p.URL, p.PID, p.Owner))
		} else {
			parts = append(parts, fmt.Sprintf("something listens on %s", p.URL))
		}
	}
	if len(parts) == 0 {
		return "nothing runs"
	}
	return strings.Join(parts, ", ")
}

// inUse asks the service, the process table and the ports. A service that does not answer is an error: then nobody knows.
func (p *place) inUse(ctx context.Context) (use, error) {
	s, err := p.service().status(ctx)
	if err != nil {
		return use{}, err
	}
	u, err := p.usedBy(ctx)
	u.status = s
	return u, err
}

// usedBy asks the process table and the ports.
func (p *place) usedBy(ctx context.Context) (u use, err error) {
	if u.processes, err = p.processes(); err != nil {
		return u, fmt.Errorf("%s: look for processes: %w", p.member.Name, err)
	}
	if u.ports, err = listening(ctx, p.member.PeerURL, p.member.ClientURL); err != nil {
		return u, fmt.Errorf("%s: look who listens on its ports: %w", p.member.Name, err)
	}
	return u, nil
}

// hostPort returns where a URL's listener is looked for. No addresses means any.
func hostPort(ctx context.Context, raw string) (addrs []net.IP, port int, err error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, 0, err
	}
	if port, err = strconv.Atoi(u.Port()); err != nil {
		return nil, 0, fmt.Errorf("%s has no port", raw)
	}
	if ip := net.ParseIP(u.Hostname()); ip != nil {
		addrs = []net.IP{ip}
	} else {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		found, err := net.DefaultResolver.LookupIPAddr(ctx, u.Hostname())
		if err != nil {
			return nil, port, nil // the name may be known elsewhere only: whoever has the port counts
		}
		for _, a := range found {
			addrs = append(addrs, a.IP)
		}
	}
	mine, err := net.InterfaceAddrs()
	if err != nil {
		return nil, port, nil
	}
	var here []net.IP
	for _, a := range addrs {
		if a.IsLoopback() {
			here = append(here, a)
		}
		for _, m := range mine {
			if n, ok := m.(*net.IPNet); ok && n.IP.Equal(a) && !a.IsLoopback() {
				here = append(here, a)
			}
		}
	}
	return here, port, nil // none: an address translated elsewhere
}

func matches(listener net.IP, addrs []net.IP) bool {
	if listener.IsUnspecified() || len(addrs) == 0 {
		return true
	}
	for _, a := range addrs {
		if a.Equal(listener) {
			return true
		}
	}
	return false
}

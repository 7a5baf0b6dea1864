// Package patroni is the kind of agent for Patroni, which keeps PostgreSQL
// clusters highly available with their state in etcd.
//
// A stale leader key makes Patroni promote an out-of-date replica and rewind
// the true primary: committed rows are lost. So leaders, members and requests
// of the past are removed from the file, the agents are asked over their REST
// API before etcd opens, and they are back only when they say so themselves.
// [Scope] is one configured cluster; [Unconfigured] treats all others that a
// backup holds. Patroni 3.x and 4.x are understood. Nothing here ever writes to
// Patroni's API; a scope that was opened paused is opened again through its keys
// in etcd, as patronictl does it.
package patroni

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/requorum/requorum/agents"
)

// Options configure one scope. A group of a Citus cluster is a scope too, with
// the group's number as its name in the namespace <namespace>/<scope>.
type Options struct {
	Scope     string // Patroni's scope
	Namespace string // Patroni's namespace; "" means /service
	// REST are the base URLs of the REST API of every agent of the scope,
	// such as https://10.0.1.1:8008. All of them are expected. Without any they
	// are those that had registered in the backup, at the addresses they gave.
	REST     []string
	TLS      *tls.Config // for https: CA and client certificate
	Username string      // basic auth, "" for none
	Password string
	Poll     time.Duration // between two looks; 0 means 1 s
	// Dial connects to host:port of a REST API where this machine may not reach it by itself; that may take a login elsewhere. nil means
	// from this machine.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
}

// Scope is the agent for one configured scope.
type Scope struct {
	dir    string
	rest   []*endpoint
	poll   time.Duration
	client *client
}

var (
	_ agents.Agent    = (*Scope)(nil)
	_ agents.Selector = (*Scope)(nil)
)

// New checks the options. Its errors name the setting as the configuration
// calls it.
func New(opt Options) (*Scope, error) {
	var errs []error
	if strings.Trim(opt.Scope, "/") == "" {
		errs = append(errs, errors.New("patroni: scope is missing: give the scope of patroni.yml"))
	}
	if opt.Namespace == "" {
		opt.Namespace = "/service"
	}
	if opt.Poll == 0 {
		opt.Poll = time.Second
	}
	s := &Scope{dir: dirOf(opt.Namespace, opt.Scope), poll: opt.Poll, client: newClient(opt)}
	for _, raw := range opt.REST {
		e, err := parseEndpoint(raw)
		if err != nil {
			errs = append(errs, fmt.Errorf("patroni %s: rest: %w", opt.Scope, err))
			continue
		}
		if slices.ContainsFunc(s.rest, func(o *endpoint) bool { return o.base == e.base }) {
			errs = append(errs, fmt.Errorf("patroni %s: rest: %s is given twice", opt.Scope, raw))
		}
		s.rest = append(s.rest, e)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return s, nil
}

// discover returns the REST base URLs that the members of the scope had
// registered.
func (s *scope) discover() []string {
	var found []string
	for _, member := range slices.Sorted(maps.Keys(s.members)) {
		if base := s.apiBase(member); base != "" && !slices.Contains(found, base) {
			found = append(found, base)
		}
	}
	return found
}

// apiBase is the REST base URL that a member had registered, "" for none.
func (s *scope) apiBase(member string) string {
	m, _ := parseMember(s.members[member].Value)
	if u, err := url.Parse(m.APIURL); err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" {
		return u.Scheme + "://" + u.Host
	}
	return ""
}

// asking is the agent that asks at urls, unless the configuration says where.
func (a *Scope) asking(urls []string) *Scope {
	if len(a.rest) > 0 {
		return a
	}
	found := *a
	for _, raw := range urls {
		if e, err := parseEndpoint(raw); err == nil {
			found.rest = append(found.rest, e)
		}
	}
	return &found
}

// Select implements [agents.Selector].
func (a *Scope) Select() agents.Select { return selected() }

// Observe describes the scope; without a key of it, as one that has none.
func (a *Scope) Observe(_ context.Context, kv agents.Reader) (json.RawMessage, error) {
	return json.Marshal(readScope(kv, a.dir).facts())
}

// Edits treats the scope as the table says. A sync key that matters is refused
// until --patroni-sync decides. With the gate's answers at hand it also refuses
// a foreign system identifier, and a scope whose agents are not all there
// unless --open-paused opens it paused.
func (a *Scope) Edits(kv agents.Reader, opt agents.Options) ([]agents.Edit, error) {
	if err := checkOptions(opt); err != nil {
		return nil, err
	}
	s := readScope(kv, a.dir)
	if s.empty() {
		return nil, nil
	}
	var base agents.Baseline
	if opt.Baseline != nil {
		base = *opt.Baseline
	}
	known, err := parseBaseline(base)
	if err != nil {
		return nil, err
	}
	rest := a.asking(known.Asked).rest
	incomplete := len(base.Missing) > 0 || opt.Baseline == nil || len(rest) == 0
	t := &treatment{scope: s, opt: opt, pause: opt.OpenPaused && incomplete, resumed: len(rest) > 0, running: known.Agents, now: known.Settings}
	t.decide()
	if len(base.Missing) > 0 && !opt.OpenPaused && !t.accepted() {
		var missing []string
		for _, u := range base.Missing {
			missing = append(missing, s.called(u))
		}
		t.ask(fmt.Sprintf("%d of %d agents did not answer: %s", len(base.Missing), len(rest), strings.Join(missing, ", ")),
			"opened without them, one that lags behind may elect itself and committed rows are lost: bring them back and try again; "+
				"with --open-paused nobody promotes until all of them are back, which the restore waits for",
			"--open-paused or --accept-unverified "+t.name())
	}
	t.refuseForeign()
	return t.edits, agents.JoinRefusals(t.asked)
}

// called is a REST URL with the name of the member that had registered it.
func (s *scope) called(base string) string {
	for _, member := range slices.Sorted(maps.Keys(s.members)) {
		if s.apiBase(member) == base {
			return member + " (" + base + ")"
		}
	}
	return base
}

// refuseForeign compares initialize with what the agents run. Absent, it is
// left absent: the agents write it.
func (t *treatment) refuseForeign() {
	id := t.systemID()
	if id == "" || t.accepted() {
		return
	}
	var foreign []string
	for _, a := range t.running {
		if a.SystemID != "" && a.SystemID != id {
			foreign = append(foreign, fmt.Sprintf("%s runs %s", a.who(), a.SystemID))
		}
	}
	if len(foreign) > 0 {
		t.ask(fmt.Sprintf("initialize holds system identifier %s, but %s", id, strings.Join(foreign, ", ")),
			"an agent whose PostgreSQL has another identifier exits and takes PostgreSQL down: is this the backup of another cluster?",
			"--accept-unverified "+t.name())
	}
}

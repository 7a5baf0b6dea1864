// Package patroni is the kind of agent for Patroni, which keeps PostgreSQL
// clusters highly available with their state in etcd.
//
// A stale leader key makes Patroni promote an out-of-date replica and rewind
// the true primary: committed rows are lost. So leaders, members and requests
// of the past are removed from the file, the agents are asked over their REST
// API before etcd opens, and they are back only when they say so themselves.
// [Scope] is one configured cluster; [Unconfigured] treats all others that a
// backup holds. Patroni 3.x and 4.x are understood. Nothing here ever writes to
// Patroni.
package patroni

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
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
	// such as https://10.0.1.1:8008. All of them are expected. Without any,
	// nobody is asked and nothing is claimed.
	REST     []string
	TLS      *tls.Config // for https: CA and client certificate
	Username string      // basic auth, "" for none
	Password string
	Poll     time.Duration // between two looks; 0 means 1 s
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

// Discover returns the REST base URLs that the members of a scope had
// registered in kv, for a configuration that names none.
func Discover(kv agents.Reader, namespace, name string) []string {
	if namespace == "" {
		namespace = "/service"
	}
	s := readScope(kv, dirOf(namespace, name))
	var found []string
	for _, member := range slices.Sorted(maps.Keys(s.members)) {
		m, _ := parseMember(s.members[member].Value)
		if u, err := url.Parse(m.APIURL); err == nil && u.Host != "" {
			found = append(found, u.Scheme+"://"+u.Host)
		}
	}
	return found
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
	incomplete := len(base.Missing) > 0 || opt.Baseline == nil || len(a.rest) == 0
	t := &treatment{scope: s, opt: opt, pause: opt.OpenPaused && incomplete, running: known.Agents}
	t.decide()
	if len(base.Missing) > 0 && !opt.OpenPaused {
		t.ask(fmt.Sprintf("%d of %d agents did not answer: %s", len(base.Missing), len(a.rest), strings.Join(base.Missing, ", ")),
			"opened without them, one that lags behind may elect itself and committed rows are lost; "+
				"with the flag the scope opens paused and nobody promotes until `patronictl resume`",
			"--open-paused")
	}
	t.refuseForeign()
	return t.edits, agents.JoinRefusals(t.asked)
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

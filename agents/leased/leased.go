// Package leased is the general kind of agent: programs that keep leased keys
// under one prefix, of which nothing else is known. They are back when the
// expected keys were registered anew after the restore, under leases that
// their owners keep renewing.
package leased

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/requorum/requorum/agents"
)

// Options configure one prefix. Of Count and Expect one may be set; with
// neither, the registrations are only reported.
type Options struct {
	Prefix string        // where the keys are; not empty
	Count  int           // how many keys must be registered
	Expect []string      // which keys must be registered, in full
	Poll   time.Duration // between two looks at the cluster; 0 means 500 ms
}

// Agent is the general kind for one prefix.
type Agent struct {
	opt Options
}

var (
	_ agents.Agent = (*Agent)(nil)
)

// New checks the options. Its errors name the setting as the configuration
// calls it.
func New(opt Options) (*Agent, error) {
	var errs []error
	if opt.Prefix == "" {
		errs = append(errs, errors.New("leased: prefix is missing: name the directory of the keys, such as /myapp/locks/"))
	}
	if opt.Count < 0 {
		errs = append(errs, fmt.Errorf("leased %s: count is %d: give a number above 0", opt.Prefix, opt.Count))
	}
	if opt.Count > 0 && len(opt.Expect) > 0 {
		errs = append(errs, fmt.Errorf("leased %s: both count and expect are given: name the keys or their number", opt.Prefix))
	}
	for i, key := range opt.Expect {
		if !strings.HasPrefix(key, opt.Prefix) {
			errs = append(errs, fmt.Errorf("leased %s: the expected key %s is not under the prefix: write it in full", opt.Prefix, key))
		}
		for _, other := range opt.Expect[:i] {
			if other == key {
				errs = append(errs, fmt.Errorf("leased %s: the key %s is expected twice", opt.Prefix, key))
			}
		}
	}
	if opt.Poll == 0 {
		opt.Poll = 500 * time.Millisecond
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &Agent{opt: opt}, nil
}

// facts is what a backup remembers of one prefix.
type facts struct {
	Prefix    string   `json:"prefix"`
	Count     int      `json:"count"` // leased keys under the prefix
	Keys      []string `json:"keys"`  // the first of them
	Truncated int      `json:"truncated,omitempty"`
	Missing   []string `json:"missing,omitempty"` // expected keys that were not registered then
}

// manyKeys is how many keys are listed by name.
const manyKeys = 100

// Observe lists the leased keys under the prefix.
func (a *Agent) Observe(_ context.Context, kv agents.Reader) (json.RawMessage, error) {
	f := facts{Prefix: a.opt.Prefix, Keys: []string{}}
	there := map[string]bool{}
	for _, key := range leasedKeys(kv, a.opt.Prefix) {
		there[key] = true
		f.Count++
		if len(f.Keys) < manyKeys {
			f.Keys = append(f.Keys, key)
		} else {
			f.Truncated++
		}
	}
	for _, key := range a.opt.Expect {
		if !there[key] {
			f.Missing = append(f.Missing, key)
		}
	}
	return json.Marshal(f)
}

// Edits removes every leased key under the prefix, but for those that a
// keep_leased at least as specific holds.
func (a *Agent) Edits(kv agents.Reader, opt agents.Options) ([]agents.Edit, error) {
	var edits []agents.Edit
	for _, key := range leasedKeys(kv, a.opt.Prefix) {
		e := agents.Edit{Key: key, Reason: "a registration: its owner registers anew if it still lives", Group: a.opt.Prefix}
		if prefix, ok := opt.Keeps(key); ok && len(prefix) >= len(a.opt.Prefix) {
			e = agents.Edit{Key: key, Keep: true, Reason: "leased data by keep_leased " + prefix, Group: prefix}
		}
		edits = append(edits, e)
	}
	return edits, nil
}

// Gate has nobody to ask: a leased key does not say how to reach its owner.
func (a *Agent) Gate(context.Context, agents.Known) (agents.Baseline, error) {
	return agents.Baseline{Detail: fmt.Sprintf("nothing to ask: the owners of %s have no address", a.opt.Prefix)}, nil
}

func leasedKeys(kv agents.Reader, prefix string) []string {
	var keys []string
	for k := range kv.Keys(prefix) {
		if k.Lease != 0 {
			keys = append(keys, string(k.Key))
		}
	}
	return keys
}

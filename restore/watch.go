package restore

import (
	"strings"
	"sync"
	"time"

	"github.com/requorum/requorum/agents"
)

// watchPause is between two lines on what is still waited for.
const watchPause = 10 * time.Second

// A watcher tells a person what agents' verdicts come to, while they are being waited for: each check when it turns true, with its
// time, each that is true no more, and now and then those that are missing.
type watcher struct {
	say   func(format string, args ...any)
	now   func() time.Time
	since time.Time // when etcd was healthy

	mu    sync.Mutex
	holds map[string]bool      // by agent and check
	said  map[string]time.Time // by agent, when the missing were told
}

// tell is agents.Restored.Tell.
func (w *watcher) tell(v agents.Verdict) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.holds == nil {
		w.holds, w.said = map[string]bool{}, map[string]time.Time{}
	}
	now := w.now()
	if w.said[v.Name].IsZero() {
		w.said[v.Name] = now
	}
	var missing []string
	for _, c := range v.Checks {
		key := v.Name + "\x00" + c.Name
		switch {
		case c.OK && !w.holds[key]:
			w.say("  %s: %s after %.1f s%s", v.Name, c.Name, c.Seconds, detail(c))
		case !c.OK && w.holds[key]:
			w.say("  %s: no longer: %s%s", v.Name, c.Name, detail(c))
		}
		if !c.OK {
			missing = append(missing, c.Name+detail(c))
		}
		w.holds[key] = c.OK
	}
	if len(missing) > 0 && now.Sub(w.said[v.Name]) >= watchPause {
		w.said[v.Name] = now
		w.say("  %s: not yet after %.0f s:\n      %s", v.Name, now.Sub(w.since).Seconds(), strings.Join(missing, "\n      "))
	}
}

func detail(c agents.Check) string {
	if c.Detail == "" {
		return ""
	}
	return ": " + c.Detail
}

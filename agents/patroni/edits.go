package patroni

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/requorum/requorum/agents"
)

// treatment decides about the keys of one scope, whether it is configured or
// not: registrations and failover go, sync is the operator's when it matters,
// all else stays.
type treatment struct {
	*scope
	opt     agents.Options
	pause   bool       // write "pause: true" into config
	resumed bool       // and the restore takes it out again, once all agents are back
	running []standing // the agents as they answered at the gate
	now     settings   // what they went by then, nil if none said
	edits   []agents.Edit
	asked   []agents.Refusal
}

func (t *treatment) remove(rel, format string, args ...any) {
	t.edits = append(t.edits, agents.Edit{Key: t.dir + rel, Reason: fmt.Sprintf(format, args...), Group: t.dir})
}

func (t *treatment) keep(rel, format string, args ...any) {
	t.edits = append(t.edits, agents.Edit{Key: t.dir + rel, Keep: true, Reason: fmt.Sprintf(format, args...), Group: t.dir})
}

func (t *treatment) ask(what, risk, flag string) {
	t.asked = append(t.asked, agents.Refusal{What: "Patroni scope " + t.name() + ": " + what, Risk: risk, Flag: flag})
}

// decide fills edits and asked.
func (t *treatment) decide() {
	for _, rel := range plainKeys() {
		k := t.keys[rel]
		if k == nil {
			continue
		}
		switch rel {
		case "leader":
			t.remove(rel, "%s led then; a stale leader key makes Patroni promote it without asking how far it is", k.Value)
		case "failover":
			t.remove(rel, "a stale failover request is obeyed at once, without a check of WAL or schedule")
		case "sync":
			t.decideSync(k.Value)
		case "config":
			t.decideConfig(k.Value)
		case "initialize":
			if id := t.systemID(); id != "" {
				t.keep(rel, "system identifier %s; an agent with another one would refuse to run", id)
			} else {
				t.keep(rel, "it holds no system identifier: the scope was being initialized then")
			}
		case "history":
			t.keep(rel, "timelines up to %d; the next primary writes it anew", t.timeline())
		default: // status, failsafe, optime/leader
			t.keep(rel, "the next primary writes it anew")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.members)) {
		t.remove("members/"+name, "a registration: the agent registers anew if it still lives")
	}
	if t.pause && t.keys["config"] == nil {
		t.cannotPause("it has no config key")
	}
	slices.SortFunc(t.edits, func(a, b agents.Edit) int { return strings.Compare(a.Key, b.Key) })
}

func (t *treatment) decideConfig(value []byte) {
	switch {
	case t.config.paused():
		t.keep("config", "the settings as they were; it says \"pause\": nobody promotes until `patronictl resume`%s", t.since())
	case t.pause:
		paused, err := withSetting(value, "pause", []byte("true"))
		if err != nil {
			t.cannotPause("its config key holds no JSON object")
			return
		}
		until := "`patronictl resume`; configured as an agent, it would be opened again by the restore"
		if t.resumed {
			until = "all agents are back, which the restore waits for"
		}
		t.edits = append(t.edits, agents.Edit{
			Key: t.dir + "config", Value: paused, Group: t.dir,
			Reason: "--open-paused: \"pause\": true, so nobody promotes until " + until + t.since(),
		})
	case t.config == nil:
		t.keep("config", "kept, although it holds no JSON object")
	default:
		t.keep("config", "the settings as they were: not paused, synchronous mode %s%s%s", onOff(t.config.synchronous()), t.resumes(), t.since())
	}
}

// resumes warns that agents which are paused now will not be any more.
func (t *treatment) resumes() string {
	for _, a := range t.running {
		if a.Paused {
			return "; the agents are paused now and will resume"
		}
	}
	return ""
}

// since says which settings the agents went by that are not those of the
// backup.
func (t *treatment) since() string {
	if t.now == nil {
		if len(t.running) == 0 {
			return ""
		}
		return "; whether settings were changed since is unknown: without etcd agents tell their settings for a moment only"
	}
	changed := t.config.settings().changes(t.now)
	if len(changed) == 0 {
		return "; the agents go by the same"
	}
	return "; the agents go by others, which are lost: " + strings.Join(changed, ", ")
}

func (t *treatment) cannotPause(why string) {
	if t.accepted() {
		return
	}
	t.ask("--open-paused cannot pause it: "+why,
		"opened unpaused, an agent that comes back first and lags behind may elect itself, and committed rows are lost",
		"--accept-unverified "+t.name())
}

func (t *treatment) decideSync(value []byte) {
	s, shaped := parseSync(value)
	known := t.config != nil && shaped
	switch {
	case shaped && s.Leader == "":
		t.remove("sync", "it names nobody")
	case known && !t.config.synchronous():
		t.remove("sync", "synchronous mode is off; it named %s", s)
	case t.opt.PatroniSync == agents.PatroniSyncRemove:
		t.remove("sync", "--patroni-sync remove: any agent may be promoted, whoever comes first with the most WAL; it named %s", s)
	case t.opt.PatroniSync == agents.PatroniSyncKeep:
		t.keep("sync", "--patroni-sync keep: only %s may be promoted", s)
	default:
		what := fmt.Sprintf("synchronous mode is on, and sync names %s as of the backup", s)
		if !known {
			what = "there is a sync key, and it cannot be told whether synchronous mode is on"
		}
		t.ask(what,
			"kept, only the nodes it names may be promoted, although others may have been synchronous since: their rows can be lost; "+
				"removed, any node may be promoted: right only if the true standby can be reached",
			"--patroni-sync remove or --patroni-sync keep")
	}
}

func (s syncState) String() string {
	names := s.standbys()
	if s.Leader != "" {
		names = slices.Insert(names, 0, s.Leader)
	}
	if len(names) == 0 {
		return "nobody"
	}
	return strings.Join(names, ", ")
}

// accepted says whether the operator named the scope in --accept-unverified,
// by its directory or by its last part.
func (t *treatment) accepted() bool { return accepts(t.opt, t.name()) }

func accepts(opt agents.Options, name string) bool {
	return slices.ContainsFunc(opt.AcceptUnverified, func(given string) bool {
		given = strings.TrimSuffix(given, "/")
		return given != "" && (given == name || strings.HasSuffix(name, "/"+strings.TrimPrefix(given, "/")) && !strings.HasPrefix(given, "/"))
	})
}

func checkOptions(opt agents.Options) error {
	switch opt.PatroniSync {
	case "", agents.PatroniSyncRemove, agents.PatroniSyncKeep:
		return nil
	}
	return fmt.Errorf("--patroni-sync %s: give remove or keep", opt.PatroniSync)
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

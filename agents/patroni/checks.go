package patroni

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// result is one check of one sample.
type result struct {
	level  level // the level that needs it
	name   string
	ok     bool
	detail string
}

const oneLeader = "one leader" // the check that loss is judged by

// findings collects what is wrong with one check; none makes it true.
type findings []string

func (f *findings) add(format string, args ...any) { *f = append(*f, fmt.Sprintf(format, args...)) }

func (f findings) result(l level, name, fine string) result {
	if len(f) == 0 {
		return result{l, name, true, fine}
	}
	return result{l, name, false, strings.Join(f, "; ")}
}

// check judges one sample by itself.
func (p *proof) check(s *sample) []result {
	all := []result{
		p.checkLeader(s), p.checkMembers(s), p.checkAgents(s), p.checkIdentity(s),
		p.checkPrimary(s), p.checkStreaming(s), p.checkTimelines(s), p.checkFailover(s),
	}
	if p.base.Settings != nil {
		all = append(all, p.tellSettings(s))
	}
	return all
}

// tellSettings tells which of the agents' settings the restore has put back.
// That is as it should be, and for the operator to know.
func (p *proof) tellSettings(s *sample) result {
	r := result{level: reconnected, name: "settings", ok: true, detail: "as the agents had them"}
	if changed := p.base.Settings.changes(s.scope.config.settings()); len(changed) > 0 {
		r.detail = "those of the backup; the agents had others: " + strings.Join(changed, ", ")
	}
	return r
}

func (p *proof) checkLeader(s *sample) result {
	var wrong findings
	leader := s.scope.keys["leader"]
	name := string(s.scope.value("leader"))
	switch why, ok := p.done.Anew(leader); {
	case !ok && leader == nil && s.scope.config.paused() && !p.reopens:
		wrong.add("no leader yet, and the scope is paused: `patronictl resume` when all its agents are back and run PostgreSQL")
	case !ok && leader == nil && p.waits != "":
		wrong.add("no leader before the scope is opened again")
	case !ok && leader == nil:
		wrong.add("no leader yet")
	case !ok:
		wrong.add("leader %s: %s", name, why)
	case s.scope.members[name] == nil:
		wrong.add("%s leads, but is not registered as a member", name)
	case s.scope.members[name].Lease != leader.Lease:
		wrong.add("the leader key of %s is under lease %016x, its member key under %016x", name, leader.Lease, s.scope.members[name].Lease)
	}
	return wrong.result(reconnected, "leader registered anew", name)
}

func (p *proof) checkMembers(s *sample) result {
	var wrong findings
	var back []string
	for _, name := range slices.Sorted(maps.Keys(s.scope.members)) {
		k := s.scope.members[name]
		m, _ := parseMember(k.Value)
		if why, ok := p.done.Anew(k); !ok {
			wrong.add("%s: %s", name, why)
		} else if m.State != "running" && m.State != "streaming" {
			wrong.add("%s registered, but says %q", name, m.State)
		} else {
			back = append(back, name)
		}
	}
	if n := len(s.scope.members); n < len(p.rest) {
		wrong.add("%d of %d expected members are registered%s", n, len(p.rest), p.absent(s))
	}
	return wrong.result(reconnected, "members registered anew", strings.Join(back, ", "))
}

// absent names the members of the backup that are not registered.
func (p *proof) absent(s *sample) string {
	if p.done.Backup == nil {
		return ""
	}
	var names []string
	for _, name := range slices.Sorted(maps.Keys(readScope(p.done.Backup, p.dir).members)) {
		if s.scope.members[name] == nil {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "; of the backup's, absent: " + strings.Join(names, ", ")
}

func (p *proof) checkAgents(s *sample) result {
	var wrong findings
	for _, w := range s.answers {
		who := p.who(s, w)
		if w.err != nil {
			wrong.add("%s does not answer: %v", who, w.err)
			continue
		}
		if seen := time.Unix(w.DCSLastSeen, 0); seen.Before(p.done.HealthyAt.Truncate(time.Second)) {
			wrong.add("%s last saw etcd at %s, before it opened", who, seen.UTC().Format(time.RFC3339))
		}
		if w.Unlocked {
			wrong.add("%s sees no leader", who)
		}
		if w.Failsafe {
			wrong.add("%s runs in failsafe mode", who)
		}
		if paused := s.scope.config.paused(); w.Pause != paused {
			wrong.add("%s says paused %s, config says %s", who, onOff(w.Pause), onOff(paused))
		}
	}
	return wrong.result(reconnected, "agents see etcd", fmt.Sprintf("all %d", len(s.answers)))
}

func (p *proof) checkIdentity(s *sample) result {
	var wrong findings
	id := s.scope.systemID()
	want := id
	if p.done.Backup != nil {
		if restored := readScope(p.done.Backup, p.dir).systemID(); restored != "" {
			want = restored
		}
	}
	if id == "" {
		wrong.add("initialize holds no system identifier")
	} else if id != want {
		wrong.add("initialize holds %s, the backup %s", id, want)
	}
	for _, w := range s.answers {
		if w.err == nil && w.SystemID != "" && w.SystemID != want {
			wrong.add("%s runs %s, not %s", s.who(w), w.SystemID, want)
		}
	}
	return wrong.result(reconnected, "system identifier", id)
}

func (p *proof) checkPrimary(s *sample) result {
	var wrong findings
	leader := string(s.scope.value("leader"))
	standby := s.scope.config.standby()
	var holders []string
	for i, w := range s.answers {
		if w.err != nil {
			continue // checkAgents names it
		}
		who := s.who(w)
		runs := w.primary() && !standby || w.Role == "standby_leader" && w.State == "running" && standby
		switch l := s.locks[i]; {
		case l.err != nil:
			wrong.add("%s does not say whether it holds the lock: %v", who, l.err)
		case l.holds && !runs:
			wrong.add("%s holds the lock, but is %s, %s", who, w.Role, w.State)
		case !l.holds && runs:
			wrong.add("%s runs as %s without the lock", who, w.Role)
		case l.holds:
			holders = append(holders, who)
		}
	}
	switch {
	case len(holders) == 0:
		wrong.add("no agent leads")
	case len(holders) > 1:
		wrong.add("%s all lead", strings.Join(holders, " and "))
	case holders[0] != leader:
		wrong.add("%s leads, but the leader key says %q", holders[0], leader)
	}
	return wrong.result(converged, oneLeader, leader)
}

// checkStreaming wants every other member in the replication list of the
// leader, or of another member that it cascades from.
func (p *proof) checkStreaming(s *sample) result {
	var wrong findings
	leader := string(s.scope.value("leader"))
	if leader == "" {
		wrong.add("nobody leads yet")
	}
	states := map[string]string{}
	for _, w := range s.answers {
		for _, r := range w.Replication {
			if states[r.ApplicationName] != "streaming" {
				states[r.ApplicationName] = r.State
			}
		}
	}
	var streaming []string
	for _, name := range slices.Sorted(maps.Keys(s.scope.members)) {
		if name == leader {
			continue
		}
		w, told := s.names[name]
		switch {
		case !told:
			wrong.add("no answer can be matched to %s: give its api_url in rest", name)
		case states[name] == "":
			wrong.add("nobody streams to %s", name)
		case states[name] != "streaming":
			wrong.add("%s is in state %s", name, states[name])
		case w.major() >= 4 && w.ReplicationState != "streaming":
			wrong.add("%s says of itself %q, not streaming", name, w.ReplicationState)
		default:
			streaming = append(streaming, name)
		}
	}
	return wrong.result(converged, "replicas stream", strings.Join(streaming, ", "))
}

func (p *proof) checkTimelines(s *sample) result {
	var wrong findings
	leader, ok := s.names[string(s.scope.value("leader"))]
	if !ok {
		wrong.add("the leader cannot be asked")
		return wrong.result(converged, "one timeline", "")
	}
	for _, w := range s.answers {
		if w.err == nil && w.Timeline != leader.Timeline {
			wrong.add("%s is on timeline %d, the leader on %d", s.who(w), w.Timeline, leader.Timeline)
		}
	}
	return wrong.result(converged, "one timeline", fmt.Sprint(leader.Timeline))
}

func (p *proof) checkFailover(s *sample) result {
	var wrong findings
	if k := s.scope.keys["failover"]; k != nil {
		if request := parseConfig(k.Value); request == nil || len(request) > 0 {
			wrong.add("a request is pending: %s", k.Value)
		}
	}
	return wrong.result(converged, "no failover request", "")
}

// sameCast says whether two samples show the same leader and agents.
func sameCast(then, now *sample) bool {
	if string(then.scope.value("leader")) != string(now.scope.value("leader")) || len(then.names) != len(now.names) {
		return false
	}
	for name := range now.names {
		if _, ok := then.names[name]; !ok {
			return false
		}
	}
	return true
}

// moved judges two samples of one cast against each other: what must go on
// between them for a level to hold.
func (p *proof) moved(then, now *sample, l level) []result {
	var wrong findings
	if l == reconnected {
		for i, w := range now.answers {
			if w.DCSLastSeen <= then.answers[i].DCSLastSeen {
				wrong.add("%s has not seen etcd again since %s", now.who(w), time.Unix(w.DCSLastSeen, 0).UTC().Format(time.RFC3339))
			}
		}
		return []result{wrong.result(l, "agents keep seeing etcd", fmt.Sprintf("all %d", len(now.answers)))}
	}
	leader := string(now.scope.value("leader"))
	for name, w := range now.names {
		if name == leader {
			continue
		}
		switch {
		case w.lsn() > then.names[name].lsn():
		case now.names[leader].lsn() == then.names[leader].lsn():
			wrong.add("%s stands at LSN %s: the leader has written nothing meanwhile", name, formatLSN(w.lsn()))
		default:
			wrong.add("%s stands at LSN %s while the leader writes", name, formatLSN(w.lsn()))
		}
	}
	slices.Sort(wrong)
	return []result{wrong.result(l, "WAL moves on every replica", fmt.Sprintf("%d replicas", max(0, len(now.names)-1)))}
}

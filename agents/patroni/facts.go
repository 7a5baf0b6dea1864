package patroni

import (
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Facts is what a backup remembers of one scope.
type Facts struct {
	Scope            string        `json:"scope"` // its directory: /service/main
	SystemIdentifier string        `json:"system_identifier,omitempty"`
	Leader           string        `json:"leader,omitempty"`
	Timeline         int64         `json:"timeline,omitempty"` // the newest that the keys know of
	Members          []MemberFacts `json:"members"`
	Paused           bool          `json:"paused"`
	SynchronousMode  string        `json:"synchronous_mode"` // off, on, quorum, or unknown without config
	Sync             *SyncFacts    `json:"sync,omitempty"`
	FailoverKey      bool          `json:"failover_key"` // a manual failover or switchover was pending
	StandbyCluster   bool          `json:"standby_cluster"`
	CitusGroup       *int          `json:"citus_group,omitempty"`
}

// MemberFacts is what a member last said about itself.
type MemberFacts struct {
	Name     string `json:"name"`
	State    string `json:"state,omitempty"`
	Role     string `json:"role,omitempty"`
	Timeline int64  `json:"timeline,omitempty"`
	LSN      string `json:"lsn,omitempty"`
	Version  string `json:"version,omitempty"` // of Patroni
	REST     string `json:"rest,omitempty"`    // without credentials
}

// SyncFacts is whom the sync key named.
type SyncFacts struct {
	Leader   string   `json:"leader,omitempty"`
	Standbys []string `json:"standbys"`
}

func factsOf(scopes []*scope) []Facts {
	all := make([]Facts, len(scopes))
	for i, s := range scopes {
		all[i] = s.facts()
	}
	return all
}

func (s *scope) facts() Facts {
	f := Facts{
		Scope:            s.name(),
		SystemIdentifier: s.systemID(),
		Leader:           string(s.value("leader")),
		Timeline:         s.timeline(),
		Members:          []MemberFacts{},
		Paused:           s.config.paused(),
		SynchronousMode:  "unknown",
		FailoverKey:      s.keys["failover"] != nil,
		StandbyCluster:   s.config.standby(),
	}
	if s.config != nil {
		f.SynchronousMode = onOff(s.config.synchronous())
		if s.config.word("synchronous_mode") == "quorum" {
			f.SynchronousMode = "quorum"
		}
	}
	if state, ok := parseSync(s.value("sync")); ok {
		f.Sync = &SyncFacts{Leader: state.Leader, Standbys: state.standbys()}
	}
	if s.citus != "" {
		group, err := strconv.Atoi(strings.TrimPrefix(s.name(), s.citus))
		if err == nil {
			f.CitusGroup = &group
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.members)) {
		m, _ := parseMember(s.members[name].Value)
		one := MemberFacts{Name: name, State: m.State, Role: m.Role, Timeline: m.Timeline, Version: m.Version, REST: withoutUser(m.APIURL)}
		if m.XlogLocation > 0 {
			one.LSN = formatLSN(uint64(m.XlogLocation))
		}
		f.Members = append(f.Members, one)
	}
	return f
}

func (s syncState) standbys() []string {
	names := []string{}
	for _, n := range strings.Split(s.SyncStandby, ",") {
		if n = strings.TrimSpace(n); n != "" {
			names = append(names, n)
		}
	}
	return names
}

func withoutUser(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	u.User = nil
	return u.String()
}

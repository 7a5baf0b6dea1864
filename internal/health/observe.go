package health

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/requorum/requorum/internal/cluster"
)

// A Member is what one endpoint says of its member.
type Member struct {
	Name     string `json:"name"` // or the endpoint
	Endpoint string `json:"endpoint"`
	Healthy  bool   `json:"healthy"` // it answered a linearizable read
	Leader   bool   `json:"leader"`
	Learner  bool   `json:"learner"`
	Version  string `json:"version"`
	Revision int64  `json:"revision"`
	DBBytes  int64  `json:"db_bytes"`
	Error    string `json:"error,omitempty"`

	// The following are zero when the member did not answer.
	Answered   bool   `json:"answered"`
	ID         string `json:"member_id,omitempty"` // 16 hexadecimal digits
	InUseBytes int64  `json:"db_in_use_bytes,omitempty"`
	QuotaBytes int64  `json:"db_quota_bytes,omitempty"` // 0 before etcd 3.6: not known
	Lag        uint64 `json:"lag"`                      // raft entries, see cluster.MemberStatus

	SkewSeconds *float64  `json:"clock_skew_seconds,omitempty"` // see cluster.Peek; nil: not known
	Certificate time.Time `json:"certificate_expires,omitzero"`

	err error // why it is not healthy
}

// An Alarm that is raised in the cluster.
type Alarm struct {
	Type   string `json:"type"`
	Member string `json:"member,omitempty"` // label; "" for none in particular
}

// An Observation is what one look at a cluster found.
type Observation struct {
	Time    time.Time `json:"time"`
	Members []Member  `json:"members"` // one for each endpoint, in their order

	Voters  int `json:"voters"`  // voting members by the member list, or by the endpoints where that is not to be had
	Healthy int `json:"healthy"` // of these
	Unasked int `json:"unasked"` // of these, those that no endpoint leads to: nothing is known of them

	Leader     string   `json:"leader"`      // its label, or its id where it was not asked; "" when none is known
	LeaderID   string   `json:"leader_id"`   // 16 hexadecimal digits
	ClusterIDs []string `json:"cluster_ids"` // each 16 hexadecimal digits; more than one: the endpoints are mixed
	Revision   int64    `json:"revision"`    // the highest that any member has; 0 when none answered
	RaftTerm   uint64   `json:"raft_term"`
	Alarms     []Alarm  `json:"alarms,omitempty"`

	ClientCertificate time.Time `json:"client_certificate_expires,omitzero"`
}

// Margin is how many more voting members may fail before the cluster stops, negative when it has stopped. With members that
// nobody asked it is not known; the number is then the least that it can be.
func (o Observation) Margin() (margin int, known bool) {
	margin = o.Healthy - (o.Voters/2 + 1)
	if o.Unasked > 0 && o.Healthy > 0 {
		margin = max(margin, 0) // a quorum answered
	}
	return margin, o.Unasked == 0
}

// Answered says whether any member told its status.
func (o Observation) Answered() bool {
	return slices.ContainsFunc(o.Members, func(m Member) bool { return m.Answered })
}

// A Look is a clock's reading and certificates, which change slowly.
type Look struct {
	At     time.Time
	Peeks  []cluster.Peek
	Client time.Time // when our own certificate expires
}

// TakeLook looks at clocks and certificates.
func TakeLook(ctx context.Context, c *cluster.Client, now time.Time) Look {
	own, _ := c.ClientCertificate() // one that cannot be read fails every connection, which says so
	return Look{At: now, Peeks: c.Peek(ctx), Client: own}
}

// Observe asks every endpoint once. The error is that of ctx alone: a cluster that is down is an observation too.
func Observe(ctx context.Context, c *cluster.Client, look Look, now time.Time) (Observation, error) {
	statuses, err := c.Status(ctx)
	if err != nil {
		return Observation{}, err
	}
	health := c.Health(ctx)
	members, _ := c.Members(ctx) // unknown: the endpoints count
	if err := context.Cause(ctx); err != nil {
		return Observation{}, err
	}
	return gather(statuses, health, members, look, now), nil
}

// gather makes an observation of what was asked.
func gather(statuses []cluster.MemberStatus, health []cluster.MemberHealth, list []cluster.Member, look Look, now time.Time) Observation {
	o := Observation{Time: now, Members: []Member{}, ClusterIDs: []string{}, ClientCertificate: look.Client}
	for i, s := range statuses {
		m := Member{
			Name: s.Label(), Endpoint: s.Endpoint, Healthy: health[i].OK, Leader: s.IsLeader(), Learner: s.IsLearner, Version: s.Version,
			Revision: s.Revision, DBBytes: s.DBSize, Answered: s.Err == nil,
			InUseBytes: s.DBSizeInUse, QuotaBytes: s.DBSizeQuota, Lag: s.Lag, err: cmp.Or(s.Err, health[i].Err),
		}
		if s.IsLearner {
			m.err = nil // a learner answers hardly anything, and need not
		}
		if m.err != nil {
			m.Error = m.err.Error()
		}
		if i < len(look.Peeks) && look.Peeks[i].Endpoint == s.Endpoint {
			p := look.Peeks[i]
			m.Certificate = p.Certificate
			if p.SkewKnown {
				seconds := p.Skew.Seconds()
				m.SkewSeconds = &seconds
			}
		}
		if m.Answered {
			m.ID = hexID(s.MemberID)
			if id := hexID(s.ClusterID); !slices.Contains(o.ClusterIDs, id) {
				o.ClusterIDs = append(o.ClusterIDs, id)
			}
			o.Revision = max(o.Revision, s.Revision)
			if s.RaftTerm >= o.RaftTerm && s.Leader != 0 {
				o.LeaderID = hexID(s.Leader)
			}
			o.RaftTerm = max(o.RaftTerm, s.RaftTerm)
		}
		o.Members = append(o.Members, m)
	}
	o.count(list)
	o.Leader = o.label(o.LeaderID)
	for _, s := range statuses {
		for _, a := range s.Alarms {
			alarm := Alarm{Type: a.Type}
			if a.MemberID != 0 {
				alarm.Member = o.label(hexID(a.MemberID))
			}
			if !slices.Contains(o.Alarms, alarm) {
				o.Alarms = append(o.Alarms, alarm)
			}
		}
	}
	return o
}

// count counts voting members. Several endpoints may lead to one, and some may be in no endpoint's reach.
func (o *Observation) count(list []cluster.Member) {
	healthy, answered := map[string]bool{}, map[string]bool{}
	silent := 0
	for _, m := range o.Members {
		switch {
		case m.Learner:
		case !m.Answered && m.Healthy: // it spoke a moment later: who it is was not told
			healthy[m.Endpoint], answered[m.Endpoint] = true, true
		case !m.Answered:
			silent++
		default:
			answered[m.ID] = true
			if m.Healthy {
				healthy[m.ID] = true
			}
		}
	}
	o.Healthy = len(healthy)
	o.Voters = len(answered) + silent
	voters := 0
	for _, m := range list {
		if !m.IsLearner {
			voters++
		}
	}
	if voters > 0 {
		o.Voters = voters
		o.Unasked = max(0, voters-len(answered)-silent)
	}
	o.Healthy = min(o.Healthy, o.Voters)
}

// label is the name of a member by its id.
func (o Observation) label(id string) string {
	for _, m := range o.Members {
		if m.ID == id && id != "" {
			return m.Name
		}
	}
	return id
}

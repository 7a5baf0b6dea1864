package cluster

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Names of what is being done, as they stand in errors.
const (
	opStatus   = "status"
	opMembers  = "member list"
	opSnapshot = "snapshot"
	opHashKV   = "hash"
)

// A member that lags is asked again a few times, for as long as a busy but healthy member may need
// to apply what was already committed.
const (
	lagRetries = 4
	lagWait    = 150 * time.Millisecond
)

// A Member is one entry of the cluster's member list.
type Member struct {
	ID         uint64
	Name       string // "" for a member that was added but never started
	PeerURLs   []string
	ClientURLs []string
	IsLearner  bool
}

// An Alarm is raised by, or about, one member.
type Alarm struct {
	MemberID uint64 // 0: about no particular member
	Type     string // NOSPACE, CORRUPT
}

// MemberStatus is what one endpoint says about its member, or why it says nothing.
type MemberStatus struct {
	Endpoint string // as configured
	Err      error  // no answer: everything below except Name is zero

	Name             string // from the member list; "" when that is not to be had
	MemberID         uint64
	ClusterID        uint64
	Version          string // of the server
	StorageVersion   string // of its database; "" before 3.6
	Revision         int64
	RaftTerm         uint64
	RaftIndex        uint64 // committed, as far as this member knows
	RaftAppliedIndex uint64
	Leader           uint64 // 0: none
	IsLearner        bool
	DBSize           int64 // bytes
	DBSizeInUse      int64
	DBSizeQuota      int64   // 0 before 3.6
	Downgrade        string  // target version of a downgrade under way; "" before 3.6
	Alarms           []Alarm // every alarm of the cluster that this member knows

	// Lag is the number of raft entries that this member still had not applied, of those that any
	// member had committed when the question was first asked: a member that is merely busy catches
	// up with that moment within a fraction of a second and has 0.
	Lag uint64
}

// IsLeader tells whether the member believes to lead.
func (s MemberStatus) IsLeader() bool { return s.Leader != 0 && s.Leader == s.MemberID }

// Label is the member's name, else its endpoint.
func (s MemberStatus) Label() string {
	if s.Name != "" {
		return s.Name
	}
	return s.Endpoint
}

// Status asks every endpoint at once, each with a deadline of its own, and returns the answers in
// the order of the endpoints. A member that does not answer has Err set. The error is that of ctx.
// It works without quorum, except that etcd checks passwords only with one.
func (c *Client) Status(ctx context.Context) ([]MemberStatus, error) {
	out := make([]MemberStatus, len(c.endpoints))
	lists := make([][]Member, len(c.endpoints))
	c.each(func(i int, e *endpoint) {
		out[i] = c.status(ctx, e)
		if out[i].Err == nil {
			lists[i], _ = c.memberList(ctx, e) // names only embellish; a learner does not tell them
		}
	})
	var committed uint64
	for _, s := range out {
		committed = max(committed, s.RaftIndex)
	}
	c.each(func(i int, e *endpoint) {
		for try := 0; out[i].Err == nil; try++ {
			out[i].Lag = committed - min(committed, out[i].RaftAppliedIndex)
			if out[i].Lag == 0 || try == lagRetries {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(lagWait):
			}
			if again := c.status(ctx, e); again.Err == nil {
				out[i] = again
			}
		}
	})
	names := map[uint64]string{}
	for _, list := range lists {
		for _, m := range list {
			if m.Name != "" {
				names[m.ID] = m.Name
			}
		}
	}
	for i := range out {
		out[i].Name = names[out[i].MemberID]
	}
	return out, context.Cause(ctx)
}

// each runs f for every endpoint at once and waits for all.
func (c *Client) each(f func(int, *endpoint)) {
	var wg sync.WaitGroup
	for i, e := range c.endpoints {
		wg.Go(func() { f(i, e) })
	}
	wg.Wait()
}

func (c *Client) status(ctx context.Context, e *endpoint) MemberStatus {
	out := MemberStatus{Endpoint: e.name}
	var answer *pb.StatusResponse
	out.Err = c.call(ctx, e, opStatus, c.options.DialTimeout, func(ctx context.Context) (err error) {
		answer, err = pb.NewMaintenanceClient(e.conn).Status(ctx, &pb.StatusRequest{})
		return err
	})
	if out.Err != nil {
		out.IsLearner = errors.Is(out.Err, errLearner)
		return out
	}
	h := answer.GetHeader()
	out.MemberID, out.ClusterID, out.Revision = h.GetMemberId(), h.GetClusterId(), h.GetRevision()
	out.Version, out.StorageVersion = answer.Version, answer.StorageVersion
	out.RaftTerm, out.RaftIndex, out.RaftAppliedIndex = answer.RaftTerm, answer.RaftIndex, answer.RaftAppliedIndex
	out.Leader, out.IsLearner = answer.Leader, answer.IsLearner
	out.DBSize, out.DBSizeInUse, out.DBSizeQuota = answer.DbSize, answer.DbSizeInUse, answer.DbSizeQuota
	if d := answer.DowngradeInfo; d.GetEnabled() {
		out.Downgrade = d.TargetVersion
	}
	out.Alarms = parseAlarms(answer.Errors)
	return out
}

var (
	alarmMember = regexp.MustCompile(`memberID:\s*(\d+)`)
	alarmType   = regexp.MustCompile(`alarm:\s*([A-Z]+)`)
)

// parseAlarms reads the alarms in the answer of Status, which are messages in protobuf's text form.
// The Alarm call would need quorum, and a learner does not answer it.
func parseAlarms(texts []string) []Alarm {
	var out []Alarm
	for _, text := range texts {
		kind := alarmType.FindStringSubmatch(text)
		if kind == nil {
			continue // another kind of trouble, such as "no leader", which Status tells apart
		}
		a := Alarm{Type: kind[1]}
		if m := alarmMember.FindStringSubmatch(text); m != nil {
			a.MemberID, _ = strconv.ParseUint(m[1], 10, 64) // digits only; too many are as unknown as none
		}
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// Members returns the member list as one reachable member knows it, asked so that it answers
// without quorum.
func (c *Client) Members(ctx context.Context) ([]Member, error) {
	var out []Member
	err := c.any(ctx, opMembers, func(ctx context.Context, e *endpoint) (err error) {
		out, err = askMembers(ctx, e)
		return err
	})
	return out, err
}

func (c *Client) memberList(ctx context.Context, e *endpoint) (out []Member, err error) {
	err = c.call(ctx, e, opMembers, c.options.DialTimeout, func(ctx context.Context) (err error) {
		out, err = askMembers(ctx, e)
		return err
	})
	return out, err
}

func askMembers(ctx context.Context, e *endpoint) ([]Member, error) {
	answer, err := pb.NewClusterClient(e.conn).MemberList(ctx, &pb.MemberListRequest{Linearizable: false})
	if err != nil {
		return nil, err
	}
	return listed(answer.Members), nil
}

func listed(members []*pb.Member) (out []Member) {
	for _, m := range members {
		out = append(out, Member{ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, IsLearner: m.IsLearner})
	}
	return out
}

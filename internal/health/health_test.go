package health

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/storage/catalog"
)

var start = time.Date(2026, 11, 22, 5, 55, 0, 0, time.UTC)

var usual = Thresholds{
	Margin: 1, DatabaseWarning: 0.75, DatabaseCritical: 0.9, Fragmentation: 0.6, Lag: 5000, ClockSkew: 2 * time.Second,
	CertificateWarning: 21 * 24 * time.Hour, CertificateCritical: 3 * 24 * time.Hour, LeaderChanges: 3, Streak: 3,
}

// three is an observation of three good members, with one change.
func three(change func(o *Observation)) Observation {
	o := Observation{Time: start, Voters: 3, Healthy: 3, LeaderID: "0000000000000001", Leader: "etcd1", ClusterIDs: []string{"00000000000000aa"}, Revision: 100, RaftTerm: 2}
	for _, id := range []string{"1", "2", "3"} {
		o.Members = append(o.Members, Member{Name: "etcd" + id, Endpoint: "http://" + id, ID: "000000000000000" + id, Healthy: true, Answered: true,
			Leader: id == "1", DBBytes: 1 << 30, InUseBytes: 1 << 30, QuotaBytes: 8 << 30, Revision: 100})
	}
	if change != nil {
		change(&o)
	}
	return o
}

func down(members ...int) func(o *Observation) {
	return func(o *Observation) {
		for _, i := range members {
			m := &o.Members[i]
			m.Healthy, m.Answered, m.err = false, false, &cluster.Error{Op: "status", Endpoint: m.Endpoint, What: "connection refused", Advice: "start it", Err: cluster.ErrUnreachable}
			o.Healthy--
		}
	}
}

// said writes problems as "severity name subject".
func said(problems []Problem) string {
	var all []string
	for _, p := range problems {
		all = append(all, strings.TrimSpace(string(p.Severity)+" "+p.Name+" "+p.Subject))
	}
	return strings.Join(all, ", ")
}

func TestJudge(t *testing.T) {
	skew := func(s float64) *float64 { return &s }
	for _, tc := range []struct {
		name string
		o    Observation
		want string
		text string // somewhere in what is said
	}{
		{"all is well", three(nil), "", ""},
		{"one of three down", three(down(2)), "warning member_down http://3, warning quorum", "no more may fail"},
		{"two of three down", three(down(1, 2)), "warning member_down http://2, warning member_down http://3, critical quorum", "1 of 3 voting members are healthy"},
		{"all down", three(down(0, 1, 2)), "warning member_down http://1, warning member_down http://2, warning member_down http://3, critical quorum", "requorum restore dcs --plan"},
		{"one member that is well", Observation{Time: start, Voters: 1, Healthy: 1, Members: []Member{{Endpoint: "http://1", Healthy: true, Answered: true}}}, "", ""},
		{"one of five down leaves one more", three(func(o *Observation) { o.Voters, o.Healthy = 5, 4 }), "", ""},
		{"members that no endpoint leads to", three(func(o *Observation) { o.Voters, o.Unasked = 7, 4 }), "warning unasked", "4 of 7"},
		{"no member lets us in", three(func(o *Observation) {
			o.Healthy = 0
			for i := range o.Members {
				o.Members[i].err = &cluster.Error{Endpoint: o.Members[i].Endpoint, Err: cluster.ErrAuth}
			}
		}), "warning member_down http://1, warning member_down http://2, warning member_down http://3, unknown access", "username"},
		{"two clusters", three(func(o *Observation) { o.ClusterIDs = append(o.ClusterIDs, "bb") }), "critical mixed_clusters", "2 different"},
		{"alarms", three(func(o *Observation) { o.Alarms = []Alarm{{"NOSPACE", "etcd1"}, {"CORRUPT", ""}} }), "critical no_space etcd1, critical corrupt", "alarm NOSPACE is raised by etcd1"},
		{"below the quota", three(func(o *Observation) { o.Members[1].DBBytes, o.Members[1].InUseBytes = 5<<30, 5<<30 }), "", ""},
		{"near the quota", three(func(o *Observation) { o.Members[1].DBBytes, o.Members[1].InUseBytes = 6<<30, 6<<30 }), "warning database_size", "75 %"},
		{"at the quota", three(func(o *Observation) { o.Members[1].DBBytes, o.Members[1].InUseBytes = 8<<30, 8<<30 }), "critical database_size", "etcd2"},
		{"an unknown quota", three(func(o *Observation) { o.Members[1].DBBytes, o.Members[1].QuotaBytes = 1<<30, 0 }), "", ""},
		{"fragmented", three(func(o *Observation) { o.Members[2].InUseBytes = 100 << 20 }), "warning fragmentation", "90 %"},
		{"fragmented and small", three(func(o *Observation) { o.Members[2].DBBytes, o.Members[2].InUseBytes = 100<<20, 1<<20 }), "", ""},
		{"lagging", three(func(o *Observation) { o.Members[2].Lag = 5000 }), "warning lag http://3", "5000"},
		{"a learner may lag", three(func(o *Observation) { o.Members[2].Lag, o.Members[2].Learner = 5000, true }), "", ""},
		{"a clock behind", three(func(o *Observation) { o.Members[0].SkewSeconds = skew(-2.5) }), "warning clock_skew http://1", "2.5 s behind"},
		{"a clock a little ahead", three(func(o *Observation) { o.Members[0].SkewSeconds = skew(1.5) }), "", ""},
		{"certificates", three(func(o *Observation) {
			o.Members[0].Certificate, o.Members[1].Certificate = start.Add(20*24*time.Hour), start.Add(22*24*time.Hour)
			o.ClientCertificate = start.Add(-time.Hour)
		}), "warning certificate http://1, critical certificate", "the client certificate expired on 2026-11-22T04:55:00Z"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			problems := Judge("dcs", tc.o, usual)
			if got := said(problems); got != tc.want {
				t.Errorf("judged as\n%s\nwant\n%s", got, tc.want)
			}
			var text string
			for _, p := range problems {
				if !slices.Contains(Names, p.Name) {
					t.Errorf("%q is none of Names", p.Name)
				}
				text += p.What + p.Advice + "\n"
			}
			if !strings.Contains(text, tc.text) {
				t.Errorf("%q does not say %q", text, tc.text)
			}
			if none := Judge("dcs", tc.o, Thresholds{}); len(none) > len(problems) {
				t.Errorf("without thresholds more is wrong: %s", said(none))
			}
		})
	}
}

func TestGather(t *testing.T) {
	refused := &cluster.Error{What: "refused", Err: cluster.ErrUnreachable}
	status := func(endpoint string, id, leader uint64) cluster.MemberStatus {
		return cluster.MemberStatus{Endpoint: endpoint, Name: "etcd" + endpoint, MemberID: id, ClusterID: 7, Leader: leader, Revision: 10 + int64(id), RaftTerm: 3, RaftIndex: 5}
	}
	list := []cluster.Member{{ID: 1}, {ID: 2}, {ID: 3}, {ID: 4, IsLearner: true}}
	learner := status("4", 4, 2)
	learner.IsLearner = true
	stale := status("3", 3, 1)
	stale.RaftTerm = 2
	for _, tc := range []struct {
		name                     string
		statuses                 []cluster.MemberStatus
		unhealthy                []int
		list                     []cluster.Member
		voters, healthy, unasked int
		margin                   int
		known                    bool
	}{
		{"all and a learner", []cluster.MemberStatus{status("1", 1, 2), status("2", 2, 2), stale, learner}, []int{3}, list, 3, 3, 0, 1, true},
		{"one silent", []cluster.MemberStatus{status("1", 1, 2), status("2", 2, 2), {Endpoint: "3", Err: refused}}, []int{2}, list, 3, 2, 0, 0, true},
		{"no member list", []cluster.MemberStatus{status("1", 1, 2), status("2", 2, 2), {Endpoint: "3", Err: refused}}, []int{2}, nil, 3, 2, 0, 0, true},
		{"two endpoints of one member", []cluster.MemberStatus{status("1", 1, 2), status("1b", 1, 2), status("2", 2, 2)}, nil, list, 3, 2, 1, 0, false},
		{"one endpoint of three members", []cluster.MemberStatus{status("1", 1, 2)}, nil, list, 3, 1, 2, 0, false},
		{"nothing answers", []cluster.MemberStatus{{Endpoint: "1", Err: refused}, {Endpoint: "2", Err: refused}, {Endpoint: "3", Err: refused}}, []int{0, 1, 2}, nil, 3, 0, 0, -2, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			health := make([]cluster.MemberHealth, len(tc.statuses))
			for i := range health {
				health[i].OK = !slices.Contains(tc.unhealthy, i)
				if !health[i].OK {
					health[i].Err = errors.New("no answer")
				}
			}
			o := gather(tc.statuses, health, tc.list, Look{}, start)
			margin, known := o.Margin()
			if o.Voters != tc.voters || o.Healthy != tc.healthy || o.Unasked != tc.unasked || margin != tc.margin || known != tc.known {
				t.Errorf("%d voters, %d healthy, %d unasked, margin %d (known %v)", o.Voters, o.Healthy, o.Unasked, margin, known)
			}
			if o.Answered() && (o.LeaderID != "0000000000000002" || o.RaftTerm != 3 || o.Revision < 11) {
				t.Errorf("leader %s, term %d, revision %d", o.LeaderID, o.RaftTerm, o.Revision)
			}
		})
	}
}

func TestTracker(t *testing.T) {
	size := func(share float64) func(*Observation) {
		return func(o *Observation) {
			o.Members[0].DBBytes = int64(share * float64(8<<30))
			o.Members[0].InUseBytes = o.Members[0].DBBytes
		}
	}
	leader := func(id string) func(*Observation) { return func(o *Observation) { o.LeaderID = id } }
	alarm := func(o *Observation) { o.Alarms = []Alarm{{"NOSPACE", ""}} }
	full := func(o *Observation) { size(0.95)(o); down(0, 1, 2)(o) }
	type step struct {
		change func(*Observation)
		want   string
	}
	well := step{nil, ""}
	oneDown := "warning member_down http://3, warning quorum"
	for _, tc := range []struct {
		name  string
		steps []step
	}{
		{"a member that flaps is never told", []step{{down(2), ""}, {down(2), ""}, well, {down(2), ""}, {down(2), ""}, well}},
		{"one that stays away is, and is over when it stays", []step{{down(2), ""}, {down(2), ""}, {down(2), oneDown}, {nil, oneDown}, {down(2), oneDown}, {nil, oneDown}, {nil, oneDown}, well}},
		{"worse at once", []step{{down(2), ""}, {down(2), ""}, {down(2), oneDown}, {down(1, 2), "warning member_down http://3, critical quorum"}}},
		{"alarms are told and over at once", []step{{alarm, "critical no_space"}, well}},
		{"a size about the threshold does not come and go", []step{{size(.76), ""}, {size(.76), ""}, {size(.76), "warning database_size"}, {size(.7), "warning database_size"}, {size(.68), "warning database_size"},
			{size(.92), "critical database_size"}, {size(.85), "critical database_size"}, {size(.8), "warning database_size"}, {size(.6), "warning database_size"}, {size(.6), "warning database_size"}, {size(.6), ""}}},
		{"what cannot be seen any more stands", []step{{size(.95), ""}, {size(.95), ""}, {size(.95), "critical database_size"}, {full, "critical database_size"}, {full, "critical database_size"},
			{full, "critical database_size, warning member_down http://1, warning member_down http://2, warning member_down http://3, critical quorum"}}},
		{"leaders that keep changing", []step{{leader("a"), ""}, {leader("b"), ""}, {leader(""), ""}, {leader("b"), ""}, {leader("a"), ""}, {leader("c"), "warning leader_changes"}}},
		{"another cluster answers", []step{well, {func(o *Observation) { o.ClusterIDs = []string{"bb"} }, "warning rebuilt"}}},
		{"an older state answers", []step{well, {func(o *Observation) { o.Revision = 50 }, ""}, {func(o *Observation) { o.Revision = 51 }, "warning rebuilt"}, {func(o *Observation) { o.Revision = 52 }, "warning rebuilt"}}},
		{"one moment of an older state", []step{well, {func(o *Observation) { o.Revision = 50 }, ""}, well, {func(o *Observation) { o.Revision = 60 }, ""}, well}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := NewTracker("dcs", usual)
			var words string
			for i, s := range tc.steps {
				o := three(s.change)
				o.Time = start.Add(time.Duration(i) * 15 * time.Second)
				problems := k.Add(o)
				if got := said(problems); got != s.want {
					t.Fatalf("observation %d: %q, want %q", i+1, got, s.want)
				}
				if strings.HasPrefix(s.want, "warning database_size") && i > 0 && tc.steps[i-1].want == s.want && problems[0].What != words {
					t.Errorf("observation %d: the words of what stands changed to %q", i+1, problems[0].What)
				}
				if len(problems) > 0 {
					words = problems[0].What
				}
			}
		})
	}
}

func TestTrackerForgetsAfterAnHour(t *testing.T) {
	k := NewTracker("dcs", usual)
	for i := range 6 {
		o := three(func(o *Observation) { o.LeaderID = string(rune('a' + i)) })
		o.Time = start.Add(time.Duration(i) * time.Minute)
		k.Add(o)
	}
	if k.LeaderChanges() != 5 {
		t.Errorf("%d changes, want 5", k.LeaderChanges())
	}
	o := three(func(o *Observation) { o.LeaderID = "f" })
	o.Time = start.Add(2 * time.Hour)
	if problems := k.Add(o); len(problems) > 0 {
		t.Errorf("two hours later: %s", said(problems))
	}
}

func TestStored(t *testing.T) {
	ago := func(d time.Duration) time.Time { return start.Add(-d) }
	const day = 24 * time.Hour
	good := catalog.Snapshot{ID: "bgood", Time: ago(time.Hour)}
	failed := catalog.Snapshot{ID: "bfailed", Time: ago(time.Minute), FailedAt: ago(time.Second)}
	rehearsed := func(failed bool) catalog.Snapshot {
		s := good
		s.ID, s.Drilled = "bdrilled", catalog.Rehearsal{Drill: catalog.Drill{ID: "d0000000000a", Time: ago(time.Minute)}, Failed: failed}
		return s
	}
	both := rehearsed(true)
	both.ID, both.FailedAt = "bboth", ago(time.Second)
	old := catalog.Snapshot{ID: "bold", Time: ago(30 * day), VerifiedAt: ago(8 * day)}
	asked := Objectives{RPO: 90 * time.Minute, DrillAge: 100 * day, VerificationAge: 7 * day}
	drilled := func(s Stored) Stored { s.LastDrill = ago(day); return s }
	for _, tc := range []struct {
		name string
		s    Stored
		want string
		text string
	}{
		{"well", drilled(Stored{Snapshots: []catalog.Snapshot{good}}), "", ""},
		{"none", drilled(Stored{}), "critical rpo", "there is no backup"},
		{"only failed ones", drilled(Stored{Snapshots: []catalog.Snapshot{failed}}), "warning bad_backup bfailed, critical rpo", "requorum verify dcs bfailed"},
		{"too old", drilled(Stored{Snapshots: []catalog.Snapshot{{ID: "b1", Time: ago(2 * time.Hour)}, failed}}), "warning bad_backup bfailed, critical rpo", "2h old, the objective is 1h30m"},
		{"restored in a drill", drilled(Stored{Snapshots: []catalog.Snapshot{rehearsed(false)}}), "", ""},
		{"failed in a drill", drilled(Stored{Snapshots: []catalog.Snapshot{rehearsed(true), good}}), "warning bad_backup bdrilled", "failed in drill d0000000000arequorum show dcs bdrilled"},
		{"failed in a drill and its verification", drilled(Stored{Snapshots: []catalog.Snapshot{both, good}}), "warning bad_backup bboth", "failed its verification"},
		{"not verified for a week", drilled(Stored{Snapshots: []catalog.Snapshot{old, good}}), "warning unverified", "for 8d"},
		{"never verified", drilled(Stored{Snapshots: []catalog.Snapshot{{Time: ago(8 * day)}, good}}), "warning unverified", "ever"},
		{"no drill", Stored{Snapshots: []catalog.Snapshot{good}}, "warning drill_age", "the objective is 100d"},
		{"drills unknown", Stored{Snapshots: []catalog.Snapshot{good}, LastDrillErr: errors.New("x")}, "", ""},
		{"one store down", drilled(Stored{Snapshots: []catalog.Snapshot{good}, SnapshotsErr: errors.New("store offsite: gone")}), "warning stores", "offsite"},
		{"all stores down", drilled(Stored{SnapshotsErr: errors.New("gone"), HoldsErr: errors.New("gone")}), "unknown stores", "gone"},
		{"a restore", drilled(Stored{Snapshots: []catalog.Snapshot{good}, Holds: []catalog.Hold{{Run: "r1", Owner: "me"}}}), "warning held r1", "--resume"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			problems := tc.s.Judge("dcs", start, asked)
			if got := said(problems); got != tc.want {
				t.Errorf("judged as %q, want %q", got, tc.want)
			}
			var text string
			for _, p := range problems {
				text += p.What + p.Advice
			}
			if !strings.Contains(text, tc.text) {
				t.Errorf("%q does not say %q", text, tc.text)
			}
		})
	}
}

func TestByName(t *testing.T) {
	merged := ByName([]Problem{
		{Severity: Warning, Name: MemberDown, Subject: "a", What: "a is down", Advice: "start it"}, {Severity: Critical, Name: Quorum, What: "stopped"},
		{Severity: Critical, Name: MemberDown, Subject: "b", What: "b is down", Advice: "start it"},
	})
	if len(merged) != 2 || merged[0] != (Problem{Severity: Critical, Name: MemberDown, What: "a is down; b is down", Advice: "start it"}) {
		t.Errorf("%+v", merged)
	}
	if Worst(merged) != Critical || Worst(nil) != "" {
		t.Error("the worst is not the worst")
	}
}

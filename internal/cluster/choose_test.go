package cluster

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestChoose(t *testing.T) {
	member := func(id uint64, change func(*MemberStatus)) MemberStatus {
		s := MemberStatus{Endpoint: "http://" + string('a'+rune(id)), Name: "m" + string('0'+rune(id)), MemberID: id, ClusterID: 7, Leader: 1, DBSize: 100}
		if change != nil {
			change(&s)
		}
		return s
	}
	alarm := func(kind string, id uint64) func(*MemberStatus) {
		return func(s *MemberStatus) { s.Alarms = []Alarm{{MemberID: id, Type: kind}} }
	}
	for _, tc := range []struct {
		name     string
		all      []MemberStatus
		want     string // names of the usable, best first
		rejected map[string]string
	}{
		{"followers before the leader, smallest first", []MemberStatus{
			member(1, func(s *MemberStatus) { s.DBSize = 1 }), member(2, nil), member(3, func(s *MemberStatus) { s.DBSize = 50 }),
		}, "m3 m2 m1", nil},
		{"a leader alone", []MemberStatus{member(1, nil)}, "m1", nil},
		{"a learner, even a small one", []MemberStatus{
			member(1, nil), member(2, func(s *MemberStatus) { s.IsLearner, s.DBSize = true, 1 }),
		}, "m1", map[string]string{"m2": "learner"}},
		{"one that does not answer", []MemberStatus{
			member(1, nil), {Endpoint: "http://x", Err: &Error{What: "connection refused", Advice: "start it"}},
		}, "m1", map[string]string{"http://x": "connection refused (start it)"}},
		{"no leader", []MemberStatus{member(1, nil), member(2, func(s *MemberStatus) { s.Leader = 0 })}, "m1", map[string]string{"m2": "no leader"}},
		{"lagging", []MemberStatus{
			member(1, nil), member(2, func(s *MemberStatus) { s.Lag = MaxLag }), member(3, func(s *MemberStatus) { s.Lag = MaxLag + 1 }),
		}, "m1 m2", map[string]string{"m3": "101 raft entries behind"}},
		{"one that lacks nothing before one that is behind, then followers before the leader", []MemberStatus{
			member(2, func(s *MemberStatus) { s.Lag = 1 }), member(1, nil), member(3, nil),
		}, "m3 m1 m2", nil},
		{"corrupt, about the member", []MemberStatus{member(1, nil), member(2, alarm(AlarmCorrupt, 2))}, "m1", map[string]string{"m2": "CORRUPT"}},
		{"corrupt, about another", []MemberStatus{member(1, nil), member(2, alarm(AlarmCorrupt, 3))}, "m2 m1", nil},
		{"corrupt, about none in particular", []MemberStatus{member(1, alarm(AlarmCorrupt, 0))}, "", map[string]string{"m1": "CORRUPT"}},
		{"a full member is avoided", []MemberStatus{member(1, nil), member(2, alarm(AlarmNoSpace, 2))}, "m1", map[string]string{"m2": "NOSPACE"}},
		{"but taken when all are full", []MemberStatus{member(1, alarm(AlarmNoSpace, 0)), member(2, alarm(AlarmNoSpace, 0))}, "m2 m1", nil},
		{"not even then when it is corrupt", []MemberStatus{
			member(1, alarm(AlarmNoSpace, 0)), member(2, func(s *MemberStatus) { s.Alarms = []Alarm{{0, AlarmNoSpace}, {2, AlarmCorrupt}} }),
		}, "m1", map[string]string{"m2": "CORRUPT"}},
		{"two clusters", []MemberStatus{member(1, nil), member(2, func(s *MemberStatus) { s.ClusterID = 8 })}, "",
			map[string]string{"m1": "different clusters", "m2": "different clusters"}},
		{"two ways to one member", []MemberStatus{
			member(1, nil), member(1, func(s *MemberStatus) { s.Endpoint, s.Name = "http://again", "again" }),
		}, "m1", map[string]string{"again": "the same member as http://b"}},
		{"nothing at all", nil, "", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			usable, rejected := Choose(tc.all)
			var got []string
			for _, s := range usable {
				got = append(got, s.Name)
			}
			if strings.Join(got, " ") != tc.want {
				t.Errorf("usable %v, want %s", got, tc.want)
			}
			if len(rejected) != len(tc.rejected) {
				t.Errorf("rejected %+v, want %v", rejected, tc.rejected)
			}
			for _, r := range rejected {
				if !strings.Contains(r.Why, tc.rejected[r.Name]) {
					t.Errorf("%s was rejected because %q, want %q", r.Name, r.Why, tc.rejected[r.Name])
				}
			}
		})
	}
}

func TestUnusableListsEveryEndpointAndMatchesItsErrors(t *testing.T) {
	_, rejected := Choose([]MemberStatus{
		{Endpoint: "http://a", Err: &Error{What: "connection refused", Err: ErrUnreachable}},
		{Endpoint: "http://b", Name: "etcd2", MemberID: 2},
	})
	err := error(&Unusable{Rejected: rejected})
	for _, part := range []string{"http://a: connection refused", "http://b (etcd2): it has no leader", "try: etcdctl"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
	if !errors.Is(err, ErrUnreachable) {
		t.Error("the cause of one endpoint's silence is lost")
	}
}

func TestParseAlarms(t *testing.T) {
	got := parseAlarms([]string{
		"etcdserver: no leader",
		"memberID:10501334649042878790 alarm:NOSPACE ",
		"memberID:10501334649042878790  alarm:NOSPACE",
		"alarm:CORRUPT",
		"memberID:99999999999999999999999 alarm:CORRUPT",
	})
	want := []Alarm{{10501334649042878790, AlarmNoSpace}, {0, AlarmCorrupt}, {1<<64 - 1, AlarmCorrupt}}
	if !slices.Equal(got, want) {
		t.Errorf("alarms %v, want %v", got, want)
	}
}

func TestCompare(t *testing.T) {
	base := Hash{Hash: 1, CompactRevision: 5, Revision: 9}
	for _, tc := range []struct {
		other Hash
		want  Comparison
	}{
		{base, Equal},
		{Hash{2, 5, 9}, Different},
		{Hash{1, 6, 9}, Incomparable},
		{Hash{1, 5, 8}, Incomparable},
	} {
		if got, why := base.Compare(tc.other); got != tc.want || why == "" {
			t.Errorf("%+v against %+v: %v (%q), want %v with a reason", base, tc.other, got, why, tc.want)
		}
	}
}

func TestPrefixEnd(t *testing.T) {
	for prefix, want := range map[string]string{"a": "b", "a\xff": "b", "\xff\xff": "\x00", "": "\x00", "/x/": "/x0"} {
		if got := string(prefixEnd(prefix)); got != want {
			t.Errorf("the end of prefix %q is %q, want %q", prefix, got, want)
		}
	}
}

func TestDialRefusesWhatIsNoEndpoint(t *testing.T) {
	for _, tc := range []struct {
		o    Options
		want string
	}{
		{Options{}, "no etcd endpoint"},
		{Options{Endpoints: []string{"ftp://h:1"}}, `"ftp"`},
		{Options{Endpoints: []string{"http://h:1/x"}}, "not a client URL"},
		{Options{Endpoints: []string{"http://u:p@h:1"}}, "not a client URL"},
		{Options{Endpoints: []string{"http://"}}, "not a client URL"},
		{Options{Endpoints: []string{"h:1"}, Username: "root"}, "one is given without the other"},
	} {
		c, err := Dial(tc.o)
		if err == nil {
			c.Close()
			t.Errorf("%v was accepted", tc.o)
		} else if !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v: %q, want %q", tc.o, err, tc.want)
		}
	}
}

package health_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/health"
)

// What real members tell, whole, with one of them down, and with an alarm.
func TestObserve(t *testing.T) {
	servers := etcdtest.StartCluster(t, etcdtest.Options{TLS: true})
	c, err := cluster.Dial(cluster.Options{Endpoints: servers.Endpoints(), TLS: servers.Certs.ClientTLS(servers.Certs.Client), DialTimeout: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	names := func(o health.Observation) string {
		var all []string
		for _, p := range health.Judge("dcs", o, health.Thresholds{Margin: 1, ClockSkew: time.Minute, CertificateWarning: time.Hour}) {
			all = append(all, string(p.Severity)+" "+p.Name)
		}
		return strings.Join(all, ", ")
	}
	// On a busy machine a member may be late, and an election under way: one look that is right is enough.
	eventually := func(what string, right func(o health.Observation) bool) {
		t.Helper()
		for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
			o, err := health.Observe(t.Context(), c, health.TakeLook(t.Context(), c, time.Now()), time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if right(o) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %q, %+v", what, names(o), o)
			}
		}
	}

	eventually("a whole cluster", func(o health.Observation) bool {
		margin, known := o.Margin()
		return o.Voters == 3 && o.Healthy == 3 && margin == 1 && known && o.Leader == servers.Leader(t).Name && len(o.ClusterIDs) == 1 && o.Revision > 0 && o.RaftTerm > 0 &&
			!o.ClientCertificate.IsZero() && len(o.Members) == 3 && names(o) == "" && !slices.ContainsFunc(o.Members, func(m health.Member) bool {
			return !m.Healthy || !m.Answered || m.QuotaBytes == 0 || m.DBBytes == 0 || m.InUseBytes == 0 || m.SkewSeconds == nil || m.Certificate.Before(time.Now())
		})
	})

	servers.RaiseAlarm(t, servers.Members[0], pb.AlarmType_NOSPACE)
	follower := servers.Followers(t)[0]
	follower.Kill(t)
	eventually("with one member down and an alarm", func(o health.Observation) bool {
		margin, _ := o.Margin()
		return o.Voters == 3 && o.Healthy == 2 && margin == 0 && o.Leader != "" && names(o) == "warning member_down, warning quorum, critical no_space"
	})
}

package health_test

import (
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
	observe := func() health.Observation {
		t.Helper()
		o, err := health.Observe(t.Context(), c, health.TakeLook(t.Context(), c, time.Now()), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	names := func(o health.Observation) string {
		var all []string
		for _, p := range health.Judge("dcs", o, health.Thresholds{Margin: 1, ClockSkew: time.Minute, CertificateWarning: time.Hour}) {
			all = append(all, string(p.Severity)+" "+p.Name)
		}
		return strings.Join(all, ", ")
	}

	o := observe()
	margin, known := o.Margin()
	if o.Voters != 3 || o.Healthy != 3 || margin != 1 || !known || o.Leader != servers.Leader(t).Name || len(o.ClusterIDs) != 1 || o.Revision == 0 || o.RaftTerm == 0 || o.ClientCertificate.IsZero() {
		t.Errorf("a whole cluster: %+v", o)
	}
	for _, m := range o.Members {
		if !m.Healthy || !m.Answered || m.QuotaBytes == 0 || m.DBBytes == 0 || m.InUseBytes == 0 || m.SkewSeconds == nil || m.Certificate.Before(time.Now()) {
			t.Errorf("a member of it: %+v", m)
		}
	}
	if got := names(o); got != "" {
		t.Errorf("a whole cluster has %s", got)
	}

	servers.RaiseAlarm(t, servers.Members[0], pb.AlarmType_NOSPACE)
	follower := servers.Followers(t)[0]
	follower.Kill(t)
	o = observe()
	if margin, _ := o.Margin(); o.Voters != 3 || o.Healthy != 2 || margin != 0 || o.Leader == "" {
		t.Errorf("with one member down: %+v", o)
	}
	if got := names(o); got != "warning member_down, warning quorum, critical no_space" {
		t.Errorf("with one member down and an alarm: %s", got)
	}
}

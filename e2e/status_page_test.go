package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/internal/service"
)

// statuses are what serve may have to say, with texts as long and as strange as they come.
func statuses() map[string]service.Status {
	now := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) *time.Time { t := now.Add(-d); return &t }
	count := func(n int) *int { return &n }
	next := map[service.Kind]time.Time{service.Snapshot: now.Add(37 * time.Minute), service.Verify: now.Add(18 * time.Hour), service.Drill: now.Add(40 * 24 * time.Hour)}
	both := []service.StoreState{{Name: "main", OK: true}, {Name: "offsite", OK: true}}
	calm := func(name string) service.ClusterState {
		return service.ClusterState{Cluster: name, Role: service.Leader, Next: next, Backups: count(96), Newest: "bw3p7e7ggvd4", Time: ago(23 * time.Minute), Revision: 1_482_190_331, Verified: ago(8 * time.Minute),
			Drill: &service.DrillState{Time: now.AddDate(0, 0, -20), RPO: 1380, RTO: 28.4}, Stores: both, Listed: ago(4 * time.Minute)}
	}
	drilled := calm("dcs")
	drilled.Drilled, drilled.Drill = &service.Rehearsed{ID: "d4t7k2m9q0xv", Time: *ago(20 * time.Minute), OK: true}, &service.DrillState{Time: *ago(20 * time.Minute), RPO: 183, RTO: 28.4}
	well := service.Status{Now: now, Host: "backup-1.example.com", Version: "1.4.0", Metrics: true, Clusters: []service.ClusterState{drilled, calm("kube"), calm("payments-eu-central-1")}}

	troubled := well
	sick := calm("kubernetes-" + strings.Repeat("a-name-without-an-end-", 5))
	sick.Failed, sick.Drilled, sick.Verified, sick.Drill = 2, &service.Rehearsed{ID: "d4t7k2m9q0xw", Time: now.Add(-time.Hour)}, nil, nil
	sick.Stores = []service.StoreState{{Name: "main", OK: true}, {Name: strings.Repeat("offsite", 12)}}
	held := calm("held")
	held.Held = true
	none := service.ClusterState{Cluster: "new", Role: service.Orphan, Backups: count(0), Listed: ago(0), Stores: both}
	troubled.Clusters = []service.ClusterState{calm("dcs"), held, none, {Cluster: "other", Role: service.Follower}, {Cluster: "soon", Role: service.Leader}, sick}
	troubled.Alerts = []service.Alert{
		{Cluster: sick.Cluster, Since: *ago(3 * time.Hour), Problem: service.Problem{Name: "backup_age", Severity: service.Critical, What: "the newest backup is 3h old, and asked for is one each 90m", Advice: "see the log of serve for runs of kind snapshot"}},
		{Cluster: sick.Cluster, Since: *ago(time.Hour), Problem: service.Problem{Name: "drill_failed", Severity: service.Warning, What: "drill d4t7k2m9q0xw failed at step \"check\": found: " + strings.Repeat("0123456789abcdef", 12) + " <script>alert(1)</script>"}},
		{Since: *ago(time.Minute), Problem: service.Problem{Name: service.ReloadRefused, Severity: service.Critical, What: "the changed configuration is refused, the one before stays: line 3: unknown key nonsense", Advice: "correct it, try it with requorum config check, and reload again"}},
		{Cluster: "held", Since: *ago(time.Minute), Problem: service.Problem{Name: "access", Severity: service.Unknown, What: "cluster held cannot be watched"}},
	}
	many := well
	many.Clusters = nil
	for i := range 200 {
		many.Clusters = append(many.Clusters, calm(fmt.Sprintf("cluster-%03d", i)))
	}
	return map[string]service.Status{"well": well, "troubled": troubled, "many": many, "nothing": {Now: now, Host: "here", Down: "the service stops"}}
}

// The page of serve can be read on a phone and at a desk, in light and dark, without a network.
func TestStatusPage(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a browser")
	}
	b := newBrowser(t)
	for name, status := range statuses() {
		page, err := status.Page()
		if err != nil {
			t.Fatal(err)
		}
		b.inspectPage(page, "status "+name)
		want := map[string]string{"well": "No fault is known", "troubled": "2 critical, 1 warning, 1 unknown", "many": "No fault is known", "nothing": "Schedules are not followed"}[name]
		if got := ask[string](b, "document.querySelector('#headline').innerText"); got != want {
			t.Errorf("%s: the headline is %q, want %q", name, got, want)
		}
		if cards := ask[int](b, "document.querySelectorAll('section[data-cluster]').length"); cards != len(status.Clusters) {
			t.Errorf("%s: %d cards for %d clusters", name, cards, len(status.Clusters))
		}
		if every := ask[string](b, "document.querySelector('meta[http-equiv=refresh]').content"); every != "30" {
			t.Errorf("%s: the page is asked for anew every %q seconds", name, every)
		}
		if first := ask[string](b, "document.querySelector('section[data-cluster]')?.dataset.cluster ?? ''"); name == "troubled" && !strings.HasPrefix(first, "kubernetes-") {
			t.Errorf("the cluster with a critical fault is not the first one, but %s", first)
		}
	}
}

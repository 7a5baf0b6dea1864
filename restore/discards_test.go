package restore

import (
	"fmt"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// Most of the changes are named, all are counted, and many directories take no more room than some.
func TestChanges(t *testing.T) {
	var c changes
	event := func(key string, revision, lease int64) {
		c.add(&mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte(key), ModRevision: revision, Lease: lease}})
	}
	for i := range 3 {
		event("/service/members/a", int64(10+i), 7)
	}
	for i := range 10_000 {
		event(fmt.Sprintf("/many/%d/key", i), int64(1_000+i/2), 0) // two in each revision
	}
	event("plain", 30_000, 0)
	c.add(&mvccpb.Event{Type: mvccpb.DELETE, Kv: &mvccpb.KeyValue{Key: []byte("/many/0/key"), ModRevision: 30_001}})
	if c.revisions != 5_005 || len(c.dirs) > countedDirs+1 {
		t.Errorf("%d revisions, %d directories", c.revisions, len(c.dirs))
	}
	most := c.most()
	sum, listed := 0, ""
	for _, one := range most {
		sum += one.count()
		listed += one.String() + "\n"
	}
	if sum != 10_005 || len(most) != listedDirs+1 || most[0].Prefix != "/service/members/" || most[1].Prefix != "/many/0/" || most[listedDirs].Prefix != "" {
		t.Errorf("%d changes of 10005:\n%s", sum, listed)
	}
	var few changes
	few.add(&mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte("/service/members/a"), Lease: 7}})
	if got := few.most()[0].String(); got != `"/service/members/" (1 written under leases)` {
		t.Error(got)
	}
}

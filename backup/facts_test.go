package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/requorum/requorum/storage/catalog"
)

// keySpace is a KeyReader of given keys, each "key=lease".
type keySpace struct {
	keys   []*mvccpb.KeyValue
	leases map[int64]int64
}

func (k keySpace) Keys(prefix string) iter.Seq[*mvccpb.KeyValue] {
	return func(yield func(*mvccpb.KeyValue) bool) {
		for _, kv := range k.keys {
			if strings.HasPrefix(string(kv.Key), prefix) && !yield(kv) {
				return
			}
		}
	}
}
func (k keySpace) Lease(id int64) (int64, bool) { ttl, ok := k.leases[id]; return ttl, ok }
func (k keySpace) Revision() int64              { return 9 }

func keys(lease int64, names ...string) (out []*mvccpb.KeyValue) {
	for _, n := range names {
		out = append(out, &mvccpb.KeyValue{Key: []byte(n), Value: []byte("v\xff"), Lease: lease, CreateRevision: 3, ModRevision: 4})
	}
	return out
}

func TestLeasedPrefixes(t *testing.T) {
	kv := keySpace{leases: map[int64]int64{1: 30, 2: 7200}}
	kv.keys = append(kv.keys, keys(0, "/app/config")...)
	kv.keys = append(kv.keys, keys(1, "/app/locks/a")...)
	kv.keys = append(kv.keys, keys(2, "/app/locks/b")...)
	kv.keys = append(kv.keys, keys(7, "/orphan/x")...)
	kv.keys = append(kv.keys, keys(1, "/service/main/leader", "/service/main/members/m1")...)
	kv.keys = append(kv.keys, keys(2, "bare")...)
	owner := func(key string) string {
		if strings.HasPrefix(key, "/service/main/") {
			return "patroni /service/main"
		}
		return ""
	}
	var got []string
	prefixes := leasedPrefixes(kv, owner, []string{"bare"})
	for _, p := range prefixes {
		got = append(got, fmt.Sprintf("%s %d %d-%d %s", p.Prefix, p.Count, p.TTLMin, p.TTLMax, p.Agent))
	}
	want := []string{
		"/app/locks/ 2 30-7200 ", "/orphan/ 1 0-0 ", "/service/main/ 1 30-30 patroni /service/main",
		"/service/main/members/ 1 30-30 patroni /service/main", "bare 1 7200-7200 ",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("leased prefixes:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if o := prefixes[0].Owners[1]; o.Key != "/app/locks/b" || o.Lease != "2" || o.TTL != 7200 || o.Value != "v\uFFFD" || o.CreateRevision != 3 || o.ModRevision != 4 {
		t.Errorf("owner %+v", o)
	}
	warnings := strings.Join(leasedWarnings(prefixes, []string{"bare"}), "\n")
	if !strings.Contains(warnings, `"/app/locks/"`) || !strings.Contains(warnings, "2h") || strings.Count(warnings, "\n") != 0 {
		t.Errorf("warnings, of which /app/locks/ alone deserves one: %s", warnings)
	}
}

func TestFactsStayBounded(t *testing.T) {
	kv := keySpace{leases: map[int64]int64{1: 30}}
	for i := range 3 * maxPrefixes {
		kv.keys = append(kv.keys, keys(1, fmt.Sprintf("/a/b%d/c%d/d", i%10, i), fmt.Sprintf("/a/b%d/c%d/e", i%10, i))...)
	}
	prefixes := leasedPrefixes(kv, nil, nil)
	if len(prefixes) != 10 || prefixes[0].Prefix != "/a/b0/" || prefixes[0].Count != 2*3*maxPrefixes/10 {
		t.Fatalf("%d prefixes, the first %+v", len(prefixes), prefixes[0])
	}
	if p := prefixes[0]; len(p.Owners) != maxOwners || p.Truncated != p.Count-maxOwners {
		t.Errorf("%d owners and %d more of %d", len(p.Owners), p.Truncated, p.Count)
	}
	kv.keys = nil
	for i := range 2 * maxPrefixes {
		kv.keys = append(kv.keys, keys(1, fmt.Sprintf("k%d", i))...)
	}
	if prefixes = leasedPrefixes(kv, nil, nil); len(prefixes) != 1 || prefixes[0].Prefix != "" || prefixes[0].Count != 2*maxPrefixes {
		t.Errorf("flat keys in %d groups, the first %+v", len(prefixes), prefixes[0])
	}
}

func TestObservationsThatFailCostOnlyThemselves(t *testing.T) {
	kv := keySpace{keys: keys(1, "/a"), leases: map[int64]int64{1: 30}}
	a := Agents{Observe: func(context.Context, KeyReader) ([]catalog.AgentFacts, error) {
		return []catalog.AgentFacts{{Name: "good", Data: json.RawMessage(`{}`)}}, errors.New("the other is broken")
	}}
	facts, warnings := a.makeFacts(t.Context(), kv)
	if len(facts.Leased) != 1 || len(facts.Agents) != 1 || len(warnings) != 1 || !strings.Contains(warnings[0], "the other is broken") {
		t.Errorf("facts %+v, warnings %q", facts, warnings)
	}
}

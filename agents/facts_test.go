package agents_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/agents/agentstest"
	"github.com/requorum/requorum/storage/catalog"
)

func TestFacts(t *testing.T) {
	kv := agentstest.NewBackup().Grant(1, 30).Grant(2, 60).
		Put("/svc/leader", "db1", 1).Put("/svc/plain", "", 0).
		Put("/other/a", strings.Repeat("x", 1000)+"\xff", 2)
	for i := range 50 {
		kv.Put(fmt.Sprintf("/many/%02d", i), "", 2)
	}
	facts, err := agents.Facts(t.Context(), kv, []agents.Configured{{
		Name: "one", Kind: "fake",
		// A question is no error for a backup: it is asked at a restore.
		Agent: questioner{fake{edits: []agents.Edit{{Key: "/svc/leader", Group: "/svc/"}}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if len(facts.Agents) != 1 || facts.Agents[0].Name != "one" || facts.Agents[0].Kind != "fake" {
		t.Errorf("agents: %+v", facts.Agents)
	}
	if len(facts.Leased) != 3 {
		t.Fatalf("prefixes: %+v", facts.Leased)
	}
	many, other, svc := facts.Leased[0], facts.Leased[1], facts.Leased[2]
	if many.Prefix != "/many/" || many.Count != 50 || len(many.Owners)+many.Truncated != 50 || many.Truncated == 0 {
		t.Errorf("/many/: %+v", many)
	}
	if other.TTLMin != 60 || other.TTLMax != 60 || other.Agent != "" || len(other.Owners[0].Value) > 200 {
		t.Errorf("/other/: %+v", other)
	}
	if svc.Agent != "one" || svc.Owners[0].Value != "db1" || svc.Owners[0].Lease != "0000000000000001" {
		t.Errorf("/svc/: %+v", svc)
	}
	b, err := json.Marshal(facts)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := catalog.ParseFacts(b); err != nil {
		t.Errorf("the catalog does not take what a backup writes: %v", err)
	}
}

type questioner struct{ fake }

func (q questioner) Edits(agents.Reader, agents.Options) ([]agents.Edit, error) {
	return q.edits, agents.Refusal{What: "what now", Flag: "--flag"}
}

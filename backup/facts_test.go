package backup

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/requorum/requorum/storage/catalog"
)

// A broken agent must cost its own facts, never the backup.
func TestFactsThatFailCostOnlyThemselves(t *testing.T) {
	a := Agents{Facts: func(context.Context, KeyReader) (catalog.Facts, []string, error) {
		return catalog.Facts{Format: catalog.Format, Agents: []catalog.AgentFacts{{Name: "good"}}}, []string{"early word"}, errors.New("the other is broken")
	}}
	facts, warnings := a.makeFacts(t.Context(), nil)
	if len(facts.Agents) != 1 || len(warnings) != 2 || warnings[0] != "early word" || !strings.Contains(warnings[1], "the other is broken") {
		t.Errorf("facts %+v, warnings %q", facts, warnings)
	}
	if facts, warnings = (Agents{}).makeFacts(t.Context(), nil); facts.Format != catalog.Format || len(warnings) != 0 {
		t.Errorf("without agents: facts %+v, warnings %q", facts, warnings)
	}
}

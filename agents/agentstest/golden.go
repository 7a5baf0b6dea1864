package agentstest

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/requorum/requorum/agents"
)

// Plan writes a decision as text, for golden files.
func Plan(d agents.Decision) string {
	var b strings.Builder
	for _, e := range d.Edits {
		if e.Value == nil {
			fmt.Fprintf(&b, "remove %s [%s] %s: %s\n", e.Key, e.Group, e.Agent, e.Reason)
		} else {
			fmt.Fprintf(&b, "write  %s [%s] %s: %s\n       %s\n", e.Key, e.Group, e.Agent, e.Reason, e.Value)
		}
	}
	for _, e := range d.Kept {
		fmt.Fprintf(&b, "keep   %s [%s] %s: %s\n", e.Key, e.Group, e.Agent, e.Reason)
	}
	for _, id := range d.DropLeases {
		fmt.Fprintf(&b, "drop lease %x\n", id)
	}
	for _, g := range d.Removed {
		fmt.Fprintf(&b, "removed %d under %s (TTL %d-%d s) %s: %s\n", g.Count, g.Prefix, g.TTLMin, g.TTLMax, g.Agent, g.Reason)
	}
	for _, g := range d.KeptLeased {
		fmt.Fprintf(&b, "kept %d under %s (TTL %d-%d s) %s: %s\n", g.Count, g.Prefix, g.TTLMin, g.TTLMax, g.Agent, g.Reason)
	}
	for _, r := range d.Refusals {
		fmt.Fprintf(&b, "REFUSED %s\n  risk: %s\n  flag: %s\n", r.What, r.Risk, r.Flag)
	}
	for _, n := range d.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	return strings.ReplaceAll(b.String(), " : ", ": ")
}

// Golden compares got with testdata/<name>.golden of the package under test.
// With -update it writes the file instead.
func Golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if f := flag.Lookup("update"); f != nil && f.Value.String() == "true" {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("differs from %s (after a wanted change: go test -update)\n--- got\n%s--- want\n%s", file, got, want)
	}
}

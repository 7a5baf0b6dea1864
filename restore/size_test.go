package restore

import (
	"slices"
	"testing"
)

// A host of 32 bits takes what it can open, and no more: otherwise a restore would end after everything had been sent there.
func TestSmallHost(t *testing.T) {
	r := &Restorer{Options: Options{Members: []Placed{{Member: Member{Name: "small"}}, {Member: Member{Name: "large"}}}}}
	o := &observed{states: map[string]State{"small": {MaxDatabase: 1 << 31}, "large": {}}}
	failed := func(size int64) (members []string) {
		for _, c := range r.hostChecks(o, size) {
			if c.Name == "architecture" && c.Status == CheckFailed {
				members = append(members, c.Member)
			}
		}
		return members
	}
	if got := failed(1 << 31); got != nil {
		t.Errorf("a database that fits is refused on %v", got)
	}
	if got := failed(1<<31 + 1); !slices.Equal(got, []string{"small"}) {
		t.Errorf("a database that is too large is refused on %v", got)
	}
}

package restore

import (
	"testing"
	"time"

	"github.com/requorum/requorum/storage/catalog"
)

// A cluster at rest keeps its revision from backup to backup: the one that was taken before the chosen one is the older one.
func TestCandidatesAtOneRevision(t *testing.T) {
	at := time.Date(2026, 11, 22, 5, 55, 0, 0, time.UTC)
	snap := func(id string, revision int64, minute int) catalog.Snapshot {
		return catalog.Snapshot{Line: "l1", ID: id, Revision: revision, Time: at.Add(time.Duration(minute) * time.Minute), Stores: []string{"main"}}
	}
	snaps := []catalog.Snapshot{snap("b1", 22, 0), snap("b2", 23, 1), snap("b3", 23, 2), snap("b4", 23, 3)}
	why := map[string]string{}
	for _, c := range candidates([]catalog.Line{{Line: "l1", Time: at}}, snaps, snaps[2]) {
		why[c.ID] = c.Why
	}
	for id, want := range map[string]string{"b1": "older", "b2": "older", "b3": "chosen", "b4": "newer than what was asked for"} {
		if why[id] != want {
			t.Errorf("%s is %q, want %q", id, why[id], want)
		}
	}
}

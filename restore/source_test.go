package restore

import (
	"testing"
	"time"

	"github.com/requorum/requorum/storage/catalog"
)

func TestLastServed(t *testing.T) {
	at := time.Date(2026, 11, 22, 5, 55, 0, 0, time.UTC)
	seen := func(kind, snapshot string, after time.Duration) catalog.Run {
		return catalog.Run{ID: kind, Kind: kind, Snapshot: snapshot, Seen: &catalog.Seen{Time: at.Add(after)}}
	}
	snaps := []catalog.Snapshot{{ID: "b1", Time: at}, {ID: "imported", Line: "l2", Time: at.Add(time.Hour)}}
	lines := []catalog.Line{{Line: "l2", Source: catalog.LineImport}}
	for _, c := range []struct {
		name string
		runs []catalog.Run
		want time.Duration
	}{
		{"a backup's own record is no later evidence", []catalog.Run{seen("backup", "b1", time.Second)}, 0},
		{"another backup's is", []catalog.Run{seen("backup", "b2", time.Minute)}, time.Minute},
		{"so is a restore of this backup, which saw the new line", []catalog.Run{seen("restore", "b1", time.Minute)}, time.Minute},
		{"a run that saw nothing is not", []catalog.Run{{ID: "r", Kind: "verify"}}, 0},
	} {
		k := &known{snaps: snaps, lines: lines, runs: c.runs}
		if got := k.lastServed("b1"); !got.Time.Equal(at.Add(c.want)) {
			t.Errorf("%s: %s after the backup (%s), expected %s", c.name, got.Time.Sub(at), got.Basis, c.want)
		}
	}
}

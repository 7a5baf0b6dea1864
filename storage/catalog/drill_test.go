package catalog

import (
	"testing"
	"time"
)

// A key that is read wrongly would hide a report, or show one that is none.
func TestDrillKeys(t *testing.T) {
	d := Drill{ID: "d0123456789a", Time: time.Date(2026, 11, 22, 5, 55, 1, 999, time.UTC)}
	if err := d.Check(); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{DrillJSON, DrillHTML, DrillSignature} {
		got, f, ok := ParseDrillKey(d.Key(file))
		if !ok || f != file || got.ID != d.ID || !got.Time.Equal(d.Time.Truncate(time.Second)) {
			t.Errorf("%s: %+v %q %v", d.Key(file), got, f, ok)
		}
	}
	for _, key := range []string{"", "drills/", "drills/20261122T055501Z-d0123456789a", "drills/20261122T055501Z-d0123456789a.json.sig",
		"drills/20261122T055501Z-r0123456789a.json", "drills/20261122T055501-d0123456789a.json", "runs/20261122T055501Z-d0123456789a.json", "drills/20261399T055501Z-d0123456789a.json"} {
		if _, _, ok := ParseDrillKey(key); ok {
			t.Errorf("%q passes for the key of a report", key)
		}
	}
	if (Drill{ID: "r0123456789a", Time: d.Time}).Check() == nil {
		t.Error("the id of a run passes for that of a drill")
	}
}

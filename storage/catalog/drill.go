package catalog

import (
	"fmt"
	"strings"
	"time"
)

// DrillsPrefix is where the reports of drills are.
const DrillsPrefix = "drills/"

// The files of a drill's report. The report exists when its JSON does, which is written last.
const (
	DrillJSON      = "json"
	DrillHTML      = "html"
	DrillSignature = "sig" // 64 bytes of ed25519 over the JSON
)

// Drill is a drill as the keys of its report tell it.
type Drill struct {
	ID   string
	Time time.Time // when it started, UTC; in keys in whole seconds
}

// Key returns the key of one file of the report.
func (d Drill) Key(file string) string {
	return DrillsPrefix + formatTime(d.Time) + "-" + d.ID + "." + file
}

// Check returns an error unless d makes valid keys.
func (d Drill) Check() error {
	if err := CheckID(KindDrill, d.ID); err != nil {
		return err
	}
	if got, _, ok := ParseDrillKey(d.Key(DrillJSON)); !ok || got.ID != d.ID {
		return fmt.Errorf("drill %s: %q is not a valid key", d.ID, d.Key(DrillJSON))
	}
	return nil
}

// ParseDrillKey takes a key below [DrillsPrefix] apart.
func ParseDrillKey(key string) (d Drill, file string, ok bool) {
	rest, found := strings.CutPrefix(key, DrillsPrefix)
	if !found || len(rest) <= len(TimeLayout) || rest[len(TimeLayout)] != '-' {
		return Drill{}, "", false
	}
	if d.Time, ok = parseTime(rest[:len(TimeLayout)]); !ok {
		return Drill{}, "", false
	}
	d.ID, file, ok = strings.Cut(rest[len(TimeLayout)+1:], ".")
	if !ok || CheckID(KindDrill, d.ID) != nil || file != DrillJSON && file != DrillHTML && file != DrillSignature {
		return Drill{}, "", false
	}
	return d, file, true
}

package restore

import (
	"context"
	"fmt"
	"slices"

	"github.com/requorum/requorum/storage/catalog"
)

// drillCheck says what the latest drill found about the stored backup that was chosen; nothing if there was none. A drill that found its data wrong is
// a warning: the restore compares every byte itself, and whoever has nothing better must not be kept from it.
func (r *Restorer) drillCheck(ctx context.Context, known *known, src *source) []Check {
	if src == nil || src.Kind != "store" {
		return nil
	}
	i := slices.IndexFunc(known.snaps, func(s catalog.Snapshot) bool { return s.ID == src.ID })
	if i < 0 || !known.snaps[i].Drilled.Known() {
		return nil
	}
	chosen := known.snaps[i]
	check := Check{Name: "drill", Status: CheckOK, Detail: fmt.Sprintf("backup %s was restored in drill %s at %s", chosen.ID, chosen.Drilled.ID, stamp(chosen.Drilled.Time))}
	if !chosen.Drilled.Failed {
		return []Check{check}
	}
	why, err := r.origin().DrillFailure(ctx, chosen.Drilled.Drill)
	if err != nil {
		why = "why is in its report, for the record cannot be read: " + err.Error()
	}
	check.Status = CheckWarning
	check.Detail = fmt.Sprintf("the latest drill of backup %s, %s at %s, failed: %s; ", chosen.ID, chosen.Drilled.ID, stamp(chosen.Drilled.Time), why)
	if better := passed(known.snaps, chosen); better != nil {
		check.Detail += fmt.Sprintf("the newest backup that a drill restored is %s of %s, revision %d: --at %s", better.ID, stamp(better.Time), better.Revision, better.ID)
	} else {
		check.Detail += "no other backup was restored in a drill"
	}
	return []Check{check}
}

// passed is the newest backup whose latest drill restored it, of the line of chosen if there is one; nil if there is none.
func passed(snaps []catalog.Snapshot, chosen catalog.Snapshot) (best *catalog.Snapshot) {
	for _, s := range snaps { // the oldest first
		if s.Failed() || s.Drilled.Failed || !s.Drilled.Known() || best != nil && best.Line == chosen.Line && s.Line != chosen.Line {
			continue
		}
		best = &s
	}
	return best
}

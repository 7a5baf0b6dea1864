package catalog

import (
	"slices"
	"testing"
)

// What schedules, restores and auditors ask for must stay, and what comes all the time must not pile up.
func TestSpent(t *testing.T) {
	var runs []Run
	for _, r := range [][3]string{
		{"r1", "backup", "ok"}, {"r2", "backup", "failed"}, {"r3", "restore", "ok"}, {"r4", "backup", "ok"}, {"r5", "watch", "ok"}, {"r6", "restore", "ok"}, {"r7", "watch", "ok"},
		{"r8", "drill", "failed"}, {"r9", "drill", "failed"}, {"r10", "verify", "cancelled"}, {"r11", "expire", "ok"}, {"r12", "verify", "ok"}, {"r13", "expire", "ok"}, {"r14", "something", "ok"}, {"r15", "something", "ok"},
	} {
		runs = append(runs, Run{ID: r[0], Kind: r[1], Outcome: r[2]})
	}
	var spent []string
	for _, r := range Spent(runs) {
		spent = append(spent, r.ID)
	}
	if want := []string{"r1", "r5", "r11"}; !slices.Equal(spent, want) {
		t.Errorf("%q may go, want %q: the newest of each kind and outcome stays, and so does what people began", spent, want)
	}
}

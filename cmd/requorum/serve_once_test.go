package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/requorum/requorum/internal/claim"
)

// What a killed process left of a trial start is removed; what a living one holds is not.
func TestSweepTrials(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "trial-1", "data", "member")
	other := filepath.Join(dir, "restore-run.db")
	for _, d := range []string{dead, other} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	held, err := claim.Dir(dir, trialPrefix)
	if err != nil {
		t.Fatal(err)
	}
	sweepTrials(dir)
	if _, err := os.Stat(filepath.Join(dir, "trial-1")); !os.IsNotExist(err) {
		t.Errorf("what a dead process left is still there (%v)", err)
	}
	for _, d := range []string{held.Name(), other} {
		if _, err := os.Stat(d); err != nil {
			t.Error(err)
		}
	}
	if err := held.Close(); err != nil { // as the end of the process does
		t.Fatal(err)
	}
	sweepTrials(dir)
	if _, err := os.Stat(held.Name()); !os.IsNotExist(err) {
		t.Errorf("nobody holds %s any more, and it is still there (%v)", held.Name(), err)
	}
}

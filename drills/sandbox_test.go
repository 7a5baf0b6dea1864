package drills

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// A sweep removes what dead drills left, and nothing of those that live, nor of anybody else.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	living, err := newSandbox(dir, "d0000000000a", []string{"a", "b"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	dead, err := newSandbox(dir, "d0000000000b", []string{"a"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dead.places[0].Dir, "etcd.log"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := dead.lock.Close(); err != nil { // as the end of its process does
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "restore-r0000000000a.lock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	Sweep(t.Context(), dir, log)
	there := func() (names []string) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	if got, want := there(), []string{"drill-d0000000000a", "drill-d0000000000a.lock", "restore-r0000000000a.lock"}; !slices.Equal(got, want) {
		t.Errorf("%q is left, want %q", got, want)
	}
	if _, err := newSandbox(dir, "d0000000000a", []string{"a"}, 0); err == nil {
		t.Error("two drills share a sandbox")
	}
	if err := living.remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	Sweep(t.Context(), dir, log)
	if got := there(); !slices.Equal(got, []string{"restore-r0000000000a.lock"}) {
		t.Errorf("%q is left", got)
	}
}

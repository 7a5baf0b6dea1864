package local

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/requorum/requorum/restore"
)

func twoRenames(a, b string) (bool, error) { return false, nil }

// From every state that a crash can leave, with and without an atomic exchange, forward ends with the new directory in place and the
// old one kept, backward with everything as it was; the directory in place is never missing where the file system can exchange.
func TestExchangeFromEveryState(t *testing.T) {
	states := map[string][3]string{ // what is at live, staged, before
		"not begun":                     {"old", "new", ""},
		"exchanged, final name missing": {"new", "old", ""},
		"between two renames":           {"", "new", "old"},
		"exchanged":                     {"new", "", "old"},
		"on the way back, name missing": {"old", "", "new"},
		"nothing was there, not begun":  {"", "new", "-"},
		"nothing was there, exchanged":  {"new", "", "-"},
	}
	for name, state := range states {
		for how, exchange := range map[string]func(a, b string) (bool, error){"atomic": swap, "two renames": twoRenames} {
			t.Run(name+", "+how, func(t *testing.T) {
				build := func() restore.Unit {
					dir := t.TempDir()
					u := restore.Unit{Live: filepath.Join(dir, "d"), Staged: filepath.Join(dir, "d.staged-r"), Before: filepath.Join(dir, "d.before-r")}
					for i, path := range []string{u.Live, u.Staged, u.Before} {
						if state[i] == "" || state[i] == "-" {
							continue
						}
						if err := os.MkdirAll(filepath.Join(path, state[i]), 0o700); err != nil {
							t.Fatal(err)
						}
						id, err := identify(path)
						if err != nil {
							t.Fatal(err)
						}
						if state[i] == "old" {
							u.Old = id
						} else {
							u.New = id
						}
					}
					return u
				}
				u := build()
				if err := forward(u, exchange); err != nil {
					t.Fatalf("forward: %v", err)
				}
				holds(t, u.Live, "new")
				holds(t, u.Staged, "")
				if u.Old != "" {
					holds(t, u.Before, "old")
				}
				u = build()
				if err := backward(u, exchange); err != nil {
					t.Fatalf("backward: %v", err)
				}
				holds(t, u.Staged, "new")
				holds(t, u.Before, "")
				if u.Old != "" {
					holds(t, u.Live, "old")
				} else {
					holds(t, u.Live, "")
				}
			})
		}
	}
}

// holds fails the test unless the directory at path is the one of that name; "" means none.
func holds(t *testing.T, path, name string) {
	t.Helper()
	if name == "" {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s exists: %v", path, err)
		}
		return
	}
	if _, err := os.Stat(filepath.Join(path, name)); err != nil {
		t.Errorf("%s is not the %s one: %v", path, name, err)
	}
}

// A directory that somebody else put in the way is neither moved nor replaced.
func TestExchangeRefusesStrangers(t *testing.T) {
	dir := t.TempDir()
	u := restore.Unit{Live: filepath.Join(dir, "d"), Staged: filepath.Join(dir, "d.staged-r"), Before: filepath.Join(dir, "d.before-r")}
	for _, path := range []string{u.Live, u.Staged} {
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if u.Old, err = identify(u.Live); err != nil {
		t.Fatal(err)
	}
	if u.New, err = identify(u.Staged); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(u.Live); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(u.Live, "stranger"), 0o700); err != nil {
		t.Fatal(err)
	}
	if id, _ := identify(u.Live); id == u.Old {
		t.Fatal("a directory made anew has the identity of the one that was removed")
	}
	for name, move := range map[string]mover{"forward": forward, "backward": backward} {
		if err := move(u, swap); err == nil {
			t.Errorf("%s moved a directory that is neither the old nor the staged one", name)
		}
	}
	holds(t, u.Live, "stranger")

	p := &place{}
	where, _, err := p.placeOf(restore.Here{Units: []restore.Unit{u}, SwapBegun: time0.Add(1)})
	if err != nil || where != restore.PlaceUnknown {
		t.Errorf("the place is %q, %v", where, err)
	}
}

var time0 = time.Date(2026, 11, 22, 5, 55, 0, 0, time.UTC)

package claim_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/requorum/requorum/internal/claim"
)

// What nobody holds any more is swept; what is held, and what does not match, stays. A directory's own name is no pattern.
func TestSweep(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a[b")
	for _, name := range []string{"trial-1/data", "other"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	made, err := claim.Dir(dir, "trial-")
	if err != nil {
		t.Fatal(err)
	}
	file, err := claim.File(filepath.Join(dir, "trial-file"))
	if err != nil {
		t.Fatal(err)
	}
	sweep := func() (swept []string) {
		claim.Sweep(dir, "trial-*", func(path string) {
			swept = append(swept, path)
			if err := os.RemoveAll(path); err != nil {
				t.Error(err)
			}
		})
		return swept
	}
	if swept := sweep(); len(swept) != 1 || swept[0] != filepath.Join(dir, "trial-1") {
		t.Errorf("swept %q, want what a dead process left, trial-1", swept)
	}
	for _, f := range []*os.File{made, file} { // as the end of the process does
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if swept := sweep(); len(swept) != 2 {
		t.Errorf("swept %q, want %s and %s, which nobody holds any more", swept, made.Name(), file.Name())
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 || left[0].Name() != "other" {
		t.Errorf("%v are left, want other (%v)", left, err)
	}
}

func TestHeld(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	f, err := claim.File(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if again, err := claim.File(path); !errors.Is(err, claim.ErrHeld) {
		t.Errorf("claimed twice: %v, %v", again, err)
	}
}

// However claims and sweeps meet, a claim that was given is good: nobody else has it, and nobody removes what is claimed.
func TestClaimsMeetSweeps(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "lock")
	var holders atomic.Int32
	var claims, sweeps sync.WaitGroup
	ended := make(chan struct{})
	for range 3 {
		sweeps.Go(func() {
			for {
				select {
				case <-ended:
					return
				default:
					claim.Sweep(dir, "lock", func(path string) {
						if holders.Load() != 0 {
							t.Error("a sweep was given what is claimed")
						}
						if err := os.Remove(path); err != nil {
							t.Error(err)
						}
					})
				}
			}
		})
		claims.Go(func() {
			for range 200 {
				f, err := claim.File(path)
				if errors.Is(err, claim.ErrHeld) {
					continue // by others all the time
				}
				if err != nil {
					t.Error(err)
					return
				}
				if holders.Add(1) != 1 {
					t.Error("two have the claim")
				}
				if now, err := os.Stat(path); err != nil {
					t.Error(err)
				} else if mine, err := f.Stat(); err != nil || !os.SameFile(mine, now) {
					t.Errorf("what is claimed is not what has the name any more (%v)", err)
				}
				holders.Add(-1)
				if err := f.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	claims.Wait()
	close(ended)
	sweeps.Wait()
}

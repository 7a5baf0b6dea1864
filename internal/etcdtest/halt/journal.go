package halt

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A Journal is what a run of requorum left on a host, as far as tests look at it.
type Journal struct {
	Run  string
	Plan struct {
		Steps []struct {
			Kind string
			Done time.Time
		}
	}
	Ended time.Time
}

// Journals are those in a directory in which requorum keeps what it knows of runs, by run.
func Journals(t testing.TB, dir string) map[string]Journal {
	t.Helper()
	found, err := journals(dir)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func journals(dir string) (map[string]Journal, error) {
	files, err := filepath.Glob(filepath.Join(dir, "r*.json"))
	if err != nil {
		return nil, err
	}
	found := map[string]Journal{}
	for _, f := range files {
		var j Journal
		if b, err := os.ReadFile(f); err == nil && json.Unmarshal(b, &j) == nil { // it may just have been removed
			found[j.Run] = j
		}
	}
	return found, nil
}

// done says whether a step is done; lock is when there is a journal.
func (j Journal) done(step string) bool {
	for _, s := range j.Plan.Steps {
		if s.Kind == step {
			return !s.Done.IsZero()
		}
	}
	return step == "lock"
}

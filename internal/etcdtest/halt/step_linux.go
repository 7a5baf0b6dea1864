package halt

import "testing"

// AfterStep halts the next run that has a step as done in its journals in all of the dirs, in which requorum keeps what it knows of runs, one for each
// member. Nothing of the step after it is done then on any, since every request begins with a look into its dir.
func AfterStep(t testing.TB, dirs []string, step string) *Point {
	t.Helper()
	known := map[string]bool{}
	for _, dir := range dirs {
		for run, j := range Journals(t, dir) {
			known[run] = known[run] || j.done(step)
		}
	}
	return When(t, dirs, func() bool {
		for _, dir := range dirs {
			all, err := journals(dir)
			if err != nil {
				return false
			}
			here := false
			for run, j := range all {
				here = here || !known[run] && j.done(step)
			}
			if !here {
				return false
			}
		}
		return true
	})
}

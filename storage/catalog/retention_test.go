package catalog

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files anew")

// taken names a backup of line n at a moment, with the seconds since 2020 as its revision.
func taken(line int, at time.Time) Snapshot {
	s := Snapshot{Line: fmt.Sprintf("l%011d", line), Time: at.UTC(), Committed: true, Modified: at.UTC().Add(time.Minute)}
	revision := int64(at.Sub(time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)) / time.Second)
	s.ID = fmt.Sprintf("b%d%010d", line%10, revision)
	s.DataRevision = revision
	return s.At(revision)
}

// every returns n backups of line 1, the last at until.
func every(step time.Duration, n int, until time.Time) []Snapshot {
	var snaps []Snapshot
	for i := range n {
		snaps = append(snaps, taken(1, until.Add(-time.Duration(n-1-i)*step)))
	}
	return snaps
}

func date(s string) time.Time {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		panic(err)
	}
	return t
}

func failedAt(s Snapshot, at time.Time) Snapshot {
	s.FailedAt = at
	return s
}

// TestDecideGolden holds whole decisions still, reasons included.
func TestDecideGolden(t *testing.T) {
	now := date("2026-11-22T06:10:00Z") // a Sunday
	design := Policy{Last: 24, Within: 48 * time.Hour, Hourly: 48, Daily: 7, Weekly: 5, Monthly: 12, Yearly: 3, Minimum: 3, OldLines: 90 * 24 * time.Hour}
	rebuilt := append(every(6*time.Hour, 30, date("2026-11-10T00:00:00Z")),
		taken(2, date("2026-11-10T08:00:00Z")), taken(2, date("2026-11-22T06:00:00Z")))
	for _, test := range []struct {
		name    string
		policy  Policy
		current int
		snaps   []Snapshot
	}{
		{"last", Policy{Last: 3}, 1, every(time.Hour, 6, now)},
		{"within", Policy{Within: 3 * time.Hour}, 1, every(time.Hour, 6, now)},
		{"hourly", Policy{Hourly: 3}, 1, every(20*time.Minute, 15, now)},
		{"daily", Policy{Daily: 3}, 1, every(8*time.Hour, 15, now)},
		{"weekly", Policy{Weekly: 3}, 1, every(24*time.Hour, 30, now)},
		{"weekly-over-new-year", Policy{Weekly: 2}, 1, every(24*time.Hour, 12, date("2027-01-05T00:00:00Z"))},
		{"monthly", Policy{Monthly: 3}, 1, every(10*24*time.Hour, 15, now)},
		{"yearly", Policy{Yearly: 3}, 1, every(90*24*time.Hour, 20, now)},
		{"gaps", Policy{Daily: 3}, 1, append(every(24*time.Hour, 2, date("2026-01-05T12:00:00Z")), taken(1, now))},
		{"design", design, 1, append(every(12*time.Hour, 3000, now.AddDate(0, -1, 0)), every(time.Hour, 24*30, now)...)},
		{"old-line-held", Policy{Last: 4, Daily: 3, Minimum: 2, OldLines: 30 * 24 * time.Hour}, 2, rebuilt},
		{"old-line-over", Policy{Last: 4, Daily: 3, Monthly: 2, OldLines: 5 * 24 * time.Hour}, 2, rebuilt},
		{"no-current-line", Policy{Last: 1, Minimum: 2}, 9, rebuilt},
		{"minimum-from-old-line", Policy{Last: 1, Minimum: 4}, 2, rebuilt},
		{"failed", Policy{Last: 2, Daily: 2, Minimum: 1}, 1, func() []Snapshot {
			snaps := every(time.Hour, 6, now)
			snaps[5], snaps[3] = failedAt(snaps[5], now), failedAt(snaps[3], now)
			snaps[4].FailedAt, snaps[4].VerifiedAt = now.Add(-time.Hour), now
			return snaps
		}()},
		{"all-failed", Policy{Last: 2, Minimum: 1}, 1, func() []Snapshot {
			snaps := every(time.Hour, 3, now)
			for i := range snaps {
				snaps[i] = failedAt(snaps[i], now)
			}
			return snaps
		}()},
		{"import", Policy{Last: 2, OldLines: 10 * 24 * time.Hour}, 1, func() []Snapshot {
			imported := taken(3, date("2024-03-01T00:00:00Z"))
			imported.Modified = now.Add(-24 * time.Hour)
			return append(every(time.Hour, 3, now), imported)
		}()},
		{"nothing-configured", Policy{Minimum: 1, OldLines: time.Hour}, 1, rebuilt},
		{"clock-jumped", Policy{Last: 1, Daily: 1, Within: time.Hour}, 1, func() []Snapshot {
			snaps := every(time.Hour, 3, now)
			return append(snaps, snaps[2].At(snaps[2].Revision+1), taken(1, now.Add(300*time.Hour)))
		}()},
	} {
		t.Run(test.name, func(t *testing.T) {
			current := fmt.Sprintf("l%011d", test.current)
			decisions := test.policy.Decide(now, current, test.snaps)
			var b strings.Builder
			fmt.Fprintf(&b, "now %s, current line %s, policy %+v\n", now.Format(time.RFC3339), current, test.policy)
			for i, n := 0, 0; i < len(decisions); i += n {
				d := decisions[i]
				what := fmt.Sprintf("%s %s %d", d.Snapshot.Line, d.Snapshot.Time.Format(time.RFC3339), d.Snapshot.Revision)
				if n = 1; d.Keep {
					fmt.Fprintf(&b, "keep   %s: %s\n", what, strings.Join(d.Reasons, "; "))
					continue
				}
				for i+n < len(decisions) && !decisions[i+n].Keep && decisions[i+n].Snapshot.Line == d.Snapshot.Line && slices.Equal(decisions[i+n].Reasons, d.Reasons) {
					n++
				}
				fmt.Fprintf(&b, "delete %s and %d before: %s\n", what, n-1, strings.Join(d.Reasons, "; "))
			}
			name := filepath.Join("testdata", "retention", test.name+".golden")
			if *update {
				if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(name, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if b.String() != string(want) {
				t.Errorf("got\n%s\nwant\n%s", b.String(), want)
			}
			shuffled := slices.Clone(test.snaps)
			rand.New(rand.NewPCG(1, 1)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
			if again := test.policy.Decide(now, current, shuffled); !reflect.DeepEqual(again, decisions) {
				t.Error("the order in which backups are given changes the decision")
			}
		})
	}
}

// random makes repositories and policies of all sorts.
func random(r *rand.Rand) (now time.Time, current string, policy Policy, snaps []Snapshot) {
	now = date("2026-11-22T06:10:00Z")
	small := func(n int) int { return max(0, r.IntN(n)-n/3) }
	policy = Policy{
		Last: small(6), Within: time.Duration(small(50)) * time.Hour, Hourly: small(6), Daily: small(6), Weekly: small(5), Monthly: small(5), Yearly: small(4),
		Minimum: small(6), OldLines: time.Duration(small(100)) * 24 * time.Hour,
	}
	current = "l00000000001"
	for i := range r.IntN(40) {
		s := taken(1+r.IntN(3), now.Add(-time.Duration(r.Int64N(int64(10+2000*r.IntN(10)))+1)*time.Hour))
		s.ID = fmt.Sprintf("b%011d", i)
		if r.IntN(5) == 0 {
			s = s.At(s.Revision + r.Int64N(1_000_000)) // time and revision disagree
		}
		if r.IntN(4) == 0 {
			s.FailedAt = now
		}
		if r.IntN(4) == 0 {
			s.VerifiedAt = now.Add(time.Duration(r.IntN(3)-1) * time.Hour)
		}
		if r.IntN(15) == 0 {
			s.Committed = false
		}
		snaps = append(snaps, s)
	}
	return now, current, policy, snaps
}

func kept(decisions []Decision) (all []Snapshot, good int) {
	for _, d := range decisions {
		if d.Keep {
			all = append(all, d.Snapshot)
			if !d.Snapshot.Failed() {
				good++
			}
		}
	}
	return all, good
}

func TestDecideProperties(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	for n := range 5000 {
		now, current, policy, snaps := random(r)
		check := func(what string, snaps []Snapshot) []Decision {
			decisions := policy.Decide(now, current, snaps)
			committed, good := 0, 0
			for _, s := range snaps {
				if s.Committed {
					committed++
					if !s.Failed() {
						good++
					}
				}
			}
			if len(decisions) != committed {
				t.Fatalf("case %d, %s: %d decisions about %d backups", n, what, len(decisions), committed)
			}
			keeps, keptGood := kept(decisions)
			least := max(policy.Minimum, 1)
			if len(keeps) < min(least, committed) || keptGood < min(least, good) {
				t.Errorf("case %d, %s: %d of %d are kept, %d of %d good ones, minimum %d: %+v", n, what, len(keeps), committed, keptGood, good, least, policy)
			}
			for _, d := range decisions {
				if len(d.Reasons) == 0 {
					t.Errorf("case %d, %s: no reason for %+v", n, what, d)
				}
				if d.Keep && d.Snapshot.Failed() && keptGood >= least && !policy.empty() {
					t.Errorf("case %d, %s: a failed backup is kept although %d good ones are: %v", n, what, keptGood, d.Reasons)
				}
			}
			return decisions
		}
		decisions := check("as it is", snaps)
		keeps, _ := kept(decisions)
		for _, d := range check("after deletion", keeps) {
			if !d.Keep {
				t.Errorf("case %d: deciding again deletes %s too, kept before because %v: %+v", n, d.Snapshot.Prefix, d.Reasons, policy)
			}
		}
		check("with one more", append(slices.Clone(snaps), taken(1, now)))
		check("with a failed one more", append(slices.Clone(snaps), failedAt(taken(1, now), now)))
		check("with one more in a new line", append(slices.Clone(snaps), taken(4, now)))
	}
}

// TestDecideRunningOut: a line that has ended is gone in the end, but for what minimum holds.
func TestDecideRunningOut(t *testing.T) {
	end := date("2026-01-10T00:00:00Z")
	policy := Policy{Last: 5, Daily: 7, Monthly: 3, Minimum: 2, OldLines: 30 * 24 * time.Hour}
	old := every(12*time.Hour, 100, end)
	for _, test := range []struct {
		days    int
		current int // backups of the current line
		old     int // that must be left of the old
	}{
		{1, 1, 10}, {1, 5, 10}, // last 5 (of three days), three more days, two more months
		{29, 5, 6}, // last 5, one more month
		{31, 5, 2}, // two months
		{75, 5, 1}, // one month
		{200, 5, 0}, {200, 1, 1}, {200, 0, 2},
	} {
		now := end.Add(time.Duration(test.days)*24*time.Hour + time.Hour)
		snaps := slices.Clone(old)
		for i := range test.current {
			snaps = append(snaps, taken(2, now.Add(-time.Duration(i)*time.Hour)))
		}
		left := 0
		keeps, _ := kept(policy.Decide(now, "l00000000002", snaps))
		for _, s := range keeps {
			if s.Line == old[0].Line {
				left++
			}
		}
		if left != test.old {
			t.Errorf("%d days after the end, with %d newer ones: %d of the old line are kept, want %d", test.days, test.current, left, test.old)
		}
	}
}

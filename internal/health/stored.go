package health

import (
	"fmt"
	"time"

	"github.com/requorum/requorum/storage/catalog"
)

// Stored is what the stores say of a cluster's backups.
type Stored struct {
	Snapshots    []catalog.Snapshot // committed, the oldest first
	SnapshotsErr error              // why they are not all, or none
	Holds        []catalog.Hold
	HoldsErr     error
	LastDrill    time.Time // zero: none
	LastDrillErr error     // why it is not known; not judged then
}

// Objectives are what the cluster's owner asks for. A zero one is not judged.
type Objectives struct {
	RPO             time.Duration
	DrillAge        time.Duration
	VerificationAge time.Duration // the longest time without any verification, once there are backups that old
}

// Newest is the newest backup that did not fail its verification.
func (s Stored) Newest() (newest catalog.Snapshot, ok bool) {
	for _, snap := range s.Snapshots {
		if !snap.Failed() && snap.Time.After(newest.Time) {
			newest, ok = snap, true
		}
	}
	return newest, ok
}

// LastVerified is the newest good verdict on any backup; zero without.
func (s Stored) LastVerified() time.Time {
	var last time.Time
	for _, snap := range s.Snapshots {
		if snap.VerifiedAt.After(last) {
			last = snap.VerifiedAt
		}
	}
	return last
}

// Judge says what is wrong with the backups of the cluster of that name.
func (s Stored) Judge(name string, now time.Time, o Objectives) []Problem {
	var out []Problem
	add := func(severity Severity, kind, subject, what, advice string) {
		out = append(out, Problem{Severity: severity, Name: kind, Subject: subject, What: what, Advice: advice})
	}
	if s.SnapshotsErr != nil {
		severity := Warning
		if len(s.Snapshots) == 0 {
			severity = Unknown
		}
		out = append(out, Failure(severity, Stores, "backups", s.SnapshotsErr))
	}
	for _, snap := range s.Snapshots {
		if snap.Failed() {
			add(Warning, BadBackup, snap.ID, fmt.Sprintf("backup %s failed its verification", snap.ID), "requorum verify "+name+" "+snap.ID)
		} else if d := snap.Drilled; d.Failed {
			add(Warning, BadBackup, snap.ID, fmt.Sprintf("backup %s failed in drill %s", snap.ID, d.ID),
				fmt.Sprintf("requorum show %s %s says why; requorum drill %s --at %s tries again", name, snap.ID, name, snap.ID))
		}
	}
	newest, ok := s.Newest()
	switch {
	case !ok && s.SnapshotsErr == nil:
		add(Critical, RPO, "", "there is no backup", "requorum backup "+name)
	case ok && o.RPO > 0 && now.Sub(newest.Time) > o.RPO:
		add(Critical, RPO, "", fmt.Sprintf("the newest backup %s is %s old, the objective is %s", newest.ID, catalog.Age(now.Sub(newest.Time)), short(o.RPO)), "requorum backup "+name)
	}
	if ok && o.VerificationAge > 0 && now.Sub(s.Snapshots[0].Time) > o.VerificationAge && now.Sub(s.LastVerified()) > o.VerificationAge {
		what := "no backup was ever verified"
		if last := s.LastVerified(); !last.IsZero() {
			what = "no backup was verified for " + catalog.Age(now.Sub(last))
		}
		add(Warning, Unverified, "", what, "requorum verify "+name+", or schedules.verify in the configuration")
	}
	if o.DrillAge > 0 && s.LastDrillErr == nil && now.Sub(s.LastDrill) > o.DrillAge {
		what := "no restore was ever rehearsed"
		if !s.LastDrill.IsZero() {
			what = "no restore was rehearsed for " + catalog.Age(now.Sub(s.LastDrill))
		}
		add(Warning, DrillAge, "", what+", the objective is "+short(o.DrillAge), "requorum drill "+name)
	}
	if s.HoldsErr != nil && len(s.Snapshots) > 0 {
		out = append(out, Failure(Unknown, Stores, "holds", s.HoldsErr))
	}
	for _, h := range s.Holds {
		add(Warning, Held, h.Run, fmt.Sprintf("restore %s of %s is under way since %s: nothing is expired and no scheduled backup is taken",
			h.Run, h.Owner, h.Started.Format(time.RFC3339)), "if it is dead: requorum restore "+name+" --resume")
	}
	return out
}

// short writes a duration as a configuration does: 90m is 1h30m, 100d stays.
func short(d time.Duration) string {
	text := catalog.Age(d)
	if same, err := catalog.ParseDuration(text); err != nil || same != d {
		return d.String()
	}
	return text
}

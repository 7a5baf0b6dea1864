// Package catalog is what a repository holds, as data: backups, lines, manifests, facts, records, the keys of
// their objects, and the decisions that follow from them - which line a backup continues, which backups are kept. It
// reads and writes nothing itself.
//
// All keys are relative to the repository's path. They are part of the stored format:
//
//	lines/<time>-<line>.json
//	snapshots/<line>/<time>-<revision>-<id>/{manifest.json,db.zst[.age],facts.json.zst[.age],verified-<time>,failed-<time>,
//	    drilled-<time>-<drill>,drill-failed-<time>-<drill>}
//	runs/<time>-<kind>-<outcome>-<run>.json
//	holds/<run>.json
//	drills/<time>-<drill>.{json,html,sig}
//
// Times are UTC in [TimeLayout], revisions have 19 digits, ids are those of [NewID]. So keys sort by time, and a
// listing alone says all that is needed to list backups and to decide about them.
//
// The revision of a snapshot is known only when its last page has arrived, but its data is uploaded while it streams.
// So the folder of the data object carries the revision that the member had when the stream opened. On a cluster that is not
// written to at that moment this is the folder of the manifest; otherwise the manifest, the facts and the verdicts lie in a
// folder beside it that carries the snapshot's own revision. Time and id tie the two, and the manifest names the data object.
package catalog

import (
	"fmt"
	"strings"
	"time"
)

// Format is the version of the stored format that this package writes and the newest that it reads.
const Format = 1

// TimeLayout is how a time stands in a key, always UTC.
const TimeLayout = "20060102T150405Z"

// The folders of a repository, as prefixes of keys.
const (
	LinesPrefix     = "lines/"
	SnapshotsPrefix = "snapshots/"
	RunsPrefix      = "runs/"
	HoldsPrefix     = "holds/"
)

// The names of objects in a snapshot's folder.
const (
	manifestName   = "manifest.json"
	dataName       = "db.zst"
	factsName      = "facts.json.zst"
	sealedSuffix   = ".age"
	verifiedPrefix = "verified-"
	failedPrefix   = "failed-"

	drilledPrefix     = "drilled-"
	drillFailedPrefix = "drill-failed-"
)

// formatTime writes t as a key does.
func formatTime(t time.Time) string { return t.UTC().Format(TimeLayout) }

// parseTime is strict: what it accepts, formatTime writes again byte for byte. It is called for every listed object.
func parseTime(s string) (time.Time, bool) {
	if len(s) != len(TimeLayout) || s[8] != 'T' || s[15] != 'Z' {
		return time.Time{}, false
	}
	var n [6]int // year, month, day, hour, minute, second
	for i, at := range [...]struct{ from, to int }{{0, 4}, {4, 6}, {6, 8}, {9, 11}, {11, 13}, {13, 15}} {
		for _, c := range []byte(s[at.from:at.to]) {
			if c < '0' || c > '9' {
				return time.Time{}, false
			}
			n[i] = n[i]*10 + int(c-'0')
		}
	}
	t := time.Date(n[0], time.Month(n[1]), n[2], n[3], n[4], n[5], 0, time.UTC)
	// time.Date carries a 32nd day or a 25th hour over, which changes a field below the one that was too large, or itself.
	ok := t.Year() == n[0] && int(t.Month()) == n[1] && t.Day() == n[2] && t.Hour() == n[3] && t.Minute() == n[4] && t.Second() == n[5]
	return t, ok
}

// stem is what the keys of all objects of a backup begin with, whatever the revision.
func stem(line string, t time.Time) string {
	return SnapshotsPrefix + line + "/" + formatTime(t) + "-"
}

func folder(line string, t time.Time, revision int64, id string) string {
	return fmt.Sprintf("%s%019d-%s/", stem(line, t), revision, id)
}

// object is the key of an object of a snapshot, taken apart.
type object struct {
	line     string
	time     time.Time
	revision int64
	id       string
	name     string
}

func (o object) key() string { return folder(o.line, o.time, o.revision, o.id) + o.name }

// parseObject takes a key below SnapshotsPrefix apart. What it accepts, key gives back byte for byte.
func parseObject(key string) (object, bool) {
	rest, ok := strings.CutPrefix(key, SnapshotsPrefix)
	if !ok {
		return object{}, false
	}
	line, rest, ok1 := strings.Cut(rest, "/")
	dir, name, ok2 := strings.Cut(rest, "/")
	if !ok1 || !ok2 || name == "" || strings.Contains(name, "/") || CheckID(KindLine, line) != nil {
		return object{}, false
	}
	if len(dir) != len(TimeLayout)+1+19+1+idLength || dir[len(TimeLayout)] != '-' || dir[len(TimeLayout)+20] != '-' {
		return object{}, false
	}
	t, ok := parseTime(dir[:len(TimeLayout)])
	id := dir[len(dir)-idLength:]
	if !ok || CheckID(KindBackup, id) != nil {
		return object{}, false
	}
	revision, ok := parseRevision(dir[len(TimeLayout)+1:][:19])
	if !ok {
		return object{}, false
	}
	return object{line, t, revision, id, name}, true
}

// parseRevision reads 19 digits that fit an int64.
func parseRevision(s string) (int64, bool) {
	var n int64
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
		d := int64(c - '0')
		if n > (1<<63-1-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	return n, len(s) == 19
}

// LineKey returns the key of the object that opens l.
func LineKey(l Line) string { return LinesPrefix + formatTime(l.Time) + "-" + l.Line + ".json" }

// ParseLineKey returns what a key below [LinesPrefix] says.
func ParseLineKey(key string) (line string, t time.Time, ok bool) {
	rest, ok1 := strings.CutPrefix(key, LinesPrefix)
	rest, ok2 := strings.CutSuffix(rest, ".json")
	if !ok1 || !ok2 || len(rest) != len(TimeLayout)+1+idLength || rest[len(TimeLayout)] != '-' {
		return "", time.Time{}, false
	}
	line = rest[len(TimeLayout)+1:]
	t, ok = parseTime(rest[:len(TimeLayout)])
	if !ok || CheckID(KindLine, line) != nil {
		return "", time.Time{}, false
	}
	return line, t, true
}

// RunKey returns the key of the record of r, which carries the time at which the run started.
func RunKey(r Run) string {
	return RunsPrefix + formatTime(r.Started) + "-" + r.Kind + "-" + r.Outcome + "-" + r.ID + ".json"
}

// RunsSince returns the key after which a listing yields the records of runs that started at t or later.
func RunsSince(t time.Time) string { return RunsPrefix + formatTime(t) }

// ParseRunKey returns what a key below [RunsPrefix] says: id, kind, outcome and start. The rest of the run is in the object.
func ParseRunKey(key string) (r Run, ok bool) {
	rest, ok1 := strings.CutPrefix(key, RunsPrefix)
	rest, ok2 := strings.CutSuffix(rest, ".json")
	if !ok1 || !ok2 || len(rest) <= len(TimeLayout) || rest[len(TimeLayout)] != '-' {
		return Run{}, false
	}
	if r.Started, ok = parseTime(rest[:len(TimeLayout)]); !ok {
		return Run{}, false
	}
	rest = rest[len(TimeLayout)+1:]
	i := strings.LastIndexByte(rest, '-')
	if i < 0 {
		return Run{}, false
	}
	rest, r.ID = rest[:i], rest[i+1:]
	i = strings.LastIndexByte(rest, '-')
	if i < 0 {
		return Run{}, false
	}
	r.Kind, r.Outcome = rest[:i], rest[i+1:]
	if r.check() != nil {
		return Run{}, false
	}
	return r, true
}

// HoldKey returns the key of the hold of a run.
func HoldKey(run string) string { return HoldsPrefix + run + ".json" }

// ParseHoldKey returns the run whose hold is at key.
func ParseHoldKey(key string) (run string, ok bool) {
	run, ok1 := strings.CutPrefix(key, HoldsPrefix)
	run, ok2 := strings.CutSuffix(run, ".json")
	if !ok1 || !ok2 || checkRunID(run) != nil {
		return "", false
	}
	return run, true
}

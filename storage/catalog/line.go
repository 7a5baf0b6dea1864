package catalog

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The sources of a line.
const (
	LineLive    = "live"    // a backup met a history that no line continues
	LineImport  = "import"  // a file of unknown history; never current, never chosen unless named
	LineRestore = "restore" // a restore rebuilt the cluster
)

// Line is one unbroken history of a cluster: the object that opens it.
type Line struct {
	Format        int       `json:"format"`
	Line          string    `json:"line"` // its id
	Cluster       string    `json:"cluster"`
	ClusterID     string    `json:"cluster_id"` // etcd's, 16 hexadecimal digits; empty for an import
	Time          time.Time `json:"time"`       // when it was opened, UTC, in whole seconds
	FirstRevision int64     `json:"first_revision"`
	RaftTerm      uint64    `json:"raft_term"`
	Parent        string    `json:"parent"`       // the line it came from, "" when there is none or none can be named
	ParentKnown   bool      `json:"parent_known"` // Parent is certain, also when it is ""; else it is the likely one
	Reason        string    `json:"reason"`       // why it was opened, for people
	Run           string    `json:"run"`          // the requorum run that opened it by a restore, or ""
	Source        string    `json:"source"`       // LineLive, LineImport or LineRestore
}

// Check returns an error unless l is complete and agrees with its key.
func (l Line) Check(key string) error {
	switch {
	case l.Format != Format:
		return formatError(l.Format)
	case l.Source != LineLive && l.Source != LineImport && l.Source != LineRestore:
		return fmt.Errorf("line %s: unknown source %q", l.Line, l.Source)
	case l.Source != LineImport && checkClusterID(l.ClusterID) != nil:
		return fmt.Errorf("line %s: %w", l.Line, checkClusterID(l.ClusterID))
	}
	if line, t, ok := ParseLineKey(key); !ok || line != l.Line || !t.Equal(l.Time) {
		return fmt.Errorf("line %s of %s: it does not agree with its key %s", l.Line, formatTime(l.Time), key)
	}
	return nil
}

// ParseLine reads the object at key. Unknown fields are ignored; a newer format is an error.
func ParseLine(key string, b []byte) (Line, error) {
	var l Line
	if err := json.Unmarshal(b, &l); err != nil {
		return Line{}, fmt.Errorf("%s: %w", key, err)
	}
	l.Time = l.Time.UTC()
	if err := l.Check(key); err != nil {
		return Line{}, fmt.Errorf("%s: %w", key, err)
	}
	return l, nil
}

func formatError(found int) error {
	if found > Format {
		return fmt.Errorf("format %d is newer than this requorum, which reads up to format %d: use a newer requorum", found, Format)
	}
	return fmt.Errorf("format %d: expected %d", found, Format)
}

func checkClusterID(id string) error {
	if len(id) != 16 || strings.Trim(id, "0123456789abcdef") != "" {
		return fmt.Errorf("cluster id %q: expected 16 lower-case hexadecimal digits", id)
	}
	return nil
}

// Seen is what was seen of a live cluster at one moment.
type Seen struct {
	ClusterID string    `json:"cluster_id"` // 16 lower-case hexadecimal digits
	Line      string    `json:"line,omitempty"`
	Revision  int64     `json:"revision"`
	RaftTerm  uint64    `json:"raft_term"`
	Time      time.Time `json:"time"`
}

// Higher returns the highest of both: revision, raft term and time each apart, and the rest of s unless it is zero.
func (s Seen) Higher(o Seen) Seen {
	if s == (Seen{}) {
		return o
	}
	s.Revision, s.RaftTerm, s.Time = max(s.Revision, o.Revision), max(s.RaftTerm, o.RaftTerm), later(s.Time, o.Time)
	return s
}

// SortLines puts lines into the order in which they were opened.
func SortLines(lines []Line) {
	slices.SortFunc(lines, func(a, b Line) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Line, b.Line))
	})
}

// OpenTime is the time of a line that is opened at t after all of lines: in whole seconds, and later than any of theirs, so that
// the order holds also within one second, and when clocks of machines differ.
func OpenTime(lines []Line, t time.Time) time.Time {
	t = t.UTC().Truncate(time.Second)
	for _, l := range lines {
		if !t.After(l.Time) {
			t = l.Time.Add(time.Second)
		}
	}
	return t
}

// Current returns the line that was opened last, imports left aside.
func Current(lines []Line) (Line, bool) {
	lines = slices.Clone(lines)
	SortLines(lines)
	for _, l := range slices.Backward(lines) {
		if l.Source != LineImport {
			return l, true
		}
	}
	return Line{}, false
}

// Continue says which line a backup of the observed cluster belongs to. Lines are all that are known, newest the highest
// that was seen of each since it was opened, by line, where anything was.
//
// The backup continues the newest line that knows the cluster id, if revision and raft term are not below the highest
// recorded for it. A cluster id alone does not tell histories apart: a plain restore under the same URLs and token keeps
// it. Otherwise open is the line to be opened, complete but for its id and its cluster's name, and line is "".
// Imports are never continued.
//
// Alerts are for people: a history that no requorum run opened; a line that goes on although another was opened after it, or
// that shares its name with another one that grows too.
func Continue(lines []Line, newest map[string]Seen, observed Seen) (line string, open *Line, alerts []string) {
	lines = slices.DeleteFunc(slices.Clone(lines), func(l Line) bool { return l.Source == LineImport })
	SortLines(lines)
	var own *Line
	for i := range lines {
		if lines[i].ClusterID == observed.ClusterID {
			own = &lines[i]
		}
	}
	reason := ""
	switch {
	case len(lines) == 0:
		reason = "first backup"
	case own == nil:
		reason = fmt.Sprintf("cluster id %s is unknown: the newest line %s has %s", observed.ClusterID, last(lines).Line, last(lines).ClusterID)
	default:
		seen := newest[own.Line]
		if floor := max(own.FirstRevision, seen.Revision); observed.Revision < floor {
			reason = fmt.Sprintf("revision %d is below %d, recorded for line %s of the same cluster id %s", observed.Revision, floor, own.Line, own.ClusterID)
		} else if floor := max(own.RaftTerm, seen.RaftTerm); observed.RaftTerm < floor {
			reason = fmt.Sprintf("raft term %d is below %d, recorded for line %s of the same cluster id %s", observed.RaftTerm, floor, own.Line, own.ClusterID)
		}
	}
	if reason == "" {
		return own.Line, nil, rivals(lines, newest, *own)
	}
	open = &Line{
		Format: Format, ClusterID: observed.ClusterID, Time: OpenTime(lines, observed.Time),
		FirstRevision: observed.Revision, RaftTerm: observed.RaftTerm, Reason: reason, Source: LineLive,
	}
	switch {
	case len(lines) == 0:
		open.ParentKnown = true
	case own != nil:
		open.Parent = own.Line
	}
	if len(lines) > 0 {
		alerts = append(alerts, "a new line was opened that no requorum run opened: "+reason+
			"; either the cluster was rebuilt by other means, or another cluster is backed up under this name")
	}
	return "", open, alerts
}

func last(lines []Line) Line { return lines[len(lines)-1] }

// rivals returns an alert for each line that lays claim to the name of own, the one that goes on.
func rivals(lines []Line, newest map[string]Seen, own Line) (alerts []string) {
	for _, l := range lines {
		switch {
		case l.Line == own.Line:
		case own.Line != last(lines).Line && l.Line == last(lines).Line:
			alerts = append(alerts, fmt.Sprintf("line %s of cluster id %s grows although line %s of cluster id %s was opened after it, at %s: two clusters share one name, or an old one came back",
				own.Line, own.ClusterID, l.Line, l.ClusterID, l.Time.Format(time.RFC3339)))
		case newest[l.Line].Time.After(newest[own.Line].Time) && newest[l.Line].Time.After(own.Time):
			alerts = append(alerts, fmt.Sprintf("line %s of cluster id %s and line %s of cluster id %s both grow, the latter last at %s: two clusters share one name",
				own.Line, own.ClusterID, l.Line, l.ClusterID, newest[l.Line].Time.Format(time.RFC3339)))
		}
	}
	return alerts
}

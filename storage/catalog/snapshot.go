package catalog

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"
)

// Entry is one listed object.
type Entry struct {
	Key      string // relative to the repository's path
	Size     int64  // bytes
	Modified time.Time
}

// Snapshot is one backup as a listing shows it.
type Snapshot struct {
	ID       string
	Line     string
	Time     time.Time // the moment the stream opened, UTC, in whole seconds
	Revision int64
	Prefix   string // of the manifest, with its slash: snapshots/<line>/<time>-<revision>-<id>/

	// DataRevision is the revision in the key of the data object, the one of the member when the stream opened. It
	// is at most Revision.
	DataRevision int64

	StoredBytes int64 // of all its objects in one store
	Encrypted   bool
	Committed   bool      // a manifest is there: this is a backup, not what an upload left
	Modified    time.Time // by the store's clock: of the manifest; of the newest object where there is none

	Stores []string // the names of the stores that hold a copy, in the configured order

	// VerifiedAt and FailedAt are the newest verdicts of each kind, zero for none: of the copies that are not damaged
	// if there are any, else of the damaged ones.
	VerifiedAt, FailedAt time.Time

	Damaged []string // the stores whose own copy's newest verdict is failed

	// Drilled is what the newest drill that came to a verdict found about the backup, whichever copy it read; zero for none.
	Drilled Rehearsal
}

// NewSnapshot names a backup that does not exist yet. Revision is that of the member as the stream opens; see
// [Snapshot.At] for when the snapshot's own is known.
func NewSnapshot(line string, t time.Time, revision int64, encrypted bool) Snapshot {
	s := Snapshot{ID: NewID(KindBackup), Line: line, Time: t.UTC().Truncate(time.Second), DataRevision: revision, Encrypted: encrypted}
	return s.At(revision)
}

// At returns s with its own revision, now that it is known. The data object keeps its key.
func (s Snapshot) At(revision int64) Snapshot {
	s.Revision = revision
	s.Prefix = folder(s.Line, s.Time, revision, s.ID)
	return s
}

// Check returns an error unless s can be stored: its parts make valid keys and agree with each other.
func (s Snapshot) Check() error {
	for _, key := range []string{s.ManifestKey(), s.DataKey()} {
		o, ok := parseObject(key)
		if !ok || o.line != s.Line || o.id != s.ID || !o.time.Equal(s.Time) {
			return fmt.Errorf("backup %s of line %s at %s: %q is not a valid key", s.ID, s.Line, s.Time, key)
		}
	}
	if s.Prefix != folder(s.Line, s.Time, s.Revision, s.ID) {
		return fmt.Errorf("backup %s: prefix %q is not that of revision %d", s.ID, s.Prefix, s.Revision)
	}
	if s.DataRevision > s.Revision {
		return fmt.Errorf("backup %s: its revision %d is below %d, which the member had when the stream opened", s.ID, s.Revision, s.DataRevision)
	}
	return nil
}

// Failed reports whether the newest verdict is failed.
func (s Snapshot) Failed() bool { return !s.FailedAt.IsZero() && !s.FailedAt.Before(s.VerifiedAt) }

// In returns s as the named stores alone hold it, to read or judge one copy.
func (s Snapshot) In(stores ...string) Snapshot {
	s.Stores = stores
	return s
}

// ManifestKey returns the key of the object that makes the backup exist.
func (s Snapshot) ManifestKey() string { return s.Prefix + manifestName }

// DataKey returns the key of the database.
func (s Snapshot) DataKey() string {
	return folder(s.Line, s.Time, s.DataRevision, s.ID) + sealedName(dataName, s.Encrypted)
}

// FactsKey returns the key of the facts.
func (s Snapshot) FactsKey() string { return s.Prefix + sealedName(factsName, s.Encrypted) }

// VerifiedKey returns the key of a verdict at t: good.
func (s Snapshot) VerifiedKey(t time.Time) string { return s.Prefix + verifiedPrefix + formatTime(t) }

// FailedKey returns the key of a verdict at t: failed.
func (s Snapshot) FailedKey(t time.Time) string { return s.Prefix + failedPrefix + formatTime(t) }

// DrilledKey returns the key of what a drill found.
func (s Snapshot) DrilledKey(r Rehearsal) string {
	prefix := drilledPrefix
	if r.Failed {
		prefix = drillFailedPrefix
	}
	return s.Prefix + prefix + formatTime(r.Time) + "-" + r.ID
}

// Stem is the prefix of every object of s. Objects of other backups may have it too; see [Snapshot.Owns].
func (s Snapshot) Stem() string { return stem(s.Line, s.Time) }

// Owns reports whether the object at key is one of s.
func (s Snapshot) Owns(key string) bool {
	o, ok := parseObject(key)
	return ok && o.id == s.ID && o.line == s.Line && o.time.Equal(s.Time)
}

// IsManifest reports whether key is that of a manifest. While an upload runs its folder is not known from its data: a
// manifest that appears may lie in another one.
func IsManifest(key string) bool {
	o, ok := parseObject(key)
	return ok && o.name == manifestName
}

func sealedName(name string, sealed bool) string {
	if sealed {
		return name + sealedSuffix
	}
	return name
}

// Group makes snapshots of a listing of [SnapshotsPrefix] in key order, which it reads once and does not keep. What a killed
// upload left is among them with Committed false. Keys that are none of ours are given to unknown and change
// nothing; unknown may be nil. The result is in the order of line, time, revision and id. A listing that fails is an
// error, because an incomplete one must not decide anything.
func Group(entries iter.Seq2[Entry, error], unknown func(Entry)) ([]Snapshot, error) {
	var (
		done []Snapshot
		open []gathering // the backups of one line and second: few, mostly one
		at   string      // their stem
	)
	flush := func() {
		for i := range open {
			done = append(done, open[i].snapshot())
		}
		open = open[:0]
	}
	for e, err := range entries {
		if err != nil {
			return nil, err
		}
		o, ok := parseObject(e.Key)
		if !ok || !known(o.name) {
			if unknown != nil {
				unknown(e)
			}
			continue
		}
		if at == "" || !strings.HasPrefix(e.Key, at) {
			flush()
			at = e.Key[:len(SnapshotsPrefix)+len(o.line)+1+len(TimeLayout)+1]
		}
		i := slices.IndexFunc(open, func(g gathering) bool { return g.id == o.id })
		if i < 0 {
			i = len(open)
			open = append(open, gathering{id: o.id, line: o.line, time: o.time})
		}
		open[i].add(o, e)
	}
	flush()
	slices.SortFunc(done, compareKeys)
	return done, nil
}

// compareKeys orders as the keys of manifests do.
func compareKeys(a, b Snapshot) int {
	return cmp.Or(cmp.Compare(a.Line, b.Line), a.Time.Compare(b.Time), cmp.Compare(a.Revision, b.Revision), cmp.Compare(a.ID, b.ID))
}

// known reports whether name is one of an object in a snapshot's folder.
func known(name string) bool {
	switch strings.TrimSuffix(name, sealedSuffix) {
	case dataName, factsName:
		return true
	}
	if name == manifestName {
		return true
	}
	if _, ok := parseRehearsal(name); ok {
		return true
	}
	_, _, ok := parseVerdict(name)
	return ok
}

// parseRehearsal reads the name of a drill's marker.
func parseRehearsal(name string) (r Rehearsal, ok bool) {
	rest, found := strings.CutPrefix(name, drilledPrefix)
	if !found {
		if rest, r.Failed = strings.CutPrefix(name, drillFailedPrefix); !r.Failed {
			return Rehearsal{}, false
		}
	}
	at, id, found := strings.Cut(rest, "-")
	if r.Time, ok = parseTime(at); !ok || !found || CheckID(KindDrill, id) != nil {
		return Rehearsal{}, false
	}
	r.ID = id
	return r, true
}

// parseVerdict reads the name of a marker.
func parseVerdict(name string) (t time.Time, good, ok bool) {
	if s, found := strings.CutPrefix(name, verifiedPrefix); found {
		t, ok = parseTime(s)
		return t, true, ok
	}
	if s, found := strings.CutPrefix(name, failedPrefix); found {
		t, ok = parseTime(s)
		return t, false, ok
	}
	return time.Time{}, false, false
}

// gathering is a snapshot of which some objects have been seen.
type gathering struct {
	id, line                     string
	time                         time.Time
	manifest, data, any          int64  // revisions
	manifestPrefix, anyPrefix    string // the folders of the first and the last of these
	hasManifest, hasData, sealed bool
	bytes                        int64
	committed, newest            time.Time
	verified, failed             time.Time
	drilled                      Rehearsal
}

func (g *gathering) add(o object, e Entry) {
	g.bytes += e.Size
	if o.revision >= g.any {
		g.any, g.anyPrefix = o.revision, strings.TrimSuffix(e.Key, o.name)
	}
	if e.Modified.After(g.newest) {
		g.newest = e.Modified
	}
	sealed := strings.HasSuffix(o.name, sealedSuffix)
	switch strings.TrimSuffix(o.name, sealedSuffix) {
	case manifestName:
		g.manifest, g.hasManifest, g.committed = o.revision, true, e.Modified
		g.manifestPrefix = strings.TrimSuffix(e.Key, o.name)
		return
	case dataName:
		g.data, g.hasData = o.revision, true
		g.sealed = g.sealed || sealed
		return
	case factsName:
		g.sealed = g.sealed || sealed
		return
	}
	if r, ok := parseRehearsal(o.name); ok {
		g.drilled = g.drilled.newer(r)
		return
	}
	t, good, _ := parseVerdict(o.name)
	switch {
	case good && t.After(g.verified):
		g.verified = t
	case !good && t.After(g.failed):
		g.failed = t
	}
}

func (g *gathering) snapshot() Snapshot {
	s := Snapshot{
		ID: g.id, Line: g.line, Time: g.time, DataRevision: g.data, StoredBytes: g.bytes, Encrypted: g.sealed,
		Committed: g.hasManifest, Modified: g.newest, VerifiedAt: g.verified, FailedAt: g.failed, Drilled: g.drilled,
	}
	if g.hasManifest {
		s.Revision, s.Prefix, s.Modified = g.manifest, g.manifestPrefix, g.committed
	} else {
		s.Revision, s.Prefix = g.any, g.anyPrefix
	}
	if !g.hasData {
		s.DataRevision = s.Revision
	}
	return s
}

// Merge makes one list of the committed backups of several stores, each copy named after its store. A backup that
// several stores hold is there once: see the fields of [Snapshot] for what it then says. The order is that of time,
// the oldest first.
func Merge(copies iter.Seq2[string, []Snapshot]) []Snapshot {
	var all []Snapshot
	at := map[string]int{} // by the prefix of the manifest
	for store, snaps := range copies {
		all = slices.Grow(all, len(snaps))
		name := []string{store} // shared by all; join, which adds to it, gets a slice of its own
		for _, s := range snaps {
			if !s.Committed {
				continue
			}
			s.Stores, s.Damaged = name, nil
			if s.Failed() {
				s.Damaged = name
			}
			i, seen := at[s.Prefix]
			if !seen {
				at[s.Prefix] = len(all)
				all = append(all, s)
				continue
			}
			all[i] = join(all[i], s)
		}
	}
	slices.SortFunc(all, func(a, b Snapshot) int { return cmp.Or(a.Time.Compare(b.Time), compareKeys(a, b)) })
	return all
}

// join adds the copy b of one more store to a.
func join(a, b Snapshot) Snapshot {
	switch {
	case a.Failed() && !b.Failed(): // a good copy decides
		a.VerifiedAt, a.FailedAt = b.VerifiedAt, b.FailedAt
	case a.Failed() == b.Failed():
		a.VerifiedAt, a.FailedAt = later(a.VerifiedAt, b.VerifiedAt), later(a.FailedAt, b.FailedAt)
	}
	if b.Modified.Before(a.Modified) {
		a.Modified = b.Modified
	}
	a.Drilled = a.Drilled.newer(b.Drilled)
	a.StoredBytes = max(a.StoredBytes, b.StoredBytes)
	a.Stores = append(a.Stores, b.Stores...)
	a.Damaged = append(a.Damaged, b.Damaged...)
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

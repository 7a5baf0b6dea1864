package catalog

import (
	"slices"
	"strings"
	"testing"
	"time"
)

var testTime = time.Date(2026, 11, 22, 5, 55, 0, 0, time.UTC)

const (
	testLine   = "l0123456789a"
	otherLine  = "l9876543210z"
	testBackup = "babcdefghjkm"
	testRun    = "rabcdefghjkm"
	testDrill  = "dabcdefghjkm"
)

func testSnapshot(revision int64) Snapshot {
	return Snapshot{ID: testBackup, Line: testLine, Time: testTime, DataRevision: revision}.At(revision)
}

// TestKeys holds the stored format still.
func TestKeys(t *testing.T) {
	s := testSnapshot(1234)
	const folder = "snapshots/l0123456789a/20261122T055500Z-0000000000000001234-babcdefghjkm/"
	sealed := s
	sealed.Encrypted = true
	late := sealed.At(1300)
	local := testTime.In(time.FixedZone("", 3600))
	for got, want := range map[string]string{
		s.ManifestKey():      folder + "manifest.json",
		s.DataKey():          folder + "db.zst",
		s.FactsKey():         folder + "facts.json.zst",
		s.VerifiedKey(local): folder + "verified-20261122T055500Z",
		s.FailedKey(local):   folder + "failed-20261122T055500Z",
		s.DrilledKey(Rehearsal{Drill: Drill{ID: testDrill, Time: local}}):               folder + "drilled-20261122T055500Z-dabcdefghjkm",
		s.DrilledKey(Rehearsal{Drill: Drill{ID: testDrill, Time: local}, Failed: true}): folder + "drill-failed-20261122T055500Z-dabcdefghjkm",
		Drill{ID: testDrill, Time: local}.FailureKey():                                  "runs/20261122T055500Z-drill-failed-dabcdefghjkm.json",
		sealed.DataKey():   folder + "db.zst.age",
		sealed.FactsKey():  folder + "facts.json.zst.age",
		late.DataKey():     folder + "db.zst.age",
		late.ManifestKey(): strings.Replace(folder, "0001234-", "0001300-", 1) + "manifest.json",
		LineKey(Line{Line: testLine, Time: local}): "lines/20261122T055500Z-l0123456789a.json",
		HoldKey(testRun): "holds/rabcdefghjkm.json",
		RunKey(Run{ID: testRun, Kind: "replace-member", Outcome: "ok", Started: local}): "runs/20261122T055500Z-replace-member-ok-rabcdefghjkm.json",
		RunsSince(local): "runs/20261122T055500Z",
	} {
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestNewID(t *testing.T) {
	seen := map[string]bool{}
	letters := map[rune]bool{}
	for range 2000 {
		id := NewID(KindBackup)
		if err := CheckID(KindBackup, id); err != nil {
			t.Fatal(err)
		}
		if CheckID(KindLine, id) == nil {
			t.Fatalf("%s passes for a line", id)
		}
		if seen[id] {
			t.Fatalf("%s came twice", id)
		}
		seen[id] = true
		for _, c := range id[1:] {
			letters[c] = true
		}
	}
	if len(letters) != 32 {
		t.Errorf("ids are made of %d characters, want 32", len(letters))
	}
}

func TestCheckSnapshot(t *testing.T) {
	good := NewSnapshot(testLine, time.Now(), 7, false)
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	if err := good.At(9).Check(); err != nil {
		t.Errorf("a revision above that of its data: %v", err)
	}
	for name, s := range map[string]Snapshot{
		"no line":             NewSnapshot("", time.Now(), 7, false),
		"line of another":     NewSnapshot("babcdefghjkm", time.Now(), 7, false),
		"negative revision":   NewSnapshot(testLine, time.Now(), -7, false),
		"revision below data": good.At(6),
		"year 10000":          NewSnapshot(testLine, time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), 7, false),
		"fraction of a second": func() Snapshot {
			s := good
			s.Time = s.Time.Add(time.Millisecond)
			return s
		}(),
		"prefix of another": func() Snapshot {
			s := good
			s.Revision = 8
			return s
		}(),
	} {
		if s.Check() == nil {
			t.Errorf("%s: accepted as %s", name, s.ManifestKey())
		}
	}
}

func FuzzObjectKey(f *testing.F) {
	s := testSnapshot(1<<63 - 1)
	for _, key := range []string{
		s.ManifestKey(), s.DataKey(), s.FailedKey(testTime), s.DrilledKey(Rehearsal{Drill{testDrill, testTime}, true}), s.DrilledKey(Rehearsal{Drill{testDrill, testTime}, false}), "snapshots/", "snapshots/l/x/y", "snapshots/l0123456789a/20261122T055500Z-9999999999999999999-babcdefghjkm/x",
		"snapshots/l0123456789a/20261331T055500Z-0000000000000001234-babcdefghjkm/x", "snapshots/l0123456789a/20261122T055500Z-0000000000000001234-babcdefghjkm/a/b",
		"snapshots/l0123456789a/20261122T055500Z-+000000000000001234-babcdefghjkm/manifest.json", "snapshots/l0123456789a/20261122T055500Z-0000000000000001234-babcdefghjko/x",
	} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		o, ok := parseObject(key)
		if !ok {
			return
		}
		if o.key() != key {
			t.Errorf("%q is read as %+v, which is written %q", key, o, o.key())
		}
		if r, ok := parseRehearsal(o.name); ok && (Snapshot{}).DrilledKey(r) != o.name {
			t.Errorf("%q is read as %+v, which is written %q", o.name, r, (Snapshot{}).DrilledKey(r))
		}
		if o.revision < 0 || o.name == "" {
			t.Errorf("%q is read as %+v", key, o)
		}
	})
}

func FuzzOtherKeys(f *testing.F) {
	f.Add("lines/20261122T055500Z-l0123456789a.json")
	f.Add("runs/20261122T055500Z-replace-member-ok-rabcdefghjkm.json")
	f.Add("runs/20261122T055500Z-a-b-dabcdefghjkm.json")
	f.Add("holds/rabcdefghjkm.json")
	f.Add("runs/20261122T055500Z---rabcdefghjkm.json")
	f.Fuzz(func(t *testing.T, key string) {
		if line, at, ok := ParseLineKey(key); ok && LineKey(Line{Line: line, Time: at}) != key {
			t.Errorf("line key %q becomes %q", key, LineKey(Line{Line: line, Time: at}))
		}
		if r, ok := ParseRunKey(key); ok {
			if RunKey(r) != key {
				t.Errorf("run key %q becomes %q", key, RunKey(r))
			}
			if err := r.Check(); err != nil {
				t.Errorf("run key %q is read, but not written: %v", key, err)
			}
		}
		if run, ok := ParseHoldKey(key); ok && HoldKey(run) != key {
			t.Errorf("hold key %q becomes %q", key, HoldKey(run))
		}
	})
}

func TestRunCheck(t *testing.T) {
	good := Run{ID: testRun, Kind: "backup", Outcome: "ok", Started: testTime}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]Run{
		"no id":              {Kind: "backup", Outcome: "ok", Started: testTime},
		"no kind":            {ID: testRun, Outcome: "ok", Started: testTime},
		"capitals":           {ID: testRun, Kind: "Backup", Outcome: "ok", Started: testTime},
		"dash in outcome":    {ID: testRun, Kind: "backup", Outcome: "not-ok", Started: testTime},
		"slash":              {ID: testRun, Kind: "a/b", Outcome: "ok", Started: testTime},
		"unwritable instant": {ID: testRun, Kind: "backup", Outcome: "ok", Started: testTime.AddDate(9000, 0, 0)},
	} {
		if r.Check() == nil {
			t.Errorf("%s: accepted as %s", name, RunKey(r))
		}
	}
}

func FuzzRecords(f *testing.F) {
	key := RunKey(Run{ID: testRun, Kind: "backup", Outcome: "ok", Started: testTime})
	f.Add(key, []byte(`{"run":"`+testRun+`","kind":"backup","outcome":"ok","started":"2026-11-22T05:55:00.5Z"}`))
	f.Add(HoldKey(testRun), []byte(`{"run":"`+testRun+`"}`))
	f.Add("lines/20261122T055500Z-"+testLine+".json", []byte(`{"format":1,"line":"`+testLine+`","cluster_id":"0123456789abcdef","time":"2026-11-22T05:55:00Z","source":"live"}`))
	f.Fuzz(func(t *testing.T, key string, b []byte) {
		if r, err := ParseRun(key, b); err == nil && RunKey(r) != key {
			t.Errorf("record %q was accepted under %q", RunKey(r), key)
		}
		if h, err := ParseHold(key, b); err == nil && HoldKey(h.Run) != key {
			t.Errorf("hold %q was accepted under %q", h.Run, key)
		}
		if l, err := ParseLine(key, b); err == nil && LineKey(l) != key {
			t.Errorf("line %q was accepted under %q", l.Line, key)
		}
	})
}

// TestNoKeyIsDirectoryOfAnother: stores may refuse "a" beside "a/b".
func TestNoKeyIsDirectoryOfAnother(t *testing.T) {
	s := testSnapshot(5)
	keys := []string{s.ManifestKey(), s.DataKey(), s.FactsKey(), s.VerifiedKey(testTime), s.FailedKey(testTime), LineKey(Line{Line: testLine, Time: testTime}), HoldKey(testRun), RunKey(Run{ID: testRun, Kind: "a", Outcome: "b"})}
	slices.Sort(keys)
	for i := range keys[1:] {
		if strings.HasPrefix(keys[i+1], keys[i]+"/") || keys[i] == keys[i+1] {
			t.Errorf("%s and %s", keys[i], keys[i+1])
		}
	}
}

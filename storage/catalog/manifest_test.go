package catalog

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func testManifest() Manifest {
	s := Snapshot{ID: testBackup, Line: testLine, Time: testTime, DataRevision: 90, Encrypted: true}.At(100)
	sum := strings.Repeat("0a", 32)
	return Manifest{
		Format: Format, Cluster: "dcs", Line: testLine, ID: testBackup, Time: testTime, Revision: 100,
		Source: SourceLive, Version: "1", ClusterID: clusterA, RaftTerm: 2, Codec: CodecZstdAge, Recipients: []string{"age1x"},
		Data:   Object{Key: s.DataKey(), Bytes: 1000, SHA256: sum, StoredBytes: 100, StoredSHA256: sum},
		Facts:  &Object{Key: s.FactsKey(), Bytes: 10, SHA256: sum, StoredBytes: 5, StoredSHA256: sum},
		HashKV: HashKV{1, 2, 100}, Keys: 3, Proofs: []Proof{{Name: "trailer", OK: true, Where: "spool"}},
	}
}

func TestManifestRoundTrip(t *testing.T) {
	m := testManifest()
	m.Time = m.Time.In(time.FixedZone("", 7200))
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseManifest(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, testManifest()) {
		t.Errorf("got  %+v\nwant %+v", got, testManifest())
	}
	s := got.Snapshot()
	if err := got.Check(s.ManifestKey()); err != nil {
		t.Error(err)
	}
	if s.DataKey() != m.Data.Key || s.Revision != 100 || s.DataRevision != 90 || !s.Encrypted || s.StoredBytes != 105 {
		t.Errorf("the backup of the manifest: %+v", s)
	}
}

func TestManifestCheck(t *testing.T) {
	key := testManifest().Snapshot().ManifestKey()
	if err := testManifest().Check(key); err != nil {
		t.Fatal(err)
	}
	other := testManifest().Snapshot()
	other.ID = "bzzzzzzzzzzz"
	other = other.At(100)
	for name, test := range map[string]struct {
		change func(*Manifest)
		words  string
	}{
		"newer format":       {func(m *Manifest) { m.Format = 2 }, "use a newer requorum"},
		"another line":       {func(m *Manifest) { m.Line = otherLine }, "line"},
		"another id":         {func(m *Manifest) { m.ID = "bzzzzzzzzzzz" }, "id"},
		"another time":       {func(m *Manifest) { m.Time = m.Time.Add(time.Second) }, "time"},
		"part of a second":   {func(m *Manifest) { m.Time = m.Time.Add(time.Millisecond) }, "time"},
		"another revision":   {func(m *Manifest) { m.Revision = 101 }, "revision"},
		"no cluster":         {func(m *Manifest) { m.Cluster = "" }, "no cluster"},
		"codec":              {func(m *Manifest) { m.Codec = "lz4" }, "codec"},
		"codec of plain":     {func(m *Manifest) { m.Codec = CodecZstd }, "expected"},
		"source":             {func(m *Manifest) { m.Source = "" }, "source"},
		"cluster id":         {func(m *Manifest) { m.ClusterID = "1" }, "cluster id"},
		"data of another":    {func(m *Manifest) { m.Data.Key = other.DataKey() }, "expected"},
		"data out of bounds": {func(m *Manifest) { m.Data.Key = "runs/x.json" }, "expected"},
		"data above":         {func(m *Manifest) { m.Data.Key = strings.Replace(m.Data.Key, "90-", "99999-", 1) }, ""},
		"facts of another":   {func(m *Manifest) { m.Facts.Key = other.FactsKey() }, "expected"},
		"no size":            {func(m *Manifest) { m.Data.Bytes = 0 }, "above zero"},
		"no stored size":     {func(m *Manifest) { m.Facts.StoredBytes = -1 }, "above zero"},
		"no hash":            {func(m *Manifest) { m.Data.SHA256 = "" }, "sha256"},
		"hash in capitals":   {func(m *Manifest) { m.Data.StoredSHA256 = strings.Repeat("0A", 32) }, "sha256"},
	} {
		m := testManifest()
		test.change(&m)
		if err := m.Check(key); err == nil || !strings.Contains(err.Error(), test.words) {
			t.Errorf("%s: %v, want an error with %q", name, err, test.words)
		}
	}
	if err := testManifest().Check(testManifest().Snapshot().FactsKey()); err == nil {
		t.Error("a manifest under the key of facts was accepted")
	}
}

func FuzzManifest(f *testing.F) {
	b, err := testManifest().Encode()
	if err != nil {
		f.Fatal(err)
	}
	key := testManifest().Snapshot().ManifestKey()
	f.Add(b, key)
	f.Add([]byte(`{"format":1}`), key)
	f.Add([]byte(`{"format":1,"time":"9999-12-31T23:59:59+00:01","facts":{}}`), key)
	f.Fuzz(func(t *testing.T, b []byte, key string) {
		m, err := ParseManifest(b)
		if err != nil || m.Check(key) != nil {
			return
		}
		s := m.Snapshot()
		if s.ManifestKey() != key || s.DataKey() != m.Data.Key {
			t.Errorf("a manifest under %q was accepted that describes %q and %q", key, s.ManifestKey(), s.DataKey())
		}
		again, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := ParseManifest(again); err != nil || back.Check(key) != nil {
			t.Errorf("what is written is not read: %v", err)
		}
	})
}

func FuzzFacts(f *testing.F) {
	f.Add([]byte(`{"format":1,"leased":[{"prefix":"/a/","count":1,"ttl_min":5,"ttl_max":10,"owners":[{"key":"/a/b"}]}],"agents":[{"name":"x","data":{}}]}`))
	f.Add([]byte(`{"format":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if facts, err := ParseFacts(b); err == nil && facts.Format != Format {
			t.Errorf("format %d was accepted", facts.Format)
		}
	})
}

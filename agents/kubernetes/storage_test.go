package kubernetes

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/agents/agentstest"
)

// stored reads a file that the serializers of k8s.io/apimachinery v0.34.4 wrote.
func stored(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var renewed = time.Date(2026, 11, 22, 11, 30, 0, 123456000, time.UTC)

// What an API server stores is read as what it is.
func TestDecode(t *testing.T) {
	const scheduler = "cp1_0c8b2d64-3a4e-4b8a-8f0e-2b1f6a4f7d10"
	for name, want := range map[string]spec{
		"election.protobuf":    {Holder: scheduler, Seconds: 15, Renewed: renewed},
		"election.json":        {Holder: scheduler, Seconds: 15, Renewed: renewed},
		"node.protobuf":        {Holder: "worker1", Seconds: 40, Renewed: renewed.Add(-3 * time.Second)},
		"node.json":            {Holder: "worker1", Seconds: 40, Renewed: renewed.Add(-3 * time.Second)},
		"released.protobuf":    {Seconds: 1, Renewed: renewed},
		"coordinated.protobuf": {Holder: scheduler, Seconds: 15, Renewed: renewed},
		"empty.protobuf":       {},
	} {
		if got, err := decodeLease(stored(t, name)); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, want)
		}
	}
}

// What tests write is what an API server writes.
func TestRowsOfTestsAreGenuine(t *testing.T) {
	if got := agentstest.KubernetesLease("kube-system", "kube-scheduler", "cp1_0c8b", 15, renewed); got != string(stored(t, "plain.protobuf")) {
		t.Errorf("a lease is written as %x", got)
	}
	if got := agentstest.KubernetesRegistration("10.0.0.1", 4); got != string(stored(t, "masterlease.protobuf")) {
		t.Errorf("a registration is written as %x", got)
	}
}

// What cannot be read is said, with the reason, and never guessed at.
func TestDecodeRefuses(t *testing.T) {
	election := stored(t, "election.protobuf")
	other := bytes.Replace(election, []byte("Lease"), []byte("Leash"), 1)
	for _, test := range []struct {
		name  string
		value []byte
		kind  error
		says  string
	}{
		{"encrypted", []byte("k8s:enc:aescbc:v1:key1:\x8f\x01\xff"), errEncrypted, `"aescbc"`},
		{"encrypted by a KMS", []byte("k8s:enc:kms:v2:cloud:\x0a\x01"), errEncrypted, `"kms"`},
		{"encrypted, cut", []byte("k8s:enc:"), errEncrypted, `""`},
		{"CBOR", stored(t, "election.cbor"), errForm, "CBOR"},
		{"nothing", nil, errForm, "known form"},
		{"a text", []byte("hello"), errForm, "known form"},
		{"an API server", stored(t, "masterlease.protobuf"), errForm, `"Endpoints"`},
		{"another object", other, errForm, `"Leash"`},
		{"JSON of another object", []byte(`{"kind":"Pod","apiVersion":"v1"}`), errForm, `"Pod"`},
		{"JSON, cut", []byte(`{"kind":"Lease"`), errForm, "JSON"},
		{"JSON with a time that is none", []byte(`{"kind":"Lease","apiVersion":"coordination.k8s.io/v1","spec":{"renewTime":"yesterday"}}`), errForm, "yesterday"},
		{"a time without a text form", []byte(`{"kind":"Lease","apiVersion":"coordination.k8s.io/v1","spec":{"renewTime":"9999-12-31T23:59:59-05:00"}}`), errForm, "renewTime"},
		{"a time before all", []byte(agentstest.KubernetesLease("a", "b", "c", 1, time.Unix(-5, 0))), errForm, "renewTime"},
		{"compressed", []byte("k8s\x00" + string(election[4:len(election)-4]) + "\x1a\x04gzip\x22\x00"), errForm, `"gzip"`},
		{"protobuf, cut", election[:len(election)-30], errForm, "field"},
	} {
		s, err := decodeLease(test.value)
		if !errors.Is(err, test.kind) || s != (spec{}) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %+v, %v; want %v and %q", test.name, s, err, test.kind, test.says)
		}
	}
}

// Whatever the bytes, an answer is one that facts can hold.
func FuzzDecode(f *testing.F) {
	files, err := filepath.Glob("testdata/*.*")
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		s, err := decodeLease(value)
		if err != nil {
			if s != (spec{}) || !errors.Is(err, errEncrypted) && !errors.Is(err, errForm) {
				t.Fatalf("%+v, %v", s, err)
			}
			return
		}
		if _, err := s.Renewed.MarshalJSON(); err != nil {
			t.Fatal(err)
		}
	})
}

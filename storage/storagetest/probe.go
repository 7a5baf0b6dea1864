package storagetest

import (
	"testing"

	"github.com/requorum/requorum/storage"
)

// testProbe: a check of the configuration must not leave a trace in a bucket that nothing may be deleted from.
func testProbe(t *testing.T, s storage.Store) {
	if err := storage.Probe(t.Context(), s); err != nil {
		t.Fatalf("probing a store that can be written to: %v", err)
	}
	for o, err := range s.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		t.Errorf("the probe left the object %s", o.Key)
	}
	for u, err := range storage.AsSweeper(s).Unfinished(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		t.Errorf("the probe left an unfinished upload of %s", u.Key)
	}
}

package dbfile

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

// TestSum compares a sum over pieces of every size with the hash of the whole.
func TestSum(t *testing.T) {
	body := []byte(strings.Repeat("a page of bbolt ", 64)) // two sectors
	trailer := sha256.Sum256(body)
	snapshot := append(body[:len(body):len(body)], trailer[:]...)
	damaged := append([]byte(nil), snapshot...)
	damaged[17] ^= 1
	for name, c := range map[string]struct {
		file []byte
		ok   bool
	}{
		"snapshot":    {snapshot, true},
		"damaged":     {damaged, false},
		"no trailer":  {body, false},
		"cut off":     {snapshot[:len(snapshot)-1], false},
		"only a sum":  {trailer[:], false},
		"shorter yet": {trailer[:5], false},
		"nothing":     {nil, false},
	} {
		whole := sha256.Sum256(c.file)
		for size := 1; size <= len(c.file)+1; size++ {
			s := NewSum()
			for rest := c.file; len(rest) > 0; rest = rest[min(size, len(rest)):] {
				if _, err := s.Write(rest[:min(size, len(rest))]); err != nil {
					t.Fatal(err)
				}
			}
			err := s.CheckTrailer()
			if c.ok != (err == nil) {
				t.Fatalf("%s in pieces of %d: %v", name, size, err)
			}
			if verdict, ok := errors.AsType[*CheckError](err); !c.ok && (!ok || verdict.Stage != StageTrailer) {
				t.Fatalf("%s in pieces of %d: %v is no verdict on the trailer", name, size, err)
			}
			if got := s.SHA256(); got != hex.EncodeToString(whole[:]) || s.SHA256() != got {
				t.Fatalf("%s in pieces of %d: sha256 %s, want %x", name, size, got, whole)
			}
		}
	}
}

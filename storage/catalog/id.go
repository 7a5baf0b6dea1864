package catalog

import (
	"crypto/rand"
	"fmt"
	"strings"
)

// Kind is what an id names: its first letter.
type Kind byte

// The kinds of ids.
const (
	KindBackup Kind = 'b'
	KindLine   Kind = 'l'
	KindRun    Kind = 'r'
	KindDrill  Kind = 'd'
)

// alphabet is Crockford's: no letter that looks like a digit or another letter.
const alphabet = "0123456789abcdefghjkmnpqrstvwxyz"

// idLength is that of a whole id in bytes: the kind and 55 random bits.
const idLength = 12

// NewID returns a fresh id: the letter of its kind and 11 random characters, so that ids never meet, whoever
// makes them. They begin with a letter, which tells them from revisions, and hold no '-'.
func NewID(kind Kind) string {
	var b [idLength]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	for i, c := range b {
		b[i] = alphabet[c%byte(len(alphabet))]
	}
	b[0] = byte(kind)
	return string(b[:])
}

// CheckID returns an error unless id is one that [NewID] can have made for kind.
func CheckID(kind Kind, id string) error {
	if len(id) != idLength || id[0] != byte(kind) || strings.Trim(id[1:], alphabet) != "" {
		return fmt.Errorf("id %q: expected %q and %d characters of %s", id, kind, idLength-1, alphabet)
	}
	return nil
}

package dbfile

import (
	"hash/maphash"
	"math/bits"
)

// keyset is a set of keys as 64-bit fingerprints, spread by a second hash over partitions that grow apart from each other (so that
// growing needs little memory on top). Two given keys are taken for one with a probability of 2^-72: with five million
// keys, that any two of them are has one chance in 400 million.
//
// It takes 9 to 14 MiB for each million keys, 10 when it holds one million (TestKeysetMemory).
type keyset struct {
	partition, fingerprint maphash.Seed
	parts                  [1 << partitionBits]part
}

const partitionBits = 9

// part is an open-addressed table; 0 marks a free slot.
type part struct {
	slots []uint64
	used  int
}

func newKeyset() *keyset {
	return &keyset{partition: maphash.MakeSeed(), fingerprint: maphash.MakeSeed()}
}

// has reports whether key is in the set, and adds it if add says so.
func (s *keyset) has(key []byte, add bool) bool {
	p := &s.parts[maphash.Bytes(s.partition, key)>>(64-partitionBits)]
	f := maphash.Bytes(s.fingerprint, key) | 1 // never 0
	if len(p.slots) == 0 {
		if !add {
			return false
		}
		p.slots = make([]uint64, 8)
	}
	i, found := p.find(f)
	if found || !add {
		return found
	}
	p.slots[i] = f
	if p.used++; p.used*8 > len(p.slots)*7 {
		p.grow()
	}
	return false
}

// find returns f's slot, or the free one where it belongs.
func (p *part) find(f uint64) (slot int, found bool) {
	hi, _ := bits.Mul64(f, uint64(len(p.slots)))
	for i := int(hi); ; {
		switch p.slots[i] {
		case f:
			return i, true
		case 0:
			return i, false
		}
		if i++; i == len(p.slots) {
			i = 0
		}
	}
}

func (p *part) grow() {
	old := p.slots
	p.slots = make([]uint64, len(old)+len(old)/2)
	for _, f := range old {
		if f != 0 {
			i, _ := p.find(f)
			p.slots[i] = f
		}
	}
}

package dbfile

import (
	"hash/crc32"
	"sync"
)

// suffixCRC is the CRC-32C of a byte string that grows at its front.
type suffixCRC struct {
	crc   uint32
	power uint32 // x^(8·length) modulo the polynomial
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func newSuffixCRC() suffixCRC { return suffixCRC{power: one} }

// prepend puts a byte string of which crc is the checksum and n the length before what s has.
func (s *suffixCRC) prepend(crc uint32, n int64) {
	s.crc ^= multiply(crc, s.power)
	s.power = multiply(s.power, shift(n))
}

// Polynomials over GF(2) modulo the Castagnoli polynomial, bits reversed: the highest bit is the constant term (as in zlib's
// crc32_combine).
const one = 1 << 31

func multiply(a, b uint32) uint32 {
	var product uint32
	for ; a != 0; a <<= 1 {
		product ^= b & -(a >> 31)
		b = b>>1 ^ crc32.Castagnoli&-(b&1)
	}
	return product
}

// shift is x^(8n), for n below 2^61.
func shift(n int64) uint32 {
	p, t := uint32(one), squares()
	for k := 3; n > 0; k, n = k+1, n>>1 {
		if n&1 != 0 {
			p = multiply(t[k], p)
		}
	}
	return p
}

// squares are x^(2^k).
var squares = sync.OnceValue(func() *[64]uint32 {
	var t [64]uint32
	t[0] = one >> 1
	for k := 1; k < len(t); k++ {
		t[k] = multiply(t[k-1], t[k-1])
	}
	return &t
})

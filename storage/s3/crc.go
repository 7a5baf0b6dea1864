package s3

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc64"
)

// nvme is the polynomial of CRC64NVME, reflected, as AWS uses it.
const nvme = 0x9a6c9329ac4bc9b5

// checksum works out CRC64NVME values. The table is shared by all who copy it.
type checksum struct{ table *crc64.Table }

func newChecksum() checksum { return checksum{crc64.MakeTable(nvme)} }

func (c checksum) of(b []byte) uint64 { return crc64.Checksum(b, c.table) }

// encode gives the form in which S3 writes a checksum.
func encode(crc uint64) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint64(nil, crc))
}

// A shift turns the CRC of some bytes into what it contributes to the CRC of those bytes and n more: a linear
// map over GF(2), one column for each bit. With it the checksum of an object follows from those of its parts,
// which are worked out in parallel and only once.
type shift [64]uint64

func (m *shift) apply(v uint64) (sum uint64) {
	for i := 0; v != 0; i, v = i+1, v>>1 {
		sum ^= m[i] & -(v & 1)
	}
	return sum
}

// times returns the map that applies b, then m.
func (m *shift) times(b *shift) *shift {
	var p shift
	for i := range b {
		p[i] = m.apply(b[i])
	}
	return &p
}

// shiftBy returns the map for n more bytes.
func shiftBy(n int64) *shift {
	var power, result shift
	power[0] = nvme // one zero bit: shift right, and where a one drops out, add the polynomial
	for i := 1; i < 64; i++ {
		power[i] = 1 << (i - 1)
	}
	for i := range result {
		result[i] = 1 << i
	}
	step, all := &power, &result
	for range 3 { // eight bits
		step = step.times(step)
	}
	for ; n > 0; n >>= 1 {
		if n&1 == 1 {
			all = step.times(all)
		}
		step = step.times(step)
	}
	return all
}

package s3

import (
	"testing"

	"github.com/requorum/requorum/storage/storagetest"
)

func TestChecksum(t *testing.T) {
	c := newChecksum()
	// The check value of CRC-64/NVME, and AWS's own example in the SDK's tests.
	if got := c.of([]byte("123456789")); got != 0xae8b14860a799888 {
		t.Errorf("CRC64NVME of 123456789 is %#x", got)
	}
	if got, want := encode(c.of([]byte("Hello world"))), "OOJZ0D8xKts="; got != want {
		t.Errorf("CRC64NVME of Hello world is %s, want %s", got, want)
	}
}

// The checksum of a whole follows from those of its parts, wherever it is cut.
func TestChecksumOfParts(t *testing.T) {
	c := newChecksum()
	data := storagetest.Bytes(100_003, 1)
	whole := c.of(data)
	for _, cut := range []int{0, 1, 2, 255, 4096, 50_000, 100_002, 100_003} {
		if got := shiftBy(int64(len(data)-cut)).apply(c.of(data[:cut])) ^ c.of(data[cut:]); got != whole {
			t.Errorf("cut at %d: %#x, want %#x", cut, got, whole)
		}
	}
}

func TestSum(t *testing.T) {
	c := newChecksum()
	data := storagetest.Bytes(2*partSize+77, 2)
	u := &upload{}
	for rest, number := data, int32(1); len(rest) > 0; number++ {
		b := rest[:min(partSize, len(rest))]
		u.done, rest = append(u.done, part{number: number, size: len(b), crc: c.of(b)}), rest[len(b):]
	}
	if size, crc := u.sum(); size != int64(len(data)) || crc != c.of(data) {
		t.Errorf("sum: %d bytes, %#x; want %d, %#x", size, crc, len(data), c.of(data))
	}
}

func BenchmarkChecksum(b *testing.B) {
	c := newChecksum()
	data := storagetest.Bytes(partSize, 3)
	b.SetBytes(partSize)
	for b.Loop() {
		c.of(data)
	}
}

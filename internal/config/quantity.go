package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Percent is a share of a whole, written with its sign: 75%.
type Percent int

func (p *Percent) parse(text string, _ *decoder) *fault {
	const advice = "write it like 75%"
	number, ok := strings.CutSuffix(strings.TrimSpace(text), "%")
	n, err := strconv.Atoi(strings.TrimSpace(number))
	switch {
	case !ok || err != nil:
		return &fault{quote(text) + " is no percentage", advice}
	case n < 0 || n > 100:
		return &fault{quote(text) + " is not from 0% to 100%", advice}
	}
	*p = Percent(n)
	return nil
}

func (*Percent) describe() string { return "percentage" }

// String writes it as it is read.
func (p Percent) String() string { return fmt.Sprintf("%d%%", int(p)) }

// Share is the percentage as a number from 0 to 1.
func (p Percent) Share() float64 { return float64(p) / 100 }

// Bytes is a size, written with a unit: 8GiB, 500MB.
type Bytes int64

var byteUnits = []struct {
	name string
	size float64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}}

func (b *Bytes) parse(text string, _ *decoder) *fault {
	const advice = "write a number with a unit, such as 8GiB or 500MB"
	for _, u := range byteUnits {
		number, ok := strings.CutSuffix(strings.TrimSpace(text), u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || !(n >= 0 && n*u.size < math.MaxInt64) {
			break
		}
		*b = Bytes(n * u.size)
		return nil
	}
	return &fault{quote(text) + " is no size", advice}
}

func (*Bytes) describe() string { return "size" }

package cluster

import (
	"testing"
	"time"
)

func TestSkew(t *testing.T) {
	at := func(ms int) time.Time { return time.UnixMilli(1_700_000_000_000 + int64(ms)) }
	for _, tc := range []struct {
		name          string
		before, after int // ms
		date          int // ms, whole seconds
		want          time.Duration
	}{
		{"the same second", 200, 300, 0, 0},
		{"the second changed meanwhile", 900, 1100, 1000, 0},
		{"dated just before the question", 1050, 1100, 0, -50 * time.Millisecond},
		{"behind", 5200, 5300, 0, -4200 * time.Millisecond},
		{"ahead", 200, 300, 5000, 4700 * time.Millisecond},
		{"a slow answer excuses much", 200, 4900, 4000, 0},
	} {
		if got := skew(at(tc.before), at(tc.after), at(tc.date)); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

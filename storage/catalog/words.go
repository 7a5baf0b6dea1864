package catalog

import (
	"fmt"
	"strings"
)

// Size writes n bytes in the unit that a person would use: 999 B, 1.5 GB.
func Size(n int64) string {
	const unit = 1000
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	f, exp := float64(n)/unit, 0
	for f >= unit && exp < 4 {
		f, exp = f/unit, exp+1
	}
	return fmt.Sprintf("%.1f %cB", f, "kMGTP"[exp])
}

// Count writes how many of something there are: 1 leased key, 2 leased keys, 3 prefixes. The plural ends in s, after an x in es.
func Count[N int | int64](n N, what string) string {
	switch {
	case n == 1:
	case strings.HasSuffix(what, "x"):
		what += "es"
	default:
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

package catalog

import "testing"

func TestWords(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 1536e6: "1.5 GB", 1 << 60: "1152.9 PB"} {
		if got := Size(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
	for n, want := range map[int]string{0: "0 members", 1: "1 member", 2: "2 members"} {
		if got := Count(n, "member"); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
	if got := Count(int64(3), "leased prefix"); got != "3 leased prefixes" {
		t.Errorf("%q", got)
	}
}

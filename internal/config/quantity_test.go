package config

import "testing"

func TestQuantities(t *testing.T) {
	for text, want := range map[string]Percent{"0%": 0, " 75 % ": 75, "100%": 100} {
		var p Percent
		if f := p.parse(text, nil); f != nil || p != want {
			t.Errorf("%q is %v, %v; want %v", text, p, f, want)
		}
	}
	for _, text := range []string{"", "75", "-1%", "101%", "7.5%", "%"} {
		if f := new(Percent).parse(text, nil); f == nil {
			t.Errorf("%q is taken for a percentage", text)
		}
	}
	for text, want := range map[string]Bytes{"8GiB": 8 << 30, "500MB": 500e6, "1.5 KiB": 1536, "0B": 0, "7kB": 7000} {
		var b Bytes
		if f := b.parse(text, nil); f != nil || b != want {
			t.Errorf("%q is %v, %v; want %v", text, b, f, want)
		}
	}
	for _, text := range []string{"", "8", "-1GiB", "GiB", "NaNB", "infTB", "1e30TiB", "8Gi"} {
		if f := new(Bytes).parse(text, nil); f == nil {
			t.Errorf("%q is taken for a size", text)
		}
	}
}

package etcdtest

import (
	"strings"
	"testing"
)

func TestDiff(t *testing.T) {
	a := Row{Key: "a", Value: "1", CreateRevision: 2, ModRevision: 2, Version: 1}
	b := Row{Key: "b", Value: "1", CreateRevision: 3, ModRevision: 3, Version: 1, Lease: 77}
	changed := b
	changed.Lease = 0
	tests := []struct {
		name      string
		want, got []Row
		diff      string
	}{
		{"same", []Row{a, b}, []Row{a, b}, ""},
		{"both empty", nil, []Row{}, ""},
		{"missing first", []Row{a, b}, []Row{b}, "missing     " + a.String() + "\n"},
		{"missing last", []Row{a, b}, []Row{a}, "missing     " + b.String() + "\n"},
		{"unexpected", []Row{b}, []Row{a, b}, "unexpected  " + a.String() + "\n"},
		{"different", []Row{a, b}, []Row{a, changed}, "want        " + b.String() + "\n     found  " + changed.String() + "\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := Diff(test.want, test.got); got != test.diff {
				t.Errorf("got:\n%swant:\n%s", got, test.diff)
			}
		})
	}
	many := make([]Row, 25)
	if got := Diff(many, nil); !strings.HasSuffix(got, "and 5 more\n") || strings.Count(got, "\n") != 21 {
		t.Errorf("a long difference is not cut:\n%s", got)
	}
}

func TestWithoutPrefix(t *testing.T) {
	rows := []Row{{Key: "/a/1"}, {Key: "/b/1"}, {Key: "/c"}}
	MustEqual(t, []Row{{Key: "/b/1"}}, WithoutPrefix(rows, "/a/", "/c"))
	if len(rows) != 3 || rows[0].Key != "/a/1" {
		t.Error("the argument was changed")
	}
}

func TestFillValues(t *testing.T) {
	for _, opt := range []FillOptions{{ValueSize: 1}, {ValueSize: 300}, {ValueSize: 2000, Random: true}, {}} {
		size := opt.withDefaults().ValueSize
		if a, b := opt.Value(3), opt.Value(3); a != b || len(a) != size {
			t.Errorf("%+v: values of %d and %d bytes, equal: %v", opt, len(a), len(b), a == b)
		}
		if size > 100 && opt.Value(3) == opt.Value(4) {
			t.Errorf("%+v: two keys have the same value", opt)
		}
	}
}

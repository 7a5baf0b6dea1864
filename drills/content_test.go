package drills

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/repository"
)

// keys is a cluster that holds them.
type keys []Key

func (k keys) Keys(context.Context, int64) iter.Seq2[Key, error] {
	return func(yield func(Key, error) bool) {
		for _, key := range k {
			if key.Name == "error" {
				yield(Key{}, errors.New("gone"))
				return
			}
			if !yield(key, nil) {
				return
			}
		}
	}
}

func (keys) Leases(context.Context) ([]int64, error) { return nil, nil }
func (keys) Access(context.Context) (Access, error)  { return Access{}, nil }

func key(name string, change ...func(*Key)) Key {
	k := Key{Name: name, Create: 1, Mod: 2, Version: 3, Sum: 4}
	for _, c := range change {
		c(&k)
	}
	return k
}

func leased(k *Key) { k.Leased = 7 }

// Only what was planned may differ: everything else that a restore did to a key is found, and named.
func TestCompare(t *testing.T) {
	plan := planned{edits: map[string]string{"/a/removed": "remove", "/a/written": "write", "/z/new": "write"}, leased: func(name string) bool { return name != "/kept" }}
	whole := keys{key("/a/1"), key("/a/removed"), key("/a/written"), key("/b/1"), key("/b/2", leased), key("/kept", leased), key("top")}
	good := keys{key("/a/1"), key("/a/written", func(k *Key) { k.Mod, k.Sum = 9, 9 }), key("/b/1"), key("/kept", leased), key("/z/new"), key("top")}
	for _, c := range []struct {
		name             string
		backup, restored keys
		different        int64
		words            string
	}{
		{"as planned", whole, good, 0, ""},
		{"nothing restored", whole, nil, 5, "/a/1"},
		{"nothing in the backup", nil, keys{key("/a/1")}, 1, "not in the backup"},
		{"a key lost in the middle", whole, without(good, "/b/1"), 1, `"/b/1" is in the backup, and not`},
		{"the last key lost", whole, without(good, "top"), 1, `"top" is in the backup, and not`},
		{"a kept lease's key lost", whole, without(good, "/kept"), 1, `"/kept" is in the backup`},
		{"a foreign key", whole, append(slices.Clone(good), key("zz")), 1, `"zz" is in the restored cluster`},
		{"a foreign first key", whole, append(keys{key("/0")}, good...), 1, `"/0" is in the restored cluster`},
		{"another value", whole, changed(good, "/b/1", func(k *Key) { k.Sum = 5 }), 1, "/b/1"},
		{"another mod revision", whole, changed(good, "/b/1", func(k *Key) { k.Mod = 5 }), 1, "/b/1"},
		{"another create revision", whole, changed(good, "/b/1", func(k *Key) { k.Create = 5 }), 1, "/b/1"},
		{"another version", whole, changed(good, "/b/1", func(k *Key) { k.Version = 5 }), 1, "/b/1"},
		{"another lease", whole, changed(good, "/kept", func(k *Key) { k.Leased = 5 }), 1, "/kept"},
	} {
		got, err := compare(t.Context(), c.backup, c.restored, plan)
		if err != nil {
			t.Fatal(err)
		}
		if got.Different != c.different || c.words != "" && !strings.Contains(strings.Join(got.First, "\n"), c.words) {
			t.Errorf("%s: %d different, %q; want %d, %q", c.name, got.Different, got.First, c.different, c.words)
		}
		if (got.judge() == nil) != (c.different == 0) {
			t.Errorf("%s: judged %v", c.name, got.judge())
		}
	}
	got, err := compare(t.Context(), whole, good, plan)
	if err != nil || got.Compared != 7 || got.Removed != 2 || got.Written != 2 {
		t.Errorf("%+v, %v", got, err)
	}
	want := []PrefixCount{{"(top level)", 2, 2}, {"/a/", 3, 2}, {"/b/", 2, 1}, {"/z/", 0, 1}}
	if !slices.Equal(got.Prefixes, want) {
		t.Errorf("counts by prefix %+v, want %+v", got.Prefixes, want)
	}
}

func without(all keys, name string) keys {
	return slices.DeleteFunc(slices.Clone(all), func(k Key) bool { return k.Name == name })
}

func changed(all keys, name string, change func(*Key)) keys {
	all = slices.Clone(all)
	for i := range all {
		if all[i].Name == name {
			change(&all[i])
		}
	}
	return all
}

// Whichever cluster fails while it is read, nothing is claimed about either.
func TestCompareWithAClusterThatFails(t *testing.T) {
	broken := keys{key("/a"), {Name: "error"}}
	whole := keys{key("/a"), key("/b"), key("/c")}
	for name, c := range map[string][2]keys{"backup": {broken, whole}, "restored": {whole, broken}, "both": {broken, broken}} {
		if got, err := compare(t.Context(), c[0], c[1], planned{leased: func(string) bool { return false }}); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// A restore that removes every key leaves nothing; one that differs is no proof. Each has the kind that its exit code follows from.
func TestJudgeContent(t *testing.T) {
	for _, c := range []struct {
		content Content
		want    error
	}{
		{Content{Compared: 2, Removed: 1}, nil},
		{Content{Compared: 2, Removed: 2}, catalog.ErrNothingToRestore},
		{Content{}, catalog.ErrNothingToRestore},
		{Content{Compared: 2, Removed: 2, Different: 1, First: []string{"/a"}}, repository.ErrVerify},
	} {
		if err := c.content.judge(); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v, want %v", c.content, err, c.want)
		}
	}
}

// However many prefixes there are, the table stays short and counts every key.
func TestCountsByPrefix(t *testing.T) {
	for _, n := range []int{1, mostPrefixes, mostPrefixes + 1, 500, 2 * tooMany} {
		for _, layout := range []string{"/registry/kind%d/name", "/kind%d/name", "kind%d/name/of", "%d"} {
			c := newCounts()
			for i := range n {
				c.add(fmt.Sprintf(layout, i), 2, 1)
			}
			all := c.list()
			var backup, restored int64
			for _, p := range all {
				backup, restored = backup+p.Backup, restored+p.Restored
			}
			if len(all) > mostPrefixes || backup != int64(2*n) || restored != int64(n) {
				t.Errorf("%d keys like %q: %d prefixes with %d and %d", n, layout, len(all), backup, restored)
			}
		}
	}
}

// Every difference in who may do what is found.
func TestCompareAccess(t *testing.T) {
	was := Access{Enabled: true, Users: map[string]string{"root": "root", "app": "reader"}, Roles: map[string]string{"reader": "READ of a"}}
	for _, c := range []struct {
		now  Access
		want []string
	}{
		{was, nil},
		{Access{Users: was.Users, Roles: was.Roles}, []string{"authentication is on in the backup and off in the restored cluster"}},
		{Access{Enabled: true, Users: map[string]string{"root": "root"}, Roles: was.Roles}, []string{"user app is missing"}},
		{Access{Enabled: true, Users: map[string]string{"root": "root", "app": "root", "x": ""}, Roles: map[string]string{"reader": "WRITE of a"}},
			[]string{"role reader has WRITE of a instead of READ of a", "user app has root instead of reader", "user x is new"}},
	} {
		if got := compareAccess(was, c.now); !slices.Equal(got, c.want) {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

package config

import "strings"

// Leased is leased keys under a prefix that their owners register anew. With neither Count nor Expect they are
// only reported.
type Leased struct {
	Prefix   KeyPrefix `key:"prefix,required"`
	Count    int       `key:"count" default:"0"`
	Expect   []string  `key:"expect"`
	Deadline Duration  `key:"deadline" default:"2m"`
}

func (l *Leased) name() string { return string(l.Prefix) }

func (l *Leased) owns(keep string) (where string, kept bool) {
	return string(l.Prefix), strings.HasPrefix(string(l.Prefix), keep)
}

func (l *Leased) check(k *checker, key string) {
	if l.Count > 0 && len(l.Expect) > 0 {
		k.add(key+".count", "count and expect are both written", "keep expect, which says more")
	}
	k.twice(l.Expect, item(key+".expect"), "the key")
	for i, e := range l.Expect {
		if !strings.HasPrefix(e, string(l.Prefix)) {
			k.add(item(key+".expect")(i), quote(e)+" does not begin with the prefix "+quote(string(l.Prefix)), "write whole keys")
		}
	}
	k.positive(key+".deadline", l.Deadline)
}

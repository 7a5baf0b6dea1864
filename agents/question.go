package agents

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// fewKeys is how many keys of a group a question can name one by one.
const fewKeys = 5

// question asks what to do with a group of leased keys. The flags that it
// offers name the group's prefix - unless that would also keep some of short,
// the sorted keys that are removed without asking: then they name the keys, if
// those are few.
func (g *group) question(short []string) Refusal {
	keys, owns, life := "leased keys", "them", "their leases were granted"
	if g.Count == 1 {
		keys, owns, life = "leased key", "it", "its lease was granted"
	}
	switch {
	case g.TTLMax == 0:
		life = "the backup does not hold the lease, so kept it would stay for ever"
	case g.TTLMin == 0:
		life += fmt.Sprintf(" for up to %s or is not in the backup", seconds(g.TTLMax))
	case g.TTLMin != g.TTLMax:
		life += fmt.Sprintf(" for %s to %s", seconds(g.TTLMin), seconds(g.TTLMax))
	default:
		life += " for " + seconds(g.TTLMin)
	}
	r := Refusal{
		What: fmt.Sprintf("%d %s under %s: no configured agent owns %s, and %s", g.Count, keys, quote(g.Prefix), owns, life),
		Risk: "kept, a registration of a program that is long gone is believed for that whole time; dropped, data that is no registration is lost",
	}
	prefixes := []string{g.Prefix}
	if covered(short, prefixes) > 0 && g.Count <= fewKeys {
		prefixes = nil
		for _, k := range g.first {
			prefixes = append(prefixes, string(k.kv.Key))
		}
	}
	if n := covered(short, prefixes); n > 0 {
		r.Risk += fmt.Sprintf("; --keep-leased also keeps %d ghosts there whose leases are shorter", n)
	}
	var keep, drop []string
	for _, p := range prefixes {
		keep = append(keep, "--keep-leased "+quote(p))
		drop = append(drop, "--drop-leased "+quote(p))
	}
	r.Flag = strings.Join(keep, " ") + " or " + strings.Join(drop, " ")
	return r
}

// covered counts the sorted keys that begin with one of the prefixes.
func covered(keys, prefixes []string) int {
	n := 0
	for _, p := range prefixes {
		at, _ := slices.BinarySearch(keys, p)
		for ; at < len(keys) && strings.HasPrefix(keys[at], p); at++ {
			n++
		}
	}
	return n
}

// seconds writes a TTL for a person.
func seconds(ttl int64) string {
	const most = int64(1<<63-1) / int64(time.Second)
	if ttl > most {
		return fmt.Sprintf("%d seconds", ttl)
	}
	return (time.Duration(ttl) * time.Second).String()
}

// quote writes a prefix so that a shell takes it as one word.
func quote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-:@=+,%", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

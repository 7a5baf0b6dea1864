package patroni

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// settings are dynamic settings by name, those of a group with its name and a
// dot before: "postgresql.parameters.max_connections". Values within groups may
// hold secrets, such as an archive_command, so a fingerprint stands for them.
type settings map[string]string

const fingerprint = "#" // what begins so is none of the values that JSON has

// settings is nil for a config that is none.
func (c config) settings() settings {
	if c == nil {
		return nil
	}
	all := settings{}
	all.add("", c)
	return all
}

func (s settings) add(under string, c config) {
	for name, value := range c {
		if group := parseConfig(value); group != nil {
			s.add(under+name+".", group)
			continue
		}
		var text bytes.Buffer
		if json.Compact(&text, value) != nil || text.String() == "null" { // to Patroni a null is not set
			continue
		}
		if under == "" {
			s[name] = text.String()
		} else {
			s[under+name] = fmt.Sprintf("%s%.4x", fingerprint, sha256.Sum256(text.Bytes()))
		}
	}
}

// changes names the settings in which now differs from s, with their values
// where those may be shown: what keeps agents from promoting comes first.
func (s settings) changes(now settings) []string {
	above := []string{"synchronous_mode", "pause"} // the later, the higher
	all := settings{}
	maps.Copy(all, s)
	maps.Copy(all, now)
	var changed []string
	for _, name := range slices.SortedFunc(maps.Keys(all), func(a, b string) int {
		return cmp.Or(cmp.Compare(slices.Index(above, b), slices.Index(above, a)), strings.Compare(a, b))
	}) {
		was, is := cmp.Or(s[name], "not set"), cmp.Or(now[name], "not set")
		switch {
		case was == is:
		case strings.HasPrefix(was, fingerprint) || strings.HasPrefix(is, fingerprint):
			changed = append(changed, name)
		default:
			changed = append(changed, fmt.Sprintf("%s %s (now %s)", name, was, is))
		}
	}
	return changed
}

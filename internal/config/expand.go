package config

import (
	"regexp"
	"strings"
)

var (
	variable     = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	soleVariable = regexp.MustCompile(`^\$\{[A-Za-z_][A-Za-z0-9_]*\}$`)
)

// expand fills in ${VAR} from the environment. $$ is one $; a $ before anything else stands for itself.
func (d *decoder) expand(text string) (string, *fault) {
	if !strings.Contains(text, "$") {
		return text, nil
	}
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(text, "$")
		b.WriteString(before)
		switch {
		case !found:
			return b.String(), nil
		case strings.HasPrefix(rest, "$"):
			b.WriteByte('$')
			text = rest[1:]
			continue
		case !strings.HasPrefix(rest, "{"):
			b.WriteByte('$')
			text = rest
			continue
		}
		name, after, closed := strings.Cut(rest[1:], "}")
		if !closed {
			return "", &fault{"${ without }", "write ${NAME}, or $$ for one dollar sign"}
		}
		if !variable.MatchString(name) {
			return "", &fault{quote("${"+name+"}") + " names no environment variable", "write ${NAME}, or $${ for the text itself"}
		}
		value, ok := d.lookup(name)
		if !ok {
			return "", &fault{"the environment has no variable " + name, "set it where requorum is started, or write $${ for the text itself"}
		}
		b.WriteString(value)
		text = after
	}
}

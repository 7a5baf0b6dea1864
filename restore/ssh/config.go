package ssh

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A configLine is one line of an ssh_config(5) file.
type configLine struct {
	key      string // in lower case
	args     []string
	where    string         // file:line
	included [][]configLine // of an Include: the files, in their order
}

// maxIncludes bounds Include in files that are included, which may be circles.
const maxIncludes = 16

// readConfig reads a file and what it includes. dir is where the names of included files begin that are not absolute.
func readConfig(path, dir string, depth int) (lines []configLine, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	n := 0
	for text := range strings.Lines(string(b)) {
		n++
		l := configLine{where: fmt.Sprintf("%s:%d", path, n)}
		keyword, rest, err := configWord(strings.TrimSpace(text), true)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.where, err)
		}
		if keyword == "" {
			continue
		}
		l.key = strings.ToLower(keyword)
		if !slices.Contains(forShell, l.key) {
			l.args, err = configWords(rest)
		} else if rest = strings.TrimLeft(rest, " \t="); rest != "" {
			l.args = []string{rest}
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.where, err)
		}
		if len(l.args) == 0 {
			return nil, fmt.Errorf("%s: %s says nothing", l.where, keyword)
		}
		if l.key == "include" {
			if l.included, err = include(l.args, dir, depth+1); err != nil {
				return nil, fmt.Errorf("%s: %w", l.where, err)
			}
		}
		lines = append(lines, l)
	}
	return lines, nil
}

func include(patterns []string, dir string, depth int) (files [][]configLine, err error) {
	if depth > maxIncludes {
		return nil, fmt.Errorf("more than %d files include each other", maxIncludes)
	}
	for _, p := range patterns {
		if rest, ok := strings.CutPrefix(p, "~/"); ok {
			p = filepath.Join(homeDir(), rest)
		} else if !filepath.IsAbs(p) {
			p = filepath.Join(dir, p)
		}
		paths, err := filepath.Glob(p)
		if err != nil {
			return nil, fmt.Errorf("include %s: %w", p, err)
		}
		for _, path := range paths {
			lines, err := readConfig(path, dir, depth)
			if err != nil {
				return nil, err
			}
			files = append(files, lines)
		}
	}
	return files, nil
}

// forShell are the keywords whose value is the rest of the line as it stands, which is meant for a shell.
var forShell = []string{"knownhostscommand", "localcommand", "proxycommand", "remotecommand"}

// configWords splits arguments, which may stand in quotes. Comments are left out.
func configWords(text string) (words []string, err error) {
	for {
		var word string
		if word, text, err = configWord(text, false); err != nil || word == "" && text == "" {
			return words, err
		}
		words = append(words, word)
	}
}

// configWord cuts the first word off a line. A keyword may have an equals sign after it. At the end, and where a comment begins, both are empty.
func configWord(line string, keyword bool) (word, rest string, err error) {
	if line == "" || line[0] == '#' {
		return "", "", nil
	}
	switch q := line[0]; q {
	case '"', '\'':
		end := strings.IndexByte(line[1:], q)
		if end < 0 {
			return "", "", errors.New("a quote is not closed")
		}
		word, rest = line[1:end+1], line[end+2:]
	default:
		ends := " \t"
		if keyword {
			ends = " \t="
		}
		end := strings.IndexAny(line, ends)
		if end < 0 {
			end = len(line)
		}
		word, rest = line[:end], line[end:]
	}
	rest = strings.TrimLeft(rest, " \t")
	if keyword {
		rest = strings.TrimLeft(strings.TrimPrefix(rest, "="), " \t")
	}
	return word, rest, nil
}

// An answer is what a configuration says of one host.
type answer struct {
	values map[string][]string // by keyword; the first line counts, but of those that add up all do
	// passed are the lines that may matter for reaching the host, and are not followed.
	passed []string

	alias, login string
	final        bool // the second time, which "Match final" asks for
	again        bool
}

// addUp are the keywords of which every line counts.
var addUp = []string{"identityfile", "certificatefile"}

// unfollowed are the keywords without which a host may not be reached, or not be trusted, that ssh(1) does reach. Where they have one of the
// values given, or any if there are none, whoever meets an error is told.
var unfollowed = map[string][]string{
	"addressfamily":           {"inet", "inet6"},
	"bindaddress":             nil,
	"bindinterface":           nil,
	"canonicalizehostname":    {"yes", "always"},
	"hostbasedauthentication": {"yes"},
	"knownhostscommand":       nil,
	"pkcs11provider":          nil,
	"proxyusefdpass":          {"yes"},
	"securitykeyprovider":     nil,
	"verifyhostkeydns":        {"yes"},
}

// ask collects what files say of a host, which is called alias, for the user login, which is empty if nobody was named. What comes first counts.
func ask(files [][]configLine, alias, login string) *answer {
	a := &answer{values: map[string][]string{}, alias: alias, login: login}
	for _, lines := range files {
		a.read(lines, true)
	}
	if a.again {
		a.final = true
		for _, lines := range files {
			a.read(lines, true)
		}
	}
	return a
}

func (a *answer) read(lines []configLine, counts bool) {
	on := counts
	for _, l := range lines {
		switch {
		case l.key == "host":
			on = counts && matches(l.args, a.alias)
		case l.key == "match":
			on = counts && a.match(l)
		case !on:
		case l.key == "include":
			for _, file := range l.included {
				a.read(file, true)
			}
		case slices.Contains(addUp, l.key):
			for _, v := range l.args {
				if !slices.Contains(a.values[l.key], v) {
					a.values[l.key] = append(a.values[l.key], v)
				}
			}
		case l.key == "proxyjump" && a.values["proxycommand"] != nil, l.key == "proxycommand" && !none(a.value("proxyjump")):
			// Of the two the first counts.
		case a.values[l.key] == nil:
			a.values[l.key] = l.args
			if which, ok := unfollowed[l.key]; ok && (which == nil && !strings.EqualFold(l.args[0], "none") || slices.Contains(which, strings.ToLower(l.args[0]))) {
				a.passed = append(a.passed, fmt.Sprintf("%s (%s)", l.key, l.where))
			}
		}
	}
}

// match judges the criteria of a Match line. Those that would run a program, or need what requorum does not know, do not match.
func (a *answer) match(l configLine) bool {
	for i := 0; i < len(l.args); i++ {
		criterion, negated := strings.CutPrefix(l.args[i], "!")
		criterion, value, given := strings.Cut(criterion, "=")
		criterion = strings.ToLower(criterion)
		var is bool
		switch criterion {
		case "all":
			is = true
		case "canonical", "final":
			a.again = a.again || criterion == "final"
			is = a.final
		default:
			if !given {
				if i++; i < len(l.args) {
					value = l.args[i]
				}
			}
			patterns := strings.Split(value, ",")
			switch criterion {
			case "host":
				is = matches(strings.Split(strings.ToLower(value), ","), a.hostName())
			case "originalhost":
				is = matches(strings.Split(strings.ToLower(value), ","), a.alias)
			case "user":
				is = matches(patterns, first(a.login, a.value("user"), me()))
			case "localuser":
				is = matches(patterns, me())
			default:
				if !a.final {
					a.passed = append(a.passed, fmt.Sprintf("Match %s (%s)", criterion, l.where))
				}
				return false
			}
		}
		if is == negated {
			return false
		}
	}
	return true
}

// value is the one value of a keyword, empty if there is none.
func (a *answer) value(key string) string {
	if v := a.values[strings.ToLower(key)]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// none says whether a value switches something off, or is not there.
func none(value string) bool { return value == "" || strings.EqualFold(value, "none") }

// hostName is the name that is connected to.
func (a *answer) hostName() string {
	return strings.NewReplacer("%%", "%", "%h", a.alias).Replace(first(a.value("hostname"), a.alias))
}

// matches says whether a name is one of the patterns, and none of those that begin with an exclamation mark.
func matches(patterns []string, name string) bool {
	found := false
	for _, p := range patterns {
		p, negated := strings.CutPrefix(p, "!")
		if like(p, name) {
			if negated {
				return false
			}
			found = true
		}
	}
	return found
}

// like compares with a pattern of * and ?.
func like(pattern, name string) bool {
	for pattern != "" {
		switch pattern[0] {
		case '*':
			for i := 0; i <= len(name); i++ {
				if like(pattern[1:], name[i:]) {
					return true
				}
			}
			return false
		case '?':
			if name == "" {
				return false
			}
		default:
			if name == "" || name[0] != pattern[0] {
				return false
			}
		}
		pattern, name = pattern[1:], name[1:]
	}
	return name == ""
}

// configs are the configuration files in the order in which they count.
func (o Options) configs() (found [][]configLine, err error) {
	type file struct{ path, dir string }
	files := []file{{home("config"), home("")}, {"/etc/ssh/ssh_config", "/etc/ssh"}}
	if o.Config != "" {
		files = []file{{o.Config, home("")}}
	}
	for _, f := range files {
		lines, err := readConfig(f.path, f.dir, 0)
		if errors.Is(err, fs.ErrNotExist) && o.Config == "" {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the SSH configuration: %w; correct it, or name another file as ssh.config", err)
		}
		found = append(found, lines)
	}
	return found, nil
}

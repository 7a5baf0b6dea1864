package local

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// command is one as systemctl show writes it.
var command = regexp.MustCompile(`path=(\S+) ; argv\[\]=(.*?) ; ignore_errors=`)

// runtimes start etcd in a file system of its own, whose paths a unit's text does not explain.
var runtimes = map[string]bool{"docker": true, "podman": true, "nerdctl": true, "ctr": true, "rkt": true, "systemd-nspawn": true, "machinectl": true}

// execStart reads the settings of etcd that stand in the unit and its environment files.
func (s systemd) execStart(p properties, o *outlook) {
	env := environment{}
	for _, e := range unquote(p.get("Environment")) {
		env.add(e)
	}
	complete := p.get("PassEnvironment") == ""
	for _, line := range p["EnvironmentFiles"] {
		pattern, optional := environmentFile(line)
		files, err := filepath.Glob(pattern)
		if err == nil && len(files) == 0 && !optional {
			o.problem("service", "%s, which unit %s reads its environment from, is not there: it would not start", pattern, s.unit)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				complete = false
				o.warn("service", "the environment of unit %s: %v", s.unit, err)
				continue
			}
			for _, e := range parseEnvironmentFile(string(data)) {
				env.add(e)
			}
		}
	}
	for _, line := range p["ExecStart"] {
		m := command.FindStringSubmatch(line)
		if m == nil || runtimes[filepath.Base(m[1])] {
			continue
		}
		words, plain := shellWords(env.expand(m[2]))
		for i, w := range words {
			if filepath.Base(w) != "etcd" && (i > 0 || !strings.HasPrefix(filepath.Base(w), "etcd")) {
				continue
			}
			program := w
			if i == 0 {
				program = m[1]
			}
			if info, err := os.Stat(program); err != nil || info.IsDir() {
				o.problem("service", "unit %s starts %s, which is not there", s.unit, program)
			}
			from := origin{from: "unit " + s.unit, program: program, complete: complete && plain, defaults: complete && plain, cwd: "/"}
			switch dir := p.get("WorkingDirectory"); {
			case filepath.IsAbs(strings.TrimPrefix(dir, "!")):
				from.cwd = strings.TrimPrefix(dir, "!")
			case dir != "": // somebody's home
				from.cwd = ""
			}
			o.flags = s.flags(settings(words[i+1:], env.list()), from)
			return
		}
	}
}

// environment is what a unit's processes are given.
type environment map[string]string

func (e environment) add(assignment string) {
	if name, value, ok := strings.Cut(assignment, "="); ok {
		e[name] = value
	}
}

func (e environment) list() []string {
	var all []string
	for name, value := range e {
		all = append(all, name+"="+value)
	}
	return all
}

var variable = regexp.MustCompile(`\$\$|\$\{(\w+)\}|\$(\w+)`)

// expand replaces variables as systemd does; those that are not set are empty.
func (e environment) expand(text string) string {
	return variable.ReplaceAllStringFunc(text, func(v string) string {
		if v == "$$" {
			return "$"
		}
		return e[strings.Trim(v, "${}")]
	})
}

// unquote splits assignments as systemctl show writes them: separated by spaces, in double quotes where they hold special characters.
func unquote(text string) (words []string) {
	var word strings.Builder
	quoted, started := false, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			quoted, started = !quoted, true
		case c == '\\' && i+1 < len(text):
			i++
			word.WriteByte(text[i])
			started = true
		case c == ' ' && !quoted:
			if started {
				words = append(words, word.String())
				word.Reset()
				started = false
			}
		default:
			word.WriteByte(c)
			started = true
		}
	}
	if started {
		words = append(words, word.String())
	}
	return words
}

// environmentFile splits "/etc/default/etcd (ignore_errors=yes)".
func environmentFile(line string) (path string, optional bool) {
	if i := strings.LastIndex(line, " (ignore_errors="); i >= 0 {
		return line[:i], strings.HasSuffix(line, "=yes)")
	}
	return strings.TrimPrefix(line, "-"), strings.HasPrefix(line, "-")
}

// parseEnvironmentFile reads assignments as systemd does: lines of NAME=VALUE, the value perhaps in quotes, # and ; begin comments, and a line that
// ends with a backslash goes on with the next.
func parseEnvironmentFile(text string) (assignments []string) {
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", "")) {
		line = strings.TrimSpace(line)
		name, value, ok := strings.Cut(line, "=")
		if !ok || line[0] == '#' || line[0] == ';' {
			continue
		}
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if n := len(value); n > 1 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
			quote := value[0]
			value = value[1 : n-1]
			if quote == '"' {
				value = strings.NewReplacer(`\"`, `"`, `\\`, `\`, `\$`, `$`, "\\`", "`").Replace(value)
			}
		}
		assignments = append(assignments, strings.TrimPrefix(name, "export ")+"="+value)
	}
	return assignments
}

// ownerOf is whom a unit runs as, by the names or numbers that it has; nil where this machine cannot tell. The system is asked, since it
// may know users from elsewhere than /etc/passwd.
func (s systemd) ownerOf(ctx context.Context, user, group string) *owner {
	var o owner
	var ok bool
	if user != "" && user != "root" {
		if o.uid, ok = s.lookup(ctx, "passwd", user, 2); !ok {
			return nil
		}
		if o.gid, ok = s.lookup(ctx, "passwd", user, 3); !ok && group == "" {
			return nil
		}
	}
	if group != "" {
		if o.gid, ok = s.lookup(ctx, "group", group, 2); !ok {
			return nil
		}
	}
	return &o
}

// lookup is a number in the entry of a user or a group. A number that has no entry stands for itself, as far as it is asked for.
func (s systemd) lookup(ctx context.Context, database, name string, field int) (int, bool) {
	if out, err := s.call(ctx, s.patience(), "getent", database, name); err == nil {
		if fields := strings.Split(strings.TrimSpace(out), ":"); len(fields) > field {
			n, err := strconv.Atoi(fields[field])
			return n, err == nil
		}
	}
	n, err := strconv.Atoi(name)
	return n, err == nil && field == 2
}

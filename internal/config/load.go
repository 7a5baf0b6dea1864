package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// SearchPath is where a configuration is looked for when none is named, best first.
func SearchPath() []string { return []string{"requorum.yaml", "/etc/requorum/requorum.yaml"} }

// ErrNoFile says that no configuration file was named and none found.
var ErrNoFile = errors.New("no configuration file: neither ./requorum.yaml nor /etc/requorum/requorum.yaml is there; name one with -c, or give --endpoints and --store")

// Find returns the configuration file to read: the one that was named, else the first of [SearchPath] that is there, else
// [ErrNoFile]. A file that is there but cannot be looked at is returned, so that reading it says why.
func Find(named string) (string, error) {
	if named != "" {
		return named, nil
	}
	for _, f := range SearchPath() {
		if _, err := os.Stat(f); !errors.Is(err, fs.ErrNotExist) {
			return f, nil
		}
	}
	return "", ErrNoFile
}

// maxFile bounds the size of a configuration file, in bytes.
const maxFile = 4 << 20

// Load reads a configuration file. lookup finds environment variables: os.LookupEnv.
//
// A non-nil error is [Problems], all of them. Then the configuration holds what could be read, for config check to go on with, and is
// nil only if the file could not be read or is no YAML; nothing else may start on it.
func Load(file string, lookup func(string) (string, bool)) (*Config, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, Problems{unreadable(file, err)}
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, Problems{unreadable(file, err)}
	}
	if len(data) > maxFile {
		return nil, Problems{{File: file, What: fmt.Sprintf("the file is larger than %d bytes", maxFile), Advice: "is it a configuration?"}}
	}
	c, err := Parse(file, data, lookup)
	if c != nil {
		c.warnInline(f)
	}
	return c, err
}

// warnInline warns of secrets written into a file that everyone on the machine may read.
func (c *Config) warnInline(f *os.File) {
	info, err := f.Stat()
	if err != nil || info.Mode().Perm()&0o004 == 0 {
		return
	}
	var s stored
	s.written(c.source, reflect.TypeFor[Config](), "", func(string) bool { return true })
	k := &checker{Config: c}
	for _, key := range s.Missing {
		k.warn(key, "a secret stands in a file that everyone on this machine may read", "chmod 600 "+c.File+", or move the secret into a file of its own")
	}
	c.Warnings.Sort()
}

func unreadable(file string, err error) Problem {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return Problem{File: file, What: "cannot read the configuration: " + err.Error(), Advice: "check the name and its permissions"}
}

// Parse reads a configuration from memory. file is what problems call it; relative paths in it start at its directory. The result
// is that of [Load].
func Parse(file string, data []byte, lookup func(string) (string, bool)) (*Config, error) {
	root, p := document(file, data)
	if p != nil {
		return nil, Problems{*p}
	}
	dir, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return nil, Problems{unreadable(file, err)}
	}
	return decode(&decoder{file: file, dir: dir, lookup: lookup}, root)
}

// decode fills a configuration from a document's root and checks it.
func decode(d *decoder, root *yaml.Node) (*Config, error) {
	d.at, d.bad = map[string]position{}, map[string]bool{}
	c := Default()
	c.File, c.at, c.bad, c.source = d.file, d.at, d.bad, root
	d.value(root, root, "", valueOf(c))
	c.derive()
	d.problems = append(d.problems, c.check()...)
	d.problems.Sort()
	c.Warnings.Sort()
	return c, d.problems.err()
}

var yamlLine = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?((?s).*)$`)

// grammar matches the errors of the library's parser, which count lines from 0; those of its scanner count from 1.
var grammar = regexp.MustCompile(`^did not find expected (<|node content|'-' indicator|key$|',' or)`)

// document parses YAML and returns the one document's root.
func document(file string, data []byte) (*yaml.Node, *Problem) {
	problem := func(line int, what, advice string) (*yaml.Node, *Problem) {
		return nil, &Problem{File: file, Line: line, Column: min(line, 1), What: what, Advice: advice}
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) || err == nil && len(doc.Content) == 0 {
		return problem(1, "the file is empty", "see docs/configuration.md for a minimal one")
	}
	if err == nil {
		err = dec.Decode(&second)
		if err == nil {
			return problem(max(second.Line, 1), "a second YAML document", "remove the --- line and what follows")
		}
	}
	if !errors.Is(err, io.EOF) && err != nil {
		m := yamlLine.FindStringSubmatch(err.Error())
		line, _ := strconv.Atoi(m[1])
		if grammar.MatchString(m[2]) {
			line++
		}
		return problem(max(line, 1), "not YAML: "+strings.TrimSpace(m[2]), "check indentation, quotes and brackets from there on")
	}
	return doc.Content[0], nil
}

// derive fills in the defaults that hang on other keys.
func (c *Config) derive() {
	for name, cl := range c.Clusters {
		if cl.Path == "" {
			cl.Path = name
		}
		if _, written := c.at["clusters."+name+".endpoints"]; !written {
			for _, m := range cl.Members {
				if m.ClientURL != "" {
					cl.Endpoints = append(cl.Endpoints, m.ClientURL)
				}
			}
		}
	}
}

package config

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Problem is one thing that is wrong with the configuration, or with what a value in it points to.
type Problem struct {
	File   string `json:"file"`             // as it was named to Load
	Line   int    `json:"line,omitempty"`   // from 1; 0 when the value stands in no file
	Column int    `json:"column,omitempty"` // from 1; 0 when the value stands in no file
	Key    string `json:"key,omitempty"`    // such as clusters.dcs.endpoints[1]
	What   string `json:"what"`
	Advice string `json:"advice,omitempty"`
}

// Error is "file:line: key: what; advice".
func (p Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	if p.Key != "" {
		b.WriteString(": " + p.Key)
	}
	b.WriteString(": " + p.What)
	if p.Advice != "" {
		b.WriteString("; " + p.Advice)
	}
	return b.String()
}

// Problems is all that is wrong, in the order of the file. As an error it means exit code 2.
type Problems []Problem

// Error is one problem a line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Sort puts the problems in the order of the file.
func (ps Problems) Sort() {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Key, b.Key))
	})
}

// Within says whether there is a problem at a key or below it.
func (ps Problems) Within(key string) bool {
	return slices.ContainsFunc(ps, func(p Problem) bool { return p.Key == key || strings.HasPrefix(p.Key, key+".") })
}

// err is nil without problems, so that a nil error is a nil interface.
func (ps Problems) err() error {
	if len(ps) == 0 {
		return nil
	}
	return ps
}

// position is a place in the file: line and column from 1.
type position struct{ line, column int }

// At returns a Problem that stands at a key, such as clusters.dcs.endpoints[1] or stores.main.s3.bucket, with What and Advice
// left to the caller. A key that is not written stands at the nearest one above it that is.
func (c *Config) At(key string) Problem {
	p := Problem{File: c.File, Key: key}
	for k := key; ; k = parentKey(k) {
		if at, ok := c.at[k]; ok {
			p.Line, p.Column = at.line, at.column
			return p
		}
		if k == "" {
			return p
		}
	}
}

// Positions returns all keys that are written in the file, sorted.
func (c *Config) Positions() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(c.at)), func(k string) bool { return k == "" })
}

// parentKey is the key that holds another: a.b of a.b.c and of a.b[1].
func parentKey(key string) string {
	i := strings.LastIndexAny(key, ".[")
	return key[:max(i, 0)]
}

// Probe asks the world about a part of the configuration, such as whether an endpoint answers, and returns what is
// wrong, each made from [Config.At].
type Probe func(ctx context.Context) []Problem

// RunProbes runs probes, at most eight at once, and returns all they found in the order of the file.
func RunProbes(ctx context.Context, probes ...Probe) Problems {
	found := make([][]Problem, len(probes))
	slots := make(chan struct{}, 8)
	var wg sync.WaitGroup
	for i, probe := range probes {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			found[i] = probe(ctx)
		})
	}
	wg.Wait()
	ps := Problems(slices.Concat(found...))
	ps.Sort()
	return ps
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// join lists names for a message: a, b and c.
func join(names []string) string {
	switch len(names) {
	case 0:
		return "none"
	case 1:
		return names[0]
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}

// quote quotes a value for a message, cutting long ones short.
func quote(s string) string {
	if r := []rune(s); len(r) > 60 {
		return fmt.Sprintf("%q…", string(r[:57]))
	}
	return fmt.Sprintf("%q", s)
}

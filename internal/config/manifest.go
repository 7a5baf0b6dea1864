package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// stored is a configuration as a manifest keeps it: as written, without secrets.
type stored struct {
	Config  map[string]any `json:"config"`
	Missing []string       `json:"missing,omitempty"` // keys of the secrets left out
}

// Sanitized is what a cluster's manifests keep of the configuration: the cluster, the stores it uses and the settings that
// concern all. Values are kept as they were written, ${VAR} and relative paths too. A secret stays out, its key in a list beside, unless
// it is nothing but one ${VAR}.
func (c *Config) Sanitized(cluster string) (json.RawMessage, error) {
	cl := c.Clusters[cluster]
	if cl == nil {
		return nil, fmt.Errorf("configuration of cluster %s for its manifest: there is no such cluster", quote(cluster))
	}
	var s stored
	keep := func(key string) bool {
		parent, name, _ := strings.Cut(key, ".")
		switch parent {
		case "clusters":
			return name == "" || key == "clusters."+cluster || strings.HasPrefix(key, "clusters."+cluster+".")
		case "stores":
			return name == "" || slices.ContainsFunc(cl.Stores, func(st string) bool { return name == st || strings.HasPrefix(name, st+".") })
		}
		return true
	}
	s.Config, _ = s.written(c.source, reflect.TypeFor[Config](), "", keep).(map[string]any)
	slices.Sort(s.Missing)
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		return nil, fmt.Errorf("configuration of cluster %s for its manifest: %w", cluster, err)
	}
	return bytes.TrimSpace(b.Bytes()), nil
}

// written turns a node into plain values, nil for what is left out.
func (s *stored) written(n *yaml.Node, t reflect.Type, key string, keep func(string) bool) any {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == reflect.TypeFor[Secret]():
		if !soleVariable.MatchString(n.Value) {
			s.Missing = append(s.Missing, key)
			return nil
		}
		return n.Value
	case n.Kind == yaml.ScalarNode && n.Tag == "!!int":
		i, err := strconv.ParseInt(n.Value, 0, 64)
		if err != nil {
			return n.Value
		}
		return i
	case n.Kind == yaml.ScalarNode && n.Tag == "!!bool":
		b, err := strconv.ParseBool(n.Value)
		if err != nil {
			return n.Value
		}
		return b
	case n.Kind == yaml.ScalarNode:
		return n.Value
	case n.Kind == yaml.SequenceNode && t.Kind() == reflect.Slice:
		items := make([]any, 0, len(n.Content))
		for i, inner := range n.Content {
			items = append(items, s.written(inner, t.Elem(), item(key)(i), keep))
		}
		return items
	case n.Kind == yaml.MappingNode:
		m := map[string]any{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			name := n.Content[i].Value
			at := join2(key, name)
			inner := elem(t, name)
			if inner == nil || !keep(at) {
				continue
			}
			if v := s.written(n.Content[i+1], inner, at, keep); v != nil {
				m[name] = v
			}
		}
		return m
	}
	return nil
}

// elem is the type under a key of a mapping; nil when there is no such key.
func elem(t reflect.Type, name string) reflect.Type {
	switch t.Kind() {
	case reflect.Pointer:
		return elem(t.Elem(), name)
	case reflect.Map:
		return t.Elem()
	case reflect.Struct:
		for _, f := range fields(t) {
			if f.name == name {
				return f.typ
			}
		}
	}
	return nil
}

// FromManifest writes a configuration file from what [Config.Sanitized] left in a manifest, in the order of the
// reference. missing are the keys of the secrets that have to be filled in; comments in the file mark them, and list at its top the files and
// environment variables that it needs.
func FromManifest(raw json.RawMessage) (file []byte, missing []string, err error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var s stored
	if err := dec.Decode(&s); err != nil {
		return nil, nil, fmt.Errorf("the configuration in the manifest: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, nil, errors.New("the configuration in the manifest: something follows its JSON")
	}
	if len(s.Config) == 0 {
		return nil, nil, errors.New("the manifest holds no configuration: it was made without one, or by import")
	}
	w := recovered{missing: s.Missing}
	root := w.node(s.Config, reflect.TypeFor[Config](), "")
	root.HeadComment = w.head()
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(root); err != nil {
		return nil, nil, fmt.Errorf("write the recovered configuration: %w", err)
	}
	if err := enc.Close(); err != nil {
		return nil, nil, fmt.Errorf("write the recovered configuration: %w", err)
	}
	return b.Bytes(), s.Missing, nil
}

// recovered builds the file and notes what it needs around it.
type recovered struct {
	missing, files, variables []string
}

func (w *recovered) node(v any, t reflect.Type, key string) *yaml.Node {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	n := &yaml.Node{Kind: yaml.ScalarNode}
	switch v := v.(type) {
	case map[string]any:
		n = mapping()
		for _, name := range ordered(v, t) {
			var inner reflect.Type
			if t != nil {
				inner = elem(t, name)
			}
			k := &yaml.Node{}
			k.SetString(name)
			n.Content = append(n.Content, k, w.node(v[name], inner, join2(key, name)))
		}
		w.mark(n, key)
	case []any:
		n = list()
		var inner reflect.Type
		if t != nil && t.Kind() == reflect.Slice {
			inner = t.Elem()
		}
		for i, value := range v {
			n.Content = append(n.Content, w.node(value, inner, item(key)(i)))
		}
		if inner != nil && inner.Kind() == reflect.String {
			n.Style = yaml.FlowStyle
		}
	case string:
		n.SetString(v)
		if t == reflect.TypeFor[File]() {
			w.files = append(w.files, v+" ("+key+")")
		}
		for rest := v; ; {
			_, after, ok := strings.Cut(strings.ReplaceAll(rest, "$$", ""), "${")
			if !ok {
				break
			}
			name, tail, _ := strings.Cut(after, "}")
			w.variables = append(w.variables, name+" ("+key+")")
			rest = tail
		}
	case json.Number:
		n.Tag, n.Value = "!!int", v.String()
	case bool:
		n.Tag, n.Value = "!!bool", strconv.FormatBool(v)
	default:
		n.Tag, n.Value = "!!null", "null"
	}
	return n
}

// ordered are the keys in the order of the schema; those it does not know come last.
func ordered(m map[string]any, t reflect.Type) []string {
	var names []string
	if t != nil && t.Kind() == reflect.Struct {
		for _, f := range fields(t) {
			if _, ok := m[f.name]; ok {
				names = append(names, f.name)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// mark puts a comment where a secret of this mapping has to be filled in.
func (w *recovered) mark(n *yaml.Node, key string) {
	var lines []string
	for _, m := range w.missing {
		if parentKey(m) == key {
			lines = append(lines, comment(strings.TrimPrefix(m, key+".")+": …   fill in: secrets are not kept in backups; better use a _file key or ${VAR}"))
		}
	}
	if len(lines) > 0 && len(n.Content) > 0 {
		n.Content[0].HeadComment = strings.Join(lines, "\n")
	}
}

// head is the comment at the top of the file.
func (w *recovered) head() string {
	lines := []string{"# Recovered by requorum from the manifest of a backup. Look it through before you use it."}
	for _, part := range []struct {
		title string
		items []string
	}{
		{"Secrets to fill in:", w.missing},
		{"Files that must be there (relative ones beside this file):", w.files},
		{"Environment variables that must be set:", w.variables},
	} {
		if len(part.items) == 0 {
			continue
		}
		lines = append(lines, "# "+part.title)
		for _, item := range once(part.items) {
			lines = append(lines, comment("  "+item))
		}
	}
	return strings.Join(lines, "\n") + "\n"
}

// once puts what is wanted by more than three keys, "NAME (KEY)" each, on one line.
func once(items []string) []string {
	wanted := map[string][]string{}
	var names []string
	for _, item := range items {
		name, _, _ := strings.Cut(item, " (")
		if wanted[name] == nil {
			names = append(names, name)
		}
		wanted[name] = append(wanted[name], item)
	}
	var all []string
	for _, name := range names {
		by := wanted[name]
		if len(by) > 3 {
			by = []string{fmt.Sprintf("%s and %d more)", strings.TrimSuffix(by[0], ")"), len(by)-1)}
		}
		all = append(all, by...)
	}
	return all
}

// comment makes one line a comment, whatever it holds.
func comment(s string) string {
	return "# " + strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0x85 || r == 0x2028 || r == 0x2029 || r == 0xfeff {
			return ' '
		}
		return r
	}, s)
}

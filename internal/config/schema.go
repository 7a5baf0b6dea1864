package config

import (
	"reflect"
	"slices"
	"strings"
)

// field is one key of a mapping, read from a struct's tags.
type field struct {
	name     string
	required bool
	def      string // YAML, or a remark in parentheses
	typ      reflect.Type
	index    []int
}

// fields are the keys of a struct in the order of its fields; embedded structs count as written in place.
func fields(t reflect.Type) []field {
	var all []field
	for _, f := range reflect.VisibleFields(t) {
		tag, ok := f.Tag.Lookup("key")
		if !ok {
			continue
		}
		name, option, _ := strings.Cut(tag, ",")
		all = append(all, field{name, option == "required", f.Tag.Get("default"), f.Type, f.Index})
	}
	return all
}

// remark says that a default is no value but a word about what happens.
func (f field) remark() bool { return f.def == "" || strings.HasPrefix(f.def, "(") }

// Key describes one key that a configuration may have.
type Key struct {
	Path     string // such as clusters.<name>.members[].data_dir
	Type     string // such as duration, or list of URLs
	Default  string // as written in YAML, or a remark in parentheses; "" for none
	Required bool
	typ      reflect.Type
}

// Keys are all keys there are, in the order of the reference.
func Keys() []Key { return keysOf("", reflect.TypeFor[Config]()) }

func keysOf(prefix string, t reflect.Type) []Key {
	var all []Key
	for _, f := range fields(t) {
		k := Key{join2(prefix, f.name), typeName(f.typ), f.def, f.required, f.typ}
		all = append(all, k)
		at, inner := k.Path, f.typ
		for !isLeaf(inner) {
			switch inner.Kind() {
			case reflect.Map:
				at, inner = at+".<name>", inner.Elem()
				continue
			case reflect.Slice:
				at, inner = at+"[]", inner.Elem()
				continue
			case reflect.Pointer:
				inner = inner.Elem()
				continue
			case reflect.Struct:
				all = append(all, keysOf(at, inner)...)
			}
			break
		}
	}
	return all
}

func join2(prefix, name string) string {
	if prefix == "" {
		return name
	}
	return prefix + "." + name
}

var leafType = reflect.TypeFor[leaf]()

func isLeaf(t reflect.Type) bool { return reflect.PointerTo(t).Implements(leafType) }

// typeName is how the reference and messages call a type.
func typeName(t reflect.Type) string {
	if isLeaf(t) {
		return reflect.New(t).Interface().(leaf).describe()
	}
	switch t.Kind() {
	case reflect.Pointer:
		return typeName(t.Elem())
	case reflect.Struct, reflect.Map:
		return "mapping"
	case reflect.Slice:
		if t == reflect.TypeFor[Crons]() {
			return "cron expression or list of them"
		}
		return "list of " + plural(typeName(t.Elem()))
	case reflect.Int:
		return "number"
	case reflect.Bool:
		return "true or false"
	}
	return "text"
}

func plural(name string) string {
	if strings.HasSuffix(name, "x") {
		return name + "es"
	}
	return name + "s"
}

// meant is the key that a wrong one most likely stands for: one spelled alike here, or the same one a level down.
func meant(wrong string, t reflect.Type) string {
	if len(wrong) > 60 {
		return "known here are " + join(names(t))
	}
	best, distance := "", 1+max(1, len(wrong)/3)
	norm := strings.ReplaceAll(strings.ToLower(wrong), "-", "_")
	here := fields(t)
	for _, f := range here {
		if d := edits(norm, f.name); d < distance {
			best, distance = f.name, d
		}
	}
	if best != "" {
		return "did you mean " + best + "?"
	}
	for _, f := range here {
		inner := f.typ
		for inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct && !isLeaf(inner) && slices.ContainsFunc(fields(inner), func(g field) bool { return g.name == norm }) {
			return "it belongs into " + f.name
		}
	}
	return "known here are " + join(names(t))
}

func names(t reflect.Type) []string {
	var all []string
	for _, f := range fields(t) {
		all = append(all, f.name)
	}
	return all
}

// edits counts the letters to change, add, drop or swap with their neighbour between two short names.
func edits(a, b string) int {
	before, row := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		next := make([]int, len(b)+1)
		next[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next[j+1] = min(row[j]+cost, next[j]+1, row[j+1]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}

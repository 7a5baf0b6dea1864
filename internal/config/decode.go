package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxValues bounds how many values one configuration holds after its aliases are followed.
const maxValues = 100_000

// decoder fills the schema's types from YAML nodes and collects every problem on the way.
type decoder struct {
	file     string
	dir      string // where relative paths start
	lookup   func(string) (string, bool)
	problems Problems
	at       map[string]position
	bad      map[string]bool
	visited  int
}

func valueOf(p any) reflect.Value { return reflect.ValueOf(p).Elem() }

// problem notes what is wrong at a node.
func (d *decoder) problem(n *yaml.Node, key string, f fault) {
	d.bad[key] = true
	d.problems = append(d.problems, Problem{File: d.file, Line: n.Line, Column: n.Column, Key: key, What: f.what, Advice: f.advice})
}

// value decodes a node into v, whatever its type. at is the node whose place is named for v when n is not a scalar: its key.
func (d *decoder) value(at, n *yaml.Node, key string, v reflect.Value) {
	if d.visited++; d.visited > maxValues {
		if d.visited == maxValues+1 {
			d.problem(at, key, fault{fmt.Sprintf("more than %d values", maxValues), "use fewer aliases"})
		}
		return
	}
	place := at
	if n.Kind == yaml.ScalarNode || n.Kind == yaml.AliasNode {
		place = n
	}
	d.at[key] = position{place.Line, place.Column}
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		d.problem(place, key, fault{"the key has no value", "write a " + typeName(v.Type()) + " or remove the key"})
		return
	}
	if isLeaf(v.Type()) {
		d.scalar(place, n, key, v)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		applyDefaults(v.Elem())
		d.value(at, n, key, v.Elem())
	case reflect.Struct:
		d.mapping(place, n, key, v)
	case reflect.Map:
		d.named(place, n, key, v)
	case reflect.Slice:
		d.list(place, n, key, v)
	default:
		d.scalar(place, n, key, v)
	}
}

// wrongType notes that a node is not of the kind that v takes.
func (d *decoder) wrongType(place, n *yaml.Node, key string, t reflect.Type) {
	what := found(n)
	if t == reflect.TypeFor[Secret]() && n.Kind == yaml.ScalarNode {
		what = "something that YAML does not take for text"
	}
	d.problem(place, key, fault{"expected " + article(typeName(t)) + ", found " + what, typeAdvice(n, t)})
}

func article(s string) string {
	switch {
	case s == "text", s == "true or false", s == allowed+" or "+refused:
		return s
	case strings.ContainsRune("aeiou", rune(s[0])):
		return "an " + s
	}
	return "a " + s
}

func found(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Tag == "!!int", n.Tag == "!!float":
		return "the number " + n.Value
	case n.Tag == "!!bool":
		return n.Value
	case n.Tag == "!!timestamp":
		return "the date " + n.Value
	case n.Tag == "!!str":
		return "the text " + quote(n.Value)
	}
	return "a value of the type " + n.Tag
}

func typeAdvice(n *yaml.Node, t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[Duration]() && n.Kind == yaml.ScalarNode:
		return "write a number with a unit, such as 90s, 30m, 12h, 7d or 2w"
	case t.Kind() == reflect.Slice && n.Kind == yaml.ScalarNode:
		return "write it in brackets: [" + n.Value + "]"
	case t.Kind() == reflect.Slice:
		return "write one - ITEM a line"
	case t == reflect.TypeFor[Permission]():
		return "write " + allowed + " or " + refused
	case t.Kind() == reflect.Bool && n.Kind == yaml.ScalarNode:
		return "write true or false without quotes"
	case t.Kind() == reflect.Int && n.Kind == yaml.ScalarNode:
		return "write a whole number without quotes"
	case n.Kind == yaml.ScalarNode && t.Kind() != reflect.Struct && t.Kind() != reflect.Map || isLeaf(t) && n.Kind == yaml.ScalarNode:
		return "put it in quotes"
	case n.Kind == yaml.SequenceNode && (t.Kind() == reflect.String || isLeaf(t)):
		return "write one value without brackets"
	}
	return "see docs/configuration.md for what goes here"
}

// scalar decodes a value that is written as one text.
func (d *decoder) scalar(place, n *yaml.Node, key string, v reflect.Value) {
	text := n.Kind == yaml.ScalarNode && n.Tag == "!!str"
	expanded := text && strings.Contains(n.Value, "$")
	plain := v.Kind() == reflect.Int && n.Tag == "!!int" || v.Kind() == reflect.Bool && n.Tag == "!!bool"
	if isLeaf(v.Type()) || v.Kind() == reflect.String {
		plain = text
	}
	if n.Kind != yaml.ScalarNode || !plain && !expanded {
		d.wrongType(place, n, key, v.Type())
		return
	}
	s := n.Value
	if expanded {
		var f *fault
		if s, f = d.expand(n.Value); f != nil {
			if v.Type() == reflect.TypeFor[Secret]() && !soleVariable.MatchString(n.Value) {
				f.what = "a ${ in the secret names no environment variable" // a part of the secret is not shown
			}
			d.problem(place, key, *f)
			return
		}
	}
	if l, ok := v.Addr().Interface().(leaf); ok {
		if f := l.parse(s, d); f != nil {
			d.problem(place, key, *f)
		}
		return
	}
	var err error
	switch v.Kind() {
	case reflect.String:
		v.SetString(s)
	case reflect.Bool:
		var b bool
		b, err = strconv.ParseBool(s)
		v.SetBool(b)
	case reflect.Int:
		var i int64
		i, err = strconv.ParseInt(s, 0, 32)
		if err == nil && i < 0 {
			d.problem(place, key, fault{s + " is negative", "write 0 or more"})
			return
		}
		v.SetInt(i)
	}
	if err != nil {
		what := quote(s) + " is not " + article(typeName(v.Type()))
		if v.Kind() == reflect.Int && n.Tag == "!!int" {
			what = s + " is too large"
		}
		d.problem(place, key, fault{what, ""})
	}
}

// pairs walks the keys of a mapping, reporting those that come twice or are no text.
func (d *decoder) pairs(n *yaml.Node, key string, visit func(name string, k, value *yaml.Node)) {
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, value := n.Content[i], n.Content[i+1]
		switch line, twice := seen[k.Value]; {
		case k.Kind != yaml.ScalarNode:
			d.problem(k, key, fault{"a key must be a plain text", "write NAME: VALUE"})
		case k.Tag == "!!merge":
			d.problem(k, join2(key, k.Value), fault{"merge keys are not supported", "write the keys out; whole values may be shared with &anchor and *alias"})
		case twice:
			d.problem(k, join2(key, k.Value), fault{fmt.Sprintf("the key is written twice, first in line %d", line), "keep one of them"})
		default:
			seen[k.Value] = k.Line
			visit(k.Value, k, value)
		}
	}
}

// mapping decodes a mapping with known keys.
func (d *decoder) mapping(place, n *yaml.Node, key string, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.wrongType(place, n, key, v.Type())
		return
	}
	known := map[string]field{}
	for _, f := range fields(v.Type()) {
		known[f.name] = f
	}
	written := map[string]bool{}
	d.pairs(n, key, func(name string, k, value *yaml.Node) {
		f, ok := known[name]
		if !ok {
			d.problem(k, join2(key, name), fault{"unknown key", meant(name, v.Type())})
			return
		}
		written[name] = true
		d.value(k, value, join2(key, name), v.FieldByIndex(f.index))
		if f.def != `""` {
			d.notEmpty(value, join2(key, name), v.FieldByIndex(f.index))
		}
	})
	for _, f := range fields(v.Type()) {
		if f.required && !written[f.name] {
			advice := "write " + article(typeName(f.typ))
			if f.typ.Kind() == reflect.Struct && !isLeaf(f.typ) {
				advice += " of " + join(names(f.typ))
			}
			d.problem(place, join2(key, f.name), fault{"the key is missing", advice})
		}
	}
}

// named decodes a mapping whose keys are names that the user chose.
func (d *decoder) named(place, n *yaml.Node, key string, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.wrongType(place, n, key, v.Type())
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	d.pairs(n, key, func(name string, k, value *yaml.Node) {
		if !nameForm.MatchString(name) {
			d.problem(k, join2(key, name), fault{quote(name) + " is no name", nameAdvice})
			return
		}
		item := reflect.New(v.Type().Elem()).Elem()
		d.value(k, value, join2(key, name), item)
		if item.IsNil() { // the value was missing
			return
		}
		item.Elem().FieldByName("Name").SetString(name)
		v.SetMapIndex(reflect.ValueOf(name), item)
	})
}

// notEmpty reports an empty text, written or out of a variable, where only an absent key means none.
func (d *decoder) notEmpty(n *yaml.Node, key string, v reflect.Value) {
	if v.Kind() == reflect.String && !isLeaf(v.Type()) && v.Len() == 0 && !d.bad[key] {
		d.problem(n, key, fault{"the text is empty", "write one or remove the key"})
	}
}

// list decodes a list. One cron expression stands for a list of one.
func (d *decoder) list(place, n *yaml.Node, key string, v reflect.Value) {
	if v.Type() == reflect.TypeFor[Crons]() && n.Kind == yaml.ScalarNode {
		var one Cron
		d.scalar(place, n, key, valueOf(&one))
		if one != "" {
			v.Set(reflect.ValueOf(Crons{one}))
		}
		return
	}
	if n.Kind != yaml.SequenceNode {
		d.wrongType(place, n, key, v.Type())
		return
	}
	items := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, inner := range n.Content {
		if items.Index(i).Kind() == reflect.Struct {
			applyDefaults(items.Index(i))
		}
		d.value(inner, inner, item(key)(i), items.Index(i))
		d.notEmpty(inner, item(key)(i), items.Index(i))
	}
	v.Set(items)
}

// applyDefaults sets what the default tags say, in a struct and the structs in it.
func applyDefaults(v reflect.Value) {
	if v.Kind() != reflect.Struct {
		return
	}
	d := &decoder{at: map[string]position{}, bad: map[string]bool{}}
	for _, f := range fields(v.Type()) {
		target := v.FieldByIndex(f.index)
		switch {
		case !f.remark():
			var n yaml.Node
			if err := yaml.Unmarshal([]byte(f.def), &n); err == nil {
				d.value(&n, n.Content[0], f.name, target)
			}
		case target.Kind() == reflect.Struct && !isLeaf(f.typ):
			applyDefaults(target)
		}
	}
}

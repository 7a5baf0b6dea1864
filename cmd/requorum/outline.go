package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// outline writes JSON for a person: a line for each key of an object, and a line for each object of a list. It is meant for
// what agents observed, whose shape only they know; what is no JSON is written as it is.
func outline(w io.Writer, indent string, data []byte) {
	if object, ok := objectOf(data); ok {
		for _, f := range object {
			writeField(w, indent, f.name, f.value)
		}
		return
	}
	var list []json.RawMessage
	if json.Unmarshal(data, &list) != nil {
		fmt.Fprintf(w, "%s%s\n", indent, inline(data))
		return
	}
	if len(list) == 0 {
		fmt.Fprintf(w, "%snothing\n", indent)
	}
	for _, item := range list {
		if _, ok := objectOf(item); !ok {
			fmt.Fprintf(w, "%s- %s\n", indent, inline(item))
			continue
		}
		fmt.Fprintf(w, "%s-\n", indent)
		outline(w, indent+"  ", item)
	}
}

// writeField writes one key with its value: below it what would be long, beside it the rest.
func writeField(w io.Writer, indent, name string, value []byte) {
	var list []json.RawMessage
	_, isObject := objectOf(value)
	switch {
	case json.Unmarshal(value, &list) == nil && len(list) > 0 && bytes.HasPrefix(bytes.TrimSpace(list[0]), []byte("{")):
		fmt.Fprintf(w, "%s%s:\n", indent, printable(name))
		for _, item := range list {
			fmt.Fprintf(w, "%s  %s\n", indent, inline(item))
		}
	case isObject:
		fmt.Fprintf(w, "%s%s:\n", indent, printable(name))
		outline(w, indent+"  ", value)
	default:
		fmt.Fprintf(w, "%s%s: %s\n", indent, printable(name), inline(value))
	}
}

// inline writes a value on one line.
func inline(data []byte) string {
	if object, ok := objectOf(data); ok {
		var parts []string
		for _, f := range object {
			parts = append(parts, printable(f.name)+" "+inline(f.value))
		}
		return strings.Join(parts, ", ")
	}
	var list []json.RawMessage
	if json.Unmarshal(data, &list) == nil {
		var parts []string
		for _, item := range list {
			parts = append(parts, inline(item))
		}
		if len(parts) == 0 {
			return "none"
		}
		return strings.Join(parts, ", ")
	}
	var text string
	if json.Unmarshal(data, &text) == nil {
		if text == "" {
			return `""`
		}
		return printable(text)
	}
	return printable(string(data))
}

type jsonField struct {
	name  string
	value json.RawMessage
}

// objectOf takes an object apart, in its own order.
func objectOf(data []byte) ([]jsonField, bool) {
	d := json.NewDecoder(bytes.NewReader(data))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, false
	}
	var all []jsonField
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, false
		}
		f := jsonField{}
		f.name, _ = name.(string)
		if d.Decode(&f.value) != nil {
			return nil, false
		}
		all = append(all, f)
	}
	return all, true
}

// printable replaces what would move the cursor or change the terminal: values of keys are anybody's bytes.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '·'
	}, s)
}

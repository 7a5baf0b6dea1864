package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write docs/cli.md anew")

const (
	reference = "../../docs/cli.md"
	generated = "<!-- From here on written by `go test ./cmd/requorum -update`. -->\n"
)

// TestReferenceIsWhole holds docs/cli.md to the commands and flags that there are.
func TestReferenceIsWhole(t *testing.T) {
	b, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	prose, have, ok := strings.Cut(string(b), generated)
	if !ok {
		t.Fatalf("%s has lost the line %q", reference, generated)
	}
	root := newRoot(&app{})
	var want strings.Builder
	for _, g := range root.Groups() {
		for _, c := range root.Commands() {
			if c.GroupID == g.ID {
				document(&want, c)
			}
		}
	}
	if *update {
		if err := os.WriteFile(reference, []byte(prose+generated+want.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if have != want.String() {
		t.Errorf("%s is not what the commands say; run go test ./cmd/requorum -update and read the difference\n%s", reference, firstDifference(have, want.String()))
	}
	root.PersistentFlags().VisitAll(func(f *pflag.Flag) {
		if !strings.Contains(prose, "`--"+f.Name+"`") && !strings.Contains(prose, "`--"+f.Name+" ") {
			t.Errorf("%s does not explain the global flag --%s", reference, f.Name)
		}
	})
	for line := range strings.Lines(exitHelp) {
		for _, word := range strings.Fields(line) {
			if strings.Trim(word, "0123456789") == "" && len(word) > 1 && !strings.Contains(prose, "| "+word+" |") {
				t.Errorf("%s does not explain the exit code %s", reference, word)
			}
		}
	}
}

// document writes what a person needs to know of a command and those below it.
func document(w *strings.Builder, c *cobra.Command) {
	if c.Hidden {
		return
	}
	fmt.Fprintf(w, "\n### `%s`\n\n%s.\n\n", c.CommandPath(), strings.TrimSuffix(c.Short, "."))
	if c.Long != "" {
		fmt.Fprintf(w, "%s\n\n", c.Long)
	}
	if c.Runnable() {
		fmt.Fprintf(w, "```\n%s\n```\n", c.UseLine())
	}
	var rows strings.Builder
	c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		name, about := pflag.UnquoteUsage(f)
		flag := strings.TrimSpace("--" + f.Name + " " + name)
		if f.Shorthand != "" {
			flag = "-" + f.Shorthand + ", " + flag
		}
		def := ""
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" && f.DefValue != "0s" {
			def = "`" + f.DefValue + "`"
		}
		fmt.Fprintf(&rows, "| `%s` | %s | %s |\n", cell(flag), cell(def), cell(about))
	})
	if rows.Len() > 0 {
		fmt.Fprintf(w, "\n| flag | default | meaning |\n| --- | --- | --- |\n%s", rows.String())
	}
	for _, sub := range c.Commands() {
		document(w, sub)
	}
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

func firstDifference(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return fmt.Sprintf("the file says  %q\nthe command is %q", x[i], y[i])
		}
	}
	return "one of them is longer"
}

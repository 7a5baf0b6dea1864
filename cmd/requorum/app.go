package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/internal/progress"
	"github.com/requorum/requorum/restore/ssh"
	"github.com/requorum/requorum/storage/catalog"
)

// streams are where a command reads and writes: data on out, prose and progress
// on err.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// app is what every command shares: the global flags and what follows from them.
type app struct {
	streams
	configFile string
	output     string // table or json
	quiet      bool
	verbose    bool
	logger     *slog.Logger // of serve; nil: log makes one
	ssh        *ssh.Hosts   // that members live on; nil until one is asked for
	tunnels    *tunnels     // through members' machines

	// reporter shows the stages of long work: bars on a terminal, a line per stage otherwise. It stands before err, so that nothing is
	// written into its bars. nil, which shows nothing, with -q.
	reporter *progress.Reporter
}

func (a *app) json() bool { return a.output == "json" }

// log is for what happens on the way; it goes to stderr.
func (a *app) log() *slog.Logger {
	if a.logger != nil {
		return a.logger
	}
	if a.verbose {
		return slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	level := slog.LevelWarn
	if a.quiet {
		level = slog.LevelError
	}
	return slog.New(plainLog{mu: new(sync.Mutex), w: a.err, level: level})
}

// ready prepares for the command, when the global flags are known.
func (a *app) ready() {
	if !a.quiet {
		a.reporter = progress.New(a.err, columns(a.err))
		a.err = a.reporter
	}
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// columns tells the width of a terminal that bars can be drawn on; nil if w is none.
func columns(w any) func() int {
	if !isTerminal(w) || os.Getenv("TERM") == "dumb" {
		return nil
	}
	fd := int(w.(*os.File).Fd())
	return func() int {
		width, _, err := term.GetSize(fd)
		if err != nil || width <= 0 {
			return 80
		}
		return width
	}
}

// say writes a line of prose.
func (a *app) say(format string, args ...any) {
	if !a.quiet {
		fmt.Fprintf(a.err, format+"\n", args...)
	}
}

// ask puts a question to the person at the terminal, and waits for a line.
func (a *app) ask(ctx context.Context, question string) (string, error) {
	fmt.Fprint(a.err, question)
	answer := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(a.in).ReadString('\n')
		answer <- strings.TrimSpace(line)
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(a.err) // what comes does not stand beside the question
		return "", context.Cause(ctx)
	case line := <-answer:
		return line, nil
	}
}

// printJSON writes v as one indented JSON document on stdout.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// outcome writes the JSON of a command that came to a result, also beside an error: that is told on stderr, and its exit code stays.
func (a *app) outcome(v any, err error) error {
	if printErr := a.printJSON(v); printErr != nil {
		return printErr
	}
	if err == nil || errors.Is(err, errReported) {
		return err
	}
	fmt.Fprintf(a.err, "requorum: %v\n", err)
	return codeError{exitCode(err, 0)}
}

// table writes rows in columns on stdout.
func (a *app) table(header []string, rows [][]string) error {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	for _, row := range append([][]string{header}, rows...) {
		for i, cell := range row {
			if i > 0 {
				fmt.Fprint(w, "\t")
			}
			fmt.Fprint(w, cell)
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(b.String()) {
		if _, err := fmt.Fprintln(a.out, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// report tells an error to a person, and to a script that asked for JSON.
func (a *app) report(ctx context.Context, err error) {
	a.reporter.Close()
	var s signalled
	refusals, rest := questions(err)
	switch {
	case errors.As(context.Cause(ctx), &s) && !strings.Contains(err.Error(), s.Error()):
		fmt.Fprintf(a.err, "requorum: %v: %v\n", s, err)
	case rest != nil:
		fmt.Fprintf(a.err, "requorum: %v\n", rest)
	}
	for _, r := range refusals {
		fmt.Fprintf(a.err, "requorum: refused: %s\n  risk:   %s\n  answer: %s\n", r.What, r.Risk, r.Flag)
	}
	advice := adviceFor(err)
	if advice != "" {
		fmt.Fprintf(a.err, "  %s\n", advice)
	}
	if a.json() {
		_ = a.printJSON(map[string]any{"error": map[string]any{
			"what": err.Error(), "where": whereOf(err), "advice": adviceIn(err), "code": exitCode(err, s.Signal)}})
	}
}

// questions takes the refusals out of an error, to be shown one by one, and leaves the rest; all of it where words around them would be lost.
func questions(err error) ([]agents.Refusal, error) {
	refusals, rest := agents.SplitRefusals(err)
	parts := []error{agents.JoinRefusals(refusals), rest}
	if whole := errors.Join(parts...); whole == nil || len(whole.Error()) != len(err.Error()) {
		return nil, err
	}
	return refusals, rest
}

// now is the clock of commands that people run; schedules have one that can be injected.
func now() time.Time { return time.Now() }

// ageOf says how long before now t was, in the units a person would use.
func ageOf(now, t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return catalog.Age(now.Sub(t))
}

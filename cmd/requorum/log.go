package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
)

// plainLog is a log for people: one line each, "warning: TEXT (KEY=VALUE)". -v has the times and the levels.
type plainLog struct {
	mu    *sync.Mutex
	w     io.Writer
	level slog.Level
	attrs []slog.Attr
}

func (l plainLog) Enabled(_ context.Context, level slog.Level) bool { return level >= l.level }

func (l plainLog) Handle(_ context.Context, r slog.Record) error {
	word := "warning"
	if r.Level >= slog.LevelError {
		word = "error"
	}
	var more []string
	for _, a := range l.attrs {
		more = append(more, a.String())
	}
	r.Attrs(func(a slog.Attr) bool {
		more = append(more, a.String())
		return true
	})
	text := word + ": " + r.Message
	if len(more) > 0 {
		text += " (" + strings.Join(more, ", ") + ")"
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := fmt.Fprintln(l.w, text)
	return err
}

func (l plainLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	l.attrs = append(append([]slog.Attr{}, l.attrs...), attrs...)
	return l
}

func (l plainLog) WithGroup(string) slog.Handler { return l }

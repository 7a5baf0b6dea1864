// Package backup takes backups of an etcd cluster into a repository, proves them, and looks after those
// that are there: it verifies, imports, exports and expires them.
//
// A backup exists when its manifest does, and the manifest is written last, after everything that it
// says has been checked; see DESIGN.md beside this file for the order and what holds at every moment.
//
// Database files are untrusted: they are opened in a child process of the same binary. Every program and
// test binary that uses this package therefore begins with dbfile.RunChild.
package backup

import (
	"errors"
	"log/slog"
	"time"

	"github.com/requorum/requorum/storage/repository"
)

var (
	// ErrVerify means that something was checked and is not what it must be: a verdict. A check that could not
	// be made is another error. A database file that is damaged is a dbfile.CheckError.
	ErrVerify = repository.ErrVerify

	// ErrHeld means that a restore of the cluster is under way.
	ErrHeld = repository.ErrHeld

	// ErrPartial means that what was asked for is done, but not in every store.
	ErrPartial = errors.New("partly done")
)

// Progress is told what goes on, by name of stage. Stages overlap. Calls come from several goroutines
// at once; they must not block for long.
type Progress interface {
	// Start begins a stage that goes through total bytes, 0 when that is unknown. A stage that begins
	// again starts anew.
	Start(stage string, total int64)
	// Advance adds n bytes to a stage that has begun.
	Advance(stage string, n int64)
	// Done ends a stage; detail is a few words for people.
	Done(stage, detail string)
}

// quiet is the Progress of a caller that gave none.
type quiet struct{}

func (quiet) Start(string, int64)   {}
func (quiet) Advance(string, int64) {}
func (quiet) Done(string, string)   {}

func orQuiet(p Progress) Progress {
	if p == nil {
		return quiet{}
	}
	return p
}

func orDiscard(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}

func orNow(now func() time.Time) func() time.Time {
	if now == nil {
		return time.Now
	}
	return now
}

package main

import (
	"context"
	"errors"
	"strings"
	"syscall"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/backup"
	"github.com/requorum/requorum/drills"
	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/internal/config"
	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/internal/seal"
	"github.com/requorum/requorum/restore"
	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/repository"
)

// The exit codes; the help text of the root command says them too.
const (
	exitOK        = 0
	exitError     = 1
	exitUsage     = 2
	exitPartly    = 3
	exitNothing   = 10
	exitLocked    = 11
	exitDecrypt   = 12
	exitVerify    = 13
	exitRefused   = 14
	exitAgents    = 15
	exitInterrupt = 128 + int(syscall.SIGINT)
	exitTerminate = 128 + int(syscall.SIGTERM)
)

// errReported ends a command whose outcome has been shown already.
var errReported = errors.New("reported")

// codeError gives an outcome that has been shown an exit code of its own.
type codeError struct{ code int }

func (e codeError) Error() string        { return "reported" }
func (e codeError) Is(target error) bool { return target == errReported }

// exitCode maps what a command returned, and the signal that came meanwhile, to
// the process's exit code. A run that was finished in spite of a signal is ok.
func exitCode(err error, caught syscall.Signal) int {
	var own codeError
	var usageErr usageError
	var problems config.Problems
	var problem config.Problem
	var refusal agents.Refusal
	var check *dbfile.CheckError
	var kept *drills.StoreFailure
	switch {
	case err == nil:
		return exitOK
	case caught == syscall.SIGINT:
		return exitInterrupt
	case caught == syscall.SIGTERM:
		return exitTerminate
	case errors.As(err, &own):
		return own.code
	case errors.As(err, &usageErr), errors.As(err, &problems), errors.As(err, &problem), errors.Is(err, config.ErrNoFile), errors.Is(err, catalog.ErrReference):
		return exitUsage
	case errors.Is(err, catalog.ErrNothingToRestore), errors.Is(err, restore.ErrNothingToRestore):
		return exitNothing
	case errors.Is(err, restore.ErrLocked):
		return exitLocked
	case errors.Is(err, seal.ErrCannotDecrypt):
		return exitDecrypt
	case errors.Is(err, repository.ErrVerify), errors.Is(err, seal.ErrDamaged), errors.As(err, &check):
		return exitVerify
	case errors.As(err, &refusal), errors.Is(err, backup.ErrHeld): // after what no flag allows
		return exitRefused
	case errors.Is(err, restore.ErrAgents):
		return exitAgents
	case errors.Is(err, backup.ErrPartial), errors.Is(err, restore.ErrPartly), errors.Is(err, drills.ErrObjective), errors.As(err, &kept):
		return exitPartly
	}
	return exitError
}

// whereOf names the thing that an error is about, for scripts; "" if unknown.
func whereOf(err error) string {
	var problem config.Problem
	var problems config.Problems
	var member *cluster.Error
	var store *storage.Error
	switch {
	case errors.As(err, &problem):
		return problem.Key
	case errors.As(err, &problems) && len(problems) > 0:
		return problems[0].Key
	case errors.As(err, &member):
		return member.Endpoint
	case errors.As(err, &store):
		return store.Store
	}
	return ""
}

// adviceIn is what to try, for scripts: what adviceFor says, else what the error itself says among other things.
func adviceIn(err error) string {
	if advice := adviceFor(err); advice != "" {
		return advice
	}
	var flags []string
	refusals, _ := agents.SplitRefusals(err)
	for _, r := range refusals {
		flags = append(flags, r.Flag)
	}
	var stopped *restore.Stopped
	var problems config.Problems
	var member *cluster.Error
	var store *storage.Error
	switch {
	case len(flags) > 0:
		return strings.Join(flags, " ")
	case errors.As(err, &stopped) && len(stopped.Next) > 0:
		return strings.Join(stopped.Next, "; or ")
	case errors.As(err, &problems) && len(problems) > 0:
		return problems[0].Advice
	case errors.As(err, &member):
		return member.Advice
	case errors.As(err, &store):
		return store.Advice
	}
	return ""
}

// adviceFor adds what to try where the error itself cannot know the command line.
func adviceFor(err error) string {
	var stopped *restore.Stopped // which says itself how to go on
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, errReported):
		return ""
	case errors.Is(err, restore.ErrDeclined):
		return "nothing was changed; to go on, the name of the cluster must be typed as it stands in the configuration"
	case errors.Is(err, seal.ErrCannotDecrypt):
		return "give the key that fits as identity_file in the configuration; show, verify and export also take --identity-file FILE"
	case errors.Is(err, restore.ErrAgents) && !errors.As(err, &stopped):
		return "the checks of the report say who is not back and why; when that is mended, requorum check asks again, without another restore. " +
			"After DATA LOSS SUSPECTED, first keep Patroni from rewinding more: patronictl pause"
	case errors.Is(err, restore.ErrNothingToRestore), errors.Is(err, catalog.ErrNothingToRestore):
		return "requorum list shows the backups there are, requorum runs what was done; a snapshot from elsewhere is restored with --from file:FILE"
	}
	return ""
}

package storage

import (
	"context"
	"errors"
	"io/fs"
	"strings"
)

// The classes of failure, matched with errors.Is. A missing object is fs.ErrNotExist.
var (
	ErrExists        = errors.New("an object of this name is there already")
	ErrLocked        = errors.New("the object is locked by a retention period or a legal hold")
	ErrKey           = errors.New("not a usable object key")
	ErrMismatch      = errors.New("what is stored is not what was sent")
	ErrNoBucket      = errors.New("no such bucket or directory")
	ErrNoCredentials = errors.New("no credentials were found")
	ErrAccessKey     = errors.New("the access key is unknown to the server")
	ErrSecretKey     = errors.New("the secret key is wrong")
	ErrExpired       = errors.New("the credentials have expired")
	ErrDenied        = errors.New("access denied")
	ErrRegion        = errors.New("the bucket is in another region")
	ErrClock         = errors.New("the clocks of this machine and of the store differ too much")
	ErrFull          = errors.New("no space is left in the store")
	ErrArchived      = errors.New("the object is in an archive and must be brought back first")
	ErrCertificate   = errors.New("the server's certificate is not trusted")
	ErrRefused       = errors.New("the server refused the request")
	ErrUnreachable   = errors.New("the store cannot be reached")
)

// permanent are the classes that trying again does not change.
var permanent = []error{
	fs.ErrNotExist, ErrExists, ErrLocked, ErrKey, ErrMismatch, ErrNoBucket, ErrNoCredentials, ErrAccessKey, ErrSecretKey,
	ErrExpired, ErrDenied, ErrRegion, ErrClock, ErrFull, ErrArchived, ErrCertificate, ErrRefused, errors.ErrUnsupported,
	context.Canceled, context.DeadlineExceeded,
}

// Permanent reports whether the same call would fail the same way at once, so that trying again is useless.
func Permanent(err error) bool {
	for _, p := range permanent {
		if errors.Is(err, p) {
			return true
		}
	}
	return false
}

// Error says what was being done, to what, what was found and what to try. Every error of an adapter is one,
// except those that the caller's own reader or context gave.
type Error struct {
	Op     string // put, get, list, delete, confirm, sweep, open
	Store  string // as a URL without secrets: s3://bucket, file:///backups
	Key    string // the object or the listed prefix; may be empty
	Kind   error  // one of the classes above, fs.ErrNotExist, or nil when it is none of them
	Err    error  // what the store answered; may be nil
	Advice string // what to try; may be empty
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Key != "" {
		b.WriteString(" " + e.Key)
	}
	b.WriteString(" in " + e.Store)
	if errors.Is(e.Kind, fs.ErrNotExist) {
		b.WriteString(": no such object") // there is nothing more to say
	} else {
		for _, err := range []error{e.Kind, e.Err} {
			if err != nil {
				b.WriteString(": " + err.Error())
			}
		}
	}
	if e.Advice != "" {
		b.WriteString(" (" + e.Advice + ")")
	}
	return b.String()
}

// Unwrap makes both the class and the cause match.
func (e *Error) Unwrap() []error {
	var errs []error
	if e.Kind != nil {
		errs = append(errs, e.Kind)
	}
	if e.Err != nil {
		errs = append(errs, e.Err)
	}
	return errs
}

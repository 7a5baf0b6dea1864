package dbfile

import (
	"context"
	"errors"
	"os"
)

// CheckInChild checks the database in f in a child process.
func CheckInChild(ctx context.Context, f *os.File, o CheckOptions) (Report, error) {
	return Report{}, errors.ErrUnsupported
}

// RunChild serves as the child process when the environment says so, and then does not return.
func RunChild() {}

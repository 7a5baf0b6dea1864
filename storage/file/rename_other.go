//go:build !linux

package file

import (
	"errors"
	"os"
)

// renameNew cannot be had here: a rename would overwrite.
func renameNew(old, new string) error {
	return &os.LinkError{Op: "link", Old: old, New: new, Err: errors.ErrUnsupported}
}

//go:build !linux

package repository

import "os"

// preallocate does nothing where there is no portable way.
func preallocate(*os.File, int64) error { return nil }

//go:build !linux

package dbfile

import "syscall"

// dieWithParent cannot be had here: the child ends when it next writes to its closed pipe.
func dieWithParent() *syscall.SysProcAttr { return nil }

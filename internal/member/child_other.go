//go:build !linux

package member

import "syscall"

// dieWithParent cannot be had here: the child ends when its commands do.
func dieWithParent() *syscall.SysProcAttr { return nil }

//go:build !linux

package main

import "syscall"

// dieWithParent cannot be had here: the drill stops its members itself.
func dieWithParent() *syscall.SysProcAttr { return nil }

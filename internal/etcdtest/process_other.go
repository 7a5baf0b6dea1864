//go:build unix && !linux

package etcdtest

import "syscall"

// procAttr keeps the terminal's signals from a child.
func procAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

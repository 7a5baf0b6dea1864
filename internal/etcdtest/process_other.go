//go:build unix && !linux

package etcdtest

import "syscall"

// ProcAttr is for processes that a test starts: the terminal's signals do not reach them.
func ProcAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

// stopped is not known here.
func stopped(int) bool { return true }

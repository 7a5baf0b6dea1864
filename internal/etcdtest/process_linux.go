package etcdtest

import "syscall"

// procAttr keeps the terminal's signals from a child, and ends it with the thread that started it.
func procAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

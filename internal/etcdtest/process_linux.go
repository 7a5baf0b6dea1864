package etcdtest

import "syscall"

// ProcAttr is for processes that a test starts: the terminal's signals do not reach them, and they end with the thread that
// started them, and so with the test however that ends.
func ProcAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

package etcdtest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// ProcAttr is for processes that a test starts: the terminal's signals do not reach them, and they end with the thread that
// started them, and so with the test however that ends.
func ProcAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// stopped says whether every thread of a process has stopped, as a signal to it lets them do one after another.
func stopped(pid int) bool {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(tasks) == 0 {
		return false
	}
	for _, path := range tasks {
		stat, err := os.ReadFile(path)
		// The command, in parentheses, may hold anything; the state follows it.
		if after := stat[bytes.LastIndexByte(stat, ')')+1:]; err != nil || len(after) < 2 || after[1] != 'T' {
			return false
		}
	}
	return true
}

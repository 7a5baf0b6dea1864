//go:build unix && !linux

package local

import "syscall"

// swap has no equivalent on every file system here: two renames do it.
func swap(a, b string) (bool, error) { return false, nil }

func changeTime(st *syscall.Stat_t) int64 { return st.Ctimespec.Nano() }

//go:build !linux

package file

// forget cannot be asked for here.
func forget(string) {}

// Package command runs requorum, and other programs, as a person at a shell does: tests start it, look at what it says while it works, send it signals, and hold its
// exit code and output against what they expect. [Main] builds it before the tests of a package.
package command

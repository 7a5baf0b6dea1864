// Package member runs an etcd server as a child process: this binary started again. The demo, deep verification and
// drills need a server without anything being installed, and without sharing a fate with it: etcd ends its process on
// many errors.
//
// Every program and test binary that calls [Start] or [HashOf] begins with [RunChild].
package member

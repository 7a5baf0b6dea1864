// Package dbfile reads, checks, edits and stages etcd's database file: a snapshot as Maintenance.Snapshot
// streams it (a bbolt file with a sha256 trailer), or the raw member/snap/db of a data directory.
//
// Checking ([CheckInChild]) trusts nothing: it runs in a child process of the same binary, so that a fault, an endless
// loop or a runaway allocation in a damaged file is a [CheckError] with its stage and not the end of the caller.
// Editing ([Prepare]) works in place on a file that passed the check. Staging ([Stage]) builds a data directory on it.
//
// Every program and test binary that calls CheckInChild starts with [RunChild].
package dbfile

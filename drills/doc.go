// Package drills rehearses restores and keeps the evidence.
//
// A drill takes the newest good backup and rebuilds the cluster in a sandbox on this machine, with as many members as it really
// has, through package restore as it is; lets probes register as the agents would; compares what is served with the untouched
// backup, key by key; measures RPO and RTO against what is asked for; and takes everything down again. A live drill does the same on the
// real members of a staging cluster. Whatever the outcome is, a [Report] says it: for machines as JSON, for people as one page of HTML
// that needs nothing else, both perhaps signed. DESIGN.md beside this file has the invariants.
package drills

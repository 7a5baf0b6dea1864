// Package restore rebuilds an etcd cluster from a backup: it plans, prepares the database once,
// stages it beside every member's data dir, swaps in barriers over all members, starts them, and
// proves what they serve. A rollback puts back what was there before.
//
// A [Plan] is data. It is saved on every host before anything changes there, and each of its steps
// is judged done by what the hosts themselves show, so running the same plan again after a crash, from
// this machine or another, is always safe. DESIGN.md has the states, the invariants and what stands
// after a crash at each point.
package restore

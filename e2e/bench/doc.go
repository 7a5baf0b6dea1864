// Package bench measures requorum against etcd's own tools on one machine: real etcd servers, an S3
// server on loopback, the requorum binary. Every number is a ratio to its baseline in the same run, taken in
// alternating pairs. docs/benchmarks.md says what is measured and what came out.
//
//	make bench                                              # all of it: 15 to 30 minutes on two cores
//	REQUORUM_BENCH_QUICK=1 go test -run - -bench . ./e2e/bench   # small sizes, two pairs
package bench

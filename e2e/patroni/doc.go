// Package patroni is a lab: three etcd members, three Patroni nodes with PostgreSQL, and a writer that remembers every row
// that was acknowledged to it. Each test is a disaster; the built requorum does the backup and the restore, and afterwards
// every row is counted on the final primary.
//
// Each node lives in a process namespace of its own, so that killing its first process is what a power failure is to a machine.
// That needs root. The short scenarios are part of `make test`, all of them run by `make lab`, and `make lab-danger` shows what a
// plain etcdutl snapshot restore does instead.
package patroni

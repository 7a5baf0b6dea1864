// Package etcdtest runs real etcd servers for tests: clusters of any supported version as
// separate processes on loopback, with certificates, authentication, faults and data.
//
// Servers are built once per machine into a cache directory ([CacheDir]); `go run
// ./internal/etcdtest/prepare` does so ahead of the tests. Everything that a test starts ends with
// it: processes are children of the test with a parent-death signal, so that even a killed test
// leaves none behind, and only processes started here are ever signalled.
//
// Functions and methods that take a testing.TB fail that test, and so must run on its goroutine.
package etcdtest

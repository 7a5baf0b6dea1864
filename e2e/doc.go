// Package e2e tests requorum as its users meet it: the built program, run against real etcd servers and a real S3
// server, each test a story with a disaster in it.
package e2e

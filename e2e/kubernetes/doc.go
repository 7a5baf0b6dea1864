// Package kubernetes is a lab: etcd, real API servers and a real scheduler on it, two clients that renew a node's Lease as kubelets
// do. Each test is a disaster; the built requorum does the backup and the restore under the running API servers, and tells who is back.
//
// `make lab-kubernetes` runs it. It builds the servers from their modules first, which takes minutes and a gigabyte.
package kubernetes

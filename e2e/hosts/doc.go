// Package hosts tests restores over several hosts: network namespaces with addresses, process tables, disks and SSH servers of their
// own, joined by a switch, with etcd on each and requorum at a desk beside them. The tests make and remove all of it; they need root.
package hosts

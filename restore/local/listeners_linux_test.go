package local

import (
	"net"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// Both ways to ask the kernel who listens see every listener, at its address and as the same socket, and nobody who is only connected.
func TestListeners(t *testing.T) {
	var opened []net.Listener
	for _, at := range []struct{ network, address string }{{"tcp4", "127.0.0.1:0"}, {"tcp4", "0.0.0.0:0"}, {"tcp", "[::]:0"}, {"tcp6", "[::1]:0"}} {
		l, err := net.Listen(at.network, at.address)
		if err != nil {
			if at.network == "tcp6" { // this machine has no IPv6
				continue
			}
			t.Fatal(err)
		}
		defer l.Close()
		opened = append(opened, l)
	}
	for range 300 { // more than one message tells
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		opened = append(opened, l)
	}
	client, err := net.Dial("tcp", opened[0].Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	asked, err := listeners()
	if err != nil {
		t.Fatal(err)
	}
	read, err := readListeners()
	if err != nil {
		t.Fatal(err)
	}
	sockets := map[string]string{}
	for way, all := range map[string][]listener{"asked": asked, "read": read} {
		for _, l := range opened {
			own := l.Addr().(*net.TCPAddr)
			i := slices.IndexFunc(all, func(f listener) bool { return f.port == own.Port && f.ip.Equal(own.IP) })
			if i < 0 {
				t.Errorf("%s: %s is not among %d listeners", way, own, len(all))
				continue
			}
			if before := sockets[own.String()]; before != "" && before != all[i].socket {
				t.Errorf("%s is %s and %s", own, before, all[i].socket)
			}
			sockets[own.String()] = all[i].socket
		}
		if slices.ContainsFunc(all, func(f listener) bool { return f.port == client.LocalAddr().(*net.TCPAddr).Port }) {
			t.Errorf("%s: %s, which is only connected, counts as a listener", way, client.LocalAddr())
		}
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if _, err := askListeners(family); err != nil {
			t.Logf("address family %d: the kernel is not asked, but read: %v", family, err)
		}
	}
}

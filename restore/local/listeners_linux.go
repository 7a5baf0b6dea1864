package local

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A listener is a TCP socket that connections can be made to.
type listener struct {
	ip     net.IP
	port   int
	socket string // as links in /proc/PID/fd name it
}

// listeners asks the kernel in the way of ss, and reads its tables in /proc where it does not answer that: for these it walks
// through all the room that it has for connections, which takes it several milliseconds.
func listeners() ([]listener, error) {
	var all []listener
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		found, err := askListeners(family)
		if err != nil {
			return readListeners()
		}
		all = append(all, found...)
	}
	return all, nil
}

// Sizes and places in the messages of sock_diag(7), in bytes: inet_diag_req_v2 and inet_diag_msg.
const (
	diagRequest = 56
	diagMessage = 72
	diagPort    = 4
	diagAddress = 8
	diagInode   = 68
)

// askListeners asks by sock_diag(7) for those of an address family.
func askListeners(family uint8) (found []listener, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2}); err != nil {
		return nil, err
	}
	ask := make([]byte, unix.NLMSG_HDRLEN+diagRequest)
	binary.NativeEndian.PutUint32(ask, uint32(len(ask)))
	binary.NativeEndian.PutUint16(ask[4:], unix.SOCK_DIAG_BY_FAMILY)
	binary.NativeEndian.PutUint16(ask[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	body := ask[unix.NLMSG_HDRLEN:]
	body[0], body[1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(body[4:], 1<<unix.BPF_TCP_LISTEN)
	if err := unix.Sendto(fd, ask, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	for answer := make([]byte, 64<<10); ; {
		n, _, err := unix.Recvfrom(fd, answer, 0)
		if err != nil {
			return nil, err
		}
		messages, err := syscall.ParseNetlinkMessage(answer[:n])
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			switch {
			case m.Header.Flags&unix.NLM_F_DUMP_INTR != 0:
				return nil, errors.New("the table changed meanwhile")
			case m.Header.Type == unix.NLMSG_DONE:
				return found, nil
			case m.Header.Type != unix.SOCK_DIAG_BY_FAMILY || len(m.Data) < diagMessage:
				return nil, fmt.Errorf("a message of type %d with %d bytes", m.Header.Type, len(m.Data))
			}
			size := net.IPv4len
			if m.Data[0] == unix.AF_INET6 {
				size = net.IPv6len
			}
			found = append(found, listener{
				ip:     slices.Clone(net.IP(m.Data[diagAddress : diagAddress+size])), // the buffer is used again
				port:   int(binary.BigEndian.Uint16(m.Data[diagPort:])),
				socket: fmt.Sprintf("socket:[%d]", binary.NativeEndian.Uint32(m.Data[diagInode:])),
			})
		}
	}
}

func readListeners() (all []listener, err error) {
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(table)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for s := bufio.NewScanner(f); s.Scan(); {
			fields := strings.Fields(s.Text())
			if len(fields) < 10 || fields[0] == "sl" {
				continue
			}
			if fields[3] != "0A" { // LISTEN: they come first
				break
			}
			if ip, port, ok := parseAddr(fields[1]); ok {
				all = append(all, listener{ip, port, "socket:[" + fields[9] + "]"})
			}
		}
		f.Close()
	}
	return all, nil
}

// parseAddr reads an address of /proc/net/tcp: hex, in 32-bit words of the machine's byte order.
func parseAddr(s string) (net.IP, int, bool) {
	host, portHex, ok := strings.Cut(s, ":")
	port, err := strconv.ParseUint(portHex, 16, 16)
	raw, herr := hex.DecodeString(host)
	if !ok || err != nil || herr != nil || (len(raw) != 4 && len(raw) != 16) {
		return nil, 0, false
	}
	ip := make(net.IP, len(raw))
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(ip[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	return ip, int(port), true
}

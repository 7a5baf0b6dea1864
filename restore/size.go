package restore

import (
	"fmt"

	"github.com/requorum/requorum/storage/catalog"
)

// sizeCheck finds a database that cannot be opened on a host: its program is for an architecture of 32 bits.
func sizeCheck(member string, s State, size int64) []Check {
	if s.MaxDatabase == 0 || size <= s.MaxDatabase {
		return nil
	}
	return []Check{{Name: "architecture", Member: member, Status: CheckFailed, Detail: fmt.Sprintf(
		"the database has %s, and requorum opens at most %s there, nor does etcd more: the system has 32 bits; build the member on a host with 64 bits", catalog.Size(size), catalog.Size(s.MaxDatabase))}}
}

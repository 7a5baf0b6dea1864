package restore

import "io"

// A Transfer is a database that [Host.Stage] reads as it arrives from another machine, and that can go on where an earlier attempt
// broke off. It is not called at once.
type Transfer interface {
	io.Reader

	// Resume is called before the first Read, with what an earlier attempt left: the first size bytes, and their checksum. It returns
	// where reading begins: at size, if these are indeed the first bytes of the database, else at 0.
	Resume(size int64, checksum string) (offset int64, err error)
}

package dbfile

import (
	"fmt"
	"os"
)

// StageMoved is [Stage] with a database that lies in a file of the same file system as the data dir: it is moved there, not copied. After a failure
// it may be gone.
func StageMoved(d MemberDir, db string) error {
	err := stage(d, func(f *os.File) error { return os.Rename(db, f.Name()) }, settle)
	if err != nil {
		return fmt.Errorf("stage member %s in %s: %w", d.Name, d.DataDir, err)
	}
	return nil
}

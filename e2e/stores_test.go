package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// With two stores each backup lies in both; one that is down costs no backup and hides none, but is told (3); what it lacks afterwards is
// copied; and retention empties both, in the order that never leaves a backup without its data.
func TestTwoStores(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{})
	s.Members[1].Kill(t) // a member that is down is in nobody's way
	offsite := filepath.Join(s.dir, "offsite")
	stores := func(path string) {
		s.second = fmt.Sprintf("{file: {path: %s}}", path)
		s.configure()
	}
	s.cluster = "    retention: {last: 1, minimum: 1}\n"
	stores(offsite)
	s.fill(50, 200)
	first := s.backup()
	if len(first.Stores) != 2 {
		t.Errorf("the backup is in %q", first.Stores)
	}
	s.run("list", "dcs").exits(t, exitOK, "main,offsite")

	stores("/dev/null/gone")
	pause(first)
	s.run("backup", "dcs").exits(t, exitPartly, "offsite", "requorum copy")
	s.run("list", "dcs").exits(t, exitPartly, first.ID, "offsite")
	s.run("expire", "dcs").exits(t, exitError, "offsite") // nothing is decided on a part
	stores(offsite)
	all := s.list()
	if len(all) != 2 {
		t.Fatalf("list shows %+v", all)
	}
	s.run("copy", "dcs", "--to", "nowhere").exits(t, exitUsage, "main, offsite")
	s.run("copy", "dcs", "--to", "offsite", "--dry-run").exits(t, exitOK, "would copy "+all[1].ID)
	s.run("copy", "dcs", "--to", "offsite").exits(t, exitOK, "1 of 1")
	s.run("copy", "dcs", "--to", "offsite").exits(t, exitOK, "0 of 0")

	// A copy that is damaged in one store is found there, and restored from the other.
	data, err := filepath.Glob(filepath.Join(s.storeDir(), "dcs/snapshots/*/*"+all[1].ID+"/db.zst.age"))
	if err != nil || len(data) != 1 {
		t.Fatalf("data objects %q, %v", data, err)
	}
	whole := read(t, data[0])
	write(t, data[0], flip(append([]byte{}, whole...), len(whole)/2))
	s.run("verify", "dcs", "latest").exits(t, exitVerify, "store main")
	s.run("export", "dcs", all[1].ID, "-f", filepath.Join(s.dir, "good.db")).exits(t, exitOK)
	write(t, data[0], whole)
	pause(first)
	s.run("verify", "dcs", all[1].ID).exits(t, exitOK)

	s.run("expire", "dcs", "--dry-run").exits(t, exitOK, "delete", first.ID, "last 1")
	if found := s.list(); len(found) != 2 {
		t.Errorf("a dry run left %+v", found)
	}
	s.run("expire", "dcs").exits(t, exitOK, "deleted", first.ID)
	if found := s.list(); len(found) != 1 || found[0].ID != all[1].ID {
		t.Errorf("expire left %+v", found)
	}
	for _, store := range []string{s.storeDir(), offsite} {
		if found, _ := filepath.Glob(filepath.Join(store, "dcs/snapshots/*/*"+first.ID)); len(found) > 0 {
			t.Errorf("of the expired backup %q is left", found)
		}
	}
	if err := os.RemoveAll(s.storeDir()); err != nil {
		t.Fatal(err)
	}
	s.lose()
	s.restore() // all that is left is offsite
}

// pause waits until a verdict or a backup gets another second in its name than the one before.
func pause(after taken) {
	time.Sleep(time.Until(after.Time.Add(time.Second)))
	time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
}

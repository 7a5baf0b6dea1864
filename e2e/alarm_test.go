package e2e

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// A cluster that ran out of space is backed up, and its restored self takes writes: the alarm stands in the database, where it would
// survive.
func TestNoSpaceAlarm(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{})
	s.fill(50, 200)
	want := s.rows()
	s.RaiseAlarm(t, s.Members[0], pb.AlarmType_NOSPACE)
	s.run("check", "dcs", "--wait", "0").Exits(t, 2, "NOSPACE")
	b := s.backup()
	if len(b.Warnings) == 0 {
		t.Error("the backup of a cluster with an alarm has no warning")
	}
	s.lose()
	s.restore()
	etcdtest.MustEqual(t, want, s.rows())
	etcdtest.Put(t, s.Client(t), "/data/new", "written")
	s.run("check", "dcs", "--wait", "0").Exits(t, 0)
}

// With a CORRUPT alarm members hold different data, and nobody knows whose is right: the member in question is not asked for a backup,
// and a database that carries the alarm is not restored.
func TestCorruptAlarm(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{})
	s.fill(50, 200)
	s.RaiseAlarm(t, s.Members[0], pb.AlarmType_CORRUPT)
	if b := s.backup(); b.Member.Name == s.Members[0].Name || len(b.Warnings) == 0 {
		t.Errorf("the backup is from %s, with warnings %q", b.Member.Name, b.Warnings)
	}
	s.lose()
	s.run("restore", "dcs", "--yes").Exits(t, command.ExitError, "CORRUPT alarm", "nothing was changed")
	for _, m := range s.Members {
		if m.Running() {
			t.Errorf("%s was started", m.Name)
		}
	}
}

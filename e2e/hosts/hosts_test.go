package hosts

import (
	"testing"

	"github.com/requorum/requorum/internal/etcdtest"
)

func TestHosts(t *testing.T) {
	s := newSite(t, 3)
	client := s.found(t, s.hosts...)
	etcdtest.MustFill(t, client, etcdtest.FillOptions{Keys: 1000})
	d := s.newDesk(t, "desk1", s.hosts...)
	d.run(t, "config", "check").exits(t, exitOK)
	d.run(t, "backup", "dcs").exits(t, exitOK)
	want := s.rows(t, s.hosts...)
	for _, h := range s.hosts {
		h.off(t)
		h.on(t)
		h.wipe(t)
	}
	r := d.run(t, "restore", "dcs", "--yes", "-v").exits(t, exitOK)
	t.Log(r)
	etcdtest.MustEqual(t, want, s.rows(t, s.hosts...))
	for _, h := range s.hosts {
		t.Log(h.exec(t, "sh", "-c", "ls -laR /var/tmp /srv | head -60; ps ax"))
	}
}

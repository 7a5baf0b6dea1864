package hosts

import (
	"strings"
	"testing"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// TestSystemdStartsAgain has a flag in a unit's environment file that no etcd takes, which shows at the first start after the restore. systemd starts the
// unit again and again: that is told instead of waited for, and the same command goes on once the flag is gone.
func TestSystemdStartsAgain(t *testing.T) {
	t.Parallel()
	s, hosts := newDebians(t, 1)
	h := hosts[0]
	h.installUnit(t, hosts)
	client := s.client(t, s.hosts...)
	s.serves(t, client)
	etcdtest.MustFill(t, client, etcdtest.FillOptions{Keys: 200})
	d := s.debianDesk(t, "desk1", "{systemd: etcd}", debianData, hosts)
	d.run(t, "backup", "dcs").Exits(t, command.ExitOK)
	want := s.rows(t, s.hosts...)
	settings := h.read(t, "/etc/default/etcd")

	for _, c := range []struct{ kind, says string }{
		{"notify", h.name + ": unit etcd.service did not start: it has ended "},
		{"simple", h.name + ": its etcd was started on " + h.ssh("root") + ", and has ended again: etcd.service is "},
	} {
		t.Run("Type="+c.kind, func(t *testing.T) {
			// The pause is long enough for no start limit to end it.
			unit := strings.NewReplacer("Type=notify", "Type="+c.kind, "RestartSec=500ms", "RestartSec=3s").Replace(etcdUnit)
			h.file(t, "/etc/systemd/system/etcd.service", unit, 0o644)
			h.exec(t, "systemctl", "daemon-reload")
			h.file(t, "/etc/default/etcd", strings.Replace(settings, "--logger zap", "--no-such-flag", 1), 0o644)
			r := d.run(t, "restore", "dcs", "--yes", "--replace-healthy", "dcs").Exits(t, command.ExitError, c.says, "flag provided but not defined: -no-such-flag", "stopped at")
			if strings.Contains(r.Stderr, "became healthy within") {
				t.Errorf("it waited for the deadline:\n%s", r)
			}
			h.file(t, "/etc/default/etcd", settings, 0o644)
			d.run(t, append(printed(t, r, "restore dcs"), "--yes")...).Exits(t, command.ExitOK)
			etcdtest.MustEqual(t, want, s.rows(t, s.hosts...))
			h.settled(t)
		})
	}
}

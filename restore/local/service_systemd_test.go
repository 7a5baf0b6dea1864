package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/restore"
)

// systemctlText is what systemctl show says of a unit, with the values that a test gives; %s is a directory of the test.
const systemctlText = `Id=etcd.service
LoadState=loaded
NeedDaemonReload=no
UnitFileState=enabled
BoundBy=
PassEnvironment=
WorkingDirectory=
RootDirectory=
RootImage=
User=
Group=
DynamicUser=no
`

// show makes a systemctl that answers with a text; it is the first in the PATH.
func show(t *testing.T, text string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "text"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte("#!/bin/sh\nexec cat "+dir+"/text\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// How a unit would start etcd is read from its command, its environment and its environment files, as systemd expands them.
func TestUnitSettings(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "etcd")
	files := map[string]string{
		program: "",
		filepath.Join(dir, "default"): "# settings\n; more\nETCD_NAME=file\nETCD_DATA_DIR=\"/var/lib/file\"\nDAEMON_ARGS=\"--name args \\\n  --wal-dir=/wal\"\n" +
			"ETCD_LISTEN_PEER_URLS='https://10.0.0.1:2380'\nexport ETCD_QUOTA_BACKEND_BYTES=8589934592\nnot an assignment\n",
	}
	for path, text := range files {
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	const rest = " ; ignore_errors=no ; start_time=[n/a] ; stop_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }\n"
	for _, c := range []struct {
		name, text string
		want       restore.Flags
	}{
		{"flags", "ExecStart={ path=" + program + " ; argv[]=" + program + " --name a --data-dir=/d --force-new-cluster" + rest,
			restore.Flags{Name: "a", DataDir: "/d", ForceNewCluster: true, Complete: true}},
		{"etcd's own defaults", "WorkingDirectory=/var/lib/etcd\nExecStart={ path=" + program + " ; argv[]=" + program + rest,
			restore.Flags{Name: "default", DataDir: "/var/lib/etcd/default.etcd", Complete: true}},
		{"environment", "Environment=ETCD_NAME=e \"ETCD_DATA_DIR=/a b\" \"X=\\\"q\\\"\"\nExecStart={ path=" + program + " ; argv[]=" + program + rest,
			restore.Flags{Name: "e", DataDir: "/a b", Complete: true}},
		{"a file goes before the unit's environment, flags before both",
			"Environment=ETCD_NAME=e ETCD_DATA_DIR=/e\nEnvironmentFiles=" + dir + "/missing (ignore_errors=yes)\nEnvironmentFiles=" + dir + "/default (ignore_errors=no)\n" +
				"ExecStart={ path=" + program + " ; argv[]=" + program + " $DAEMON_ARGS" + rest,
			restore.Flags{Name: "args", DataDir: "/var/lib/file", WALDir: "/wal", ListenPeer: []string{"https://10.0.0.1:2380"}, QuotaBytes: 8 << 30, Complete: true}},
		{"a shell, as Red Hat has it", "EnvironmentFiles=" + dir + "/default (ignore_errors=no)\nExecStart={ path=/bin/bash ; argv[]=/bin/bash -c GOMAXPROCS=$(nproc) " + program +
			" --name=\"${ETCD_NAME}\" --data-dir=\"${ETCD_DATA_DIR}\"" + rest,
			restore.Flags{Name: "file", DataDir: "/var/lib/file", ListenPeer: []string{"https://10.0.0.1:2380"}, QuotaBytes: 8 << 30}},
		{"a dollar sign and an unset variable", "ExecStart={ path=" + program + " ; argv[]=" + program + " --name ${NOTHING}a$$b --data-dir /d" + rest,
			restore.Flags{Name: "a$b", DataDir: "/d"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			show(t, systemctlText+c.text)
			c.want.From, c.want.Program = "unit etcd.service", program
			o := (&place{}).at("etcd").look(t.Context())
			if o.flags == nil || !reflect.DeepEqual(*o.flags, c.want) {
				t.Errorf("%+v\nwant %+v", o.flags, c.want)
			}
			if o.owner == nil || o.owner.uid != 0 {
				t.Errorf("a unit without User= runs as %+v", o.owner)
			}
			for _, p := range o.problems {
				if p.Check != "permissions" { // this machine need not have systemd
					t.Errorf("%+v", p)
				}
			}
		})
	}
	for name, text := range map[string]string{
		"a container": "ExecStart={ path=/usr/bin/docker ; argv[]=/usr/bin/docker run -v /var/lib/etcd:/data etcd --data-dir /data" + rest,
		"a chroot":    "RootDirectory=/srv\nExecStart={ path=" + program + " ; argv[]=" + program + " --data-dir /d" + rest,
		"a script":    "ExecStart={ path=/opt/run ; argv[]=/opt/run etcdish" + rest,
	} {
		show(t, systemctlText+text)
		if o := (&place{}).at("etcd").look(t.Context()); o.flags != nil {
			t.Errorf("%s: flags that mean something else are taken for etcd's: %+v", name, o.flags)
		}
	}
}

// at is the place's unit.
func (p *place) at(unit string) systemd { return systemd{p, unitName(unit)} }

// What would keep a unit from being started is found before anything is stopped.
func TestUnitProblems(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		name, from, to string
		warn           bool
	}{
		{"no unit", "LoadState=loaded", "LoadState=not-found", false},
		{"is masked", "LoadState=loaded", "LoadState=masked", false},
		{"is bad-setting", "LoadState=loaded", "LoadState=bad-setting", false},
		{"daemon-reload", "NeedDaemonReload=no", "NeedDaemonReload=yes", false},
		{"is disabled", "UnitFileState=enabled", "UnitFileState=disabled", true},
		{"patroni.service are bound", "BoundBy=", "BoundBy=patroni.service", true},
		{"is not there: it would not start", "BoundBy=", "EnvironmentFiles=" + dir + "/missing (ignore_errors=no)", false},
		{"starts " + dir + "/etcd, which is not there", "BoundBy=", "ExecStart={ path=" + dir + "/etcd ; argv[]=" + dir + "/etcd --name a ; ignore_errors=no }", false},
	} {
		show(t, strings.Replace(systemctlText, c.from, c.to, 1))
		o := (&place{}).at("etcd.service").look(t.Context())
		if !slices.ContainsFunc(o.problems, func(p restore.Problem) bool { return strings.Contains(p.Detail, c.name) && p.Warn == c.warn }) {
			t.Errorf("%s: %+v", c.to, o.problems)
		}
	}
}

// Only a unit that systemd itself calls inactive or failed is down: one that waits to be restarted is not.
func TestUnitStates(t *testing.T) {
	for state, active := range map[string]bool{"active": true, "activating": true, "deactivating": true, "reloading": true, "maintenance": true, "inactive": false, "failed": false} {
		show(t, "Id=etcd.service\nActiveState="+state+"\nSubState=x\nDropInPaths=\n")
		s, err := (&place{}).at("etcd").status(t.Context())
		if err != nil || s.active != active {
			t.Errorf("%s: active %v, %v", state, s.active, err)
		}
		if s.open == "" {
			t.Errorf("%s: a unit without the drop-in counts as forbidden to start", state)
		}
	}
	for name, text := range map[string]string{"nothing": "", "no state": "Id=etcd.service\n"} {
		show(t, text)
		var h *restore.HostError
		if _, err := (&place{}).at("etcd").status(t.Context()); !errors.As(err, &h) || h.Code != restore.HostCommand {
			t.Errorf("a systemctl that says %s counts as an answer: %v", name, err)
		}
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := (&place{}).at("etcd").status(t.Context()); err == nil {
		t.Error("a missing systemctl counts as an answer")
	}
}

// A unit that systemd starts again and again is counted, and told with what it wrote; one that came up at the second attempt is not.
func TestUnitEndsAgain(t *testing.T) {
	for _, c := range []struct {
		text  string
		exits int
		waits bool
	}{
		{"ActiveState=active\nSubState=running\n", 0, false}, // a systemd that does not count
		{"ActiveState=active\nSubState=running\nNRestarts=1\n", 1, false},
		{"ActiveState=activating\nSubState=auto-restart\nNRestarts=1\n", 2, true},
		{"ActiveState=activating\nSubState=auto-restart\nNRestarts=2\n", 3, true},
		{"ActiveState=activating\nSubState=auto-restart-queued\nNRestarts=3\n", 3, true},
		{"ActiveState=active\nSubState=running\nNRestarts=17\n", 17, false},
	} {
		show(t, "Id=etcd.service\n"+c.text)
		journal(t, "no such flag")
		s, err := (&place{}).at("etcd").status(t.Context())
		if err != nil || s.exits != c.exits || s.waits != c.waits || !s.active {
			t.Errorf("%q: %+v, %v", c.text, s, err)
		}
		if told := strings.Contains(s.output, "no such flag"); told != (c.exits >= restore.EndsAgain) {
			t.Errorf("%q: %s", c.text, s.output)
		}
	}
}

// eventually does f again for a while: a program that is slow to answer is taken for one that does not.
func eventually(f func() error) (err error) {
	for deadline := time.Now().Add(time.Minute); ; {
		if err = f(); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// A start ends as soon as it is known how: ready, or failed with the last lines of the journal.
func TestUnitStarts(t *testing.T) {
	for _, c := range []struct{ text, says string }{
		{"ActiveState=active\nSubState=running\n", ""},
		{"ActiveState=failed\nSubState=failed\nResult=exit-code\nExecMainStatus=2\n", "it is failed (exit-code), exit code 2"},
		{"ActiveState=activating\nSubState=auto-restart\nNRestarts=2\nResult=signal\nExecMainStatus=9\n", "it has ended 3 times (signal), exit code 9"},
		{"ActiveState=activating\nSubState=auto-restart\nNRestarts=1\nResult=signal\n", "after 2s it is still activating"}, // that may be chance
		{"ActiveState=inactive\nSubState=dead\nAssertResult=no\nConditionResult=yes\n", "a condition of the unit is not met"},
		{"ActiveState=inactive\nSubState=dead\nConditionResult=no\n", "a condition of the unit is not met"},
		{"ActiveState=inactive\nSubState=dead\nConditionResult=yes\nAssertResult=yes\nResult=success\n", "it is inactive (success)"},
		{"ActiveState=inactive\nSubState=dead\nJob=17\nConditionResult=no\n", "after 2s it is still inactive"}, // it waits for another unit
	} {
		show(t, c.text)
		journal(t, "member has no quorum")
		p := &place{member: restore.Member{Name: "etcd1"}}
		if strings.HasPrefix(c.says, "after 2s") {
			p.member.Service.Timeout = 2 * time.Second
		}
		err := eventually(func() error {
			err := p.at("etcd").do(t.Context(), restore.ActStart)
			var h *restore.HostError
			switch {
			case c.says == "":
				return err
			case !errors.As(err, &h) || !strings.Contains(h.What, c.says) || !strings.Contains(h.What, "member has no quorum"):
				return errors.Join(fmt.Errorf("not %q", c.says), err)
			}
			return nil
		})
		if err != nil {
			t.Errorf("%q: %v", c.text, err)
		}
	}
}

// A stop that somebody's start cancels is asked for again, until the unit is down.
func TestUnitStops(t *testing.T) {
	for _, c := range []struct {
		state string // after the stop was canceled
		calls int    // for stops, of which the third succeeds
	}{{"active", 3}, {"deactivating", 3}, {"inactive", 1}, {"failed", 1}} {
		dir := t.TempDir()
		script := "#!/bin/sh\ncase \"$*\" in\n*show*) echo LoadState=loaded; echo ActiveState=" + c.state + " ;;\n" +
			"*stop*) echo >>" + dir + "/calls; [ $(wc -l <" + dir + "/calls) = 3 ] || { echo 'Job for etcd.service canceled.' >&2; exit 1; } ;;\nesac\n"
		if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
		if err := eventually(func() error { return (&place{}).at("etcd").do(t.Context(), restore.ActStop) }); err != nil {
			t.Errorf("%s: %v", c.state, err)
		}
		if calls, err := os.ReadFile(filepath.Join(dir, "calls")); err != nil || len(calls) != c.calls {
			t.Errorf("%s: %d stops, not %d; %v", c.state, len(calls), c.calls, err)
		}
	}
}

// journal makes a journalctl that has lines of a process.
func journal(t *testing.T, lines ...string) {
	t.Helper()
	dir := t.TempDir()
	var text strings.Builder
	for _, line := range lines {
		fmt.Fprintf(&text, "{\"MESSAGE\":%q,\"_PID\":\"17\"}\n", line)
	}
	if err := os.WriteFile(filepath.Join(dir, "lines"), []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "journalctl"), []byte("#!/bin/sh\nexec cat '"+dir+"/lines'\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// Of a journal a person is shown what the last run of the program wrote: its first line, and the last ones.
func TestUnitWrote(t *testing.T) {
	lines := make([]string, 12)
	for i := range lines {
		lines[i] = fmt.Sprint("line ", i)
	}
	journal(t, lines...)
	if got, want := (&place{}).at("etcd").lastLines(t.Context()), "; it wrote:\n    line 0\n    …\n    line 6\n    line 7\n    line 8\n    line 9\n    line 10\n    line 11"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	const (
		before  = `{"MESSAGE":"of the run before","_PID":"16","_SYSTEMD_INVOCATION_ID":"a"}` + "\n"
		manager = `{"MESSAGE":"Started etcd.","_PID":"1","INVOCATION_ID":"b"}` + "\n"
		last    = `{"MESSAGE":"no such flag","_PID":"17","_SYSTEMD_INVOCATION_ID":"b"}` + "\n" + `{"MESSAGE":[1,2],"_PID":"17","_SYSTEMD_INVOCATION_ID":"b"}` + "\n"
	)
	for journal, want := range map[string][]string{
		before + manager + last + manager: {"no such flag"},
		manager + "cut of":                {"Started etcd."},
		"":                                nil,
	} {
		if got := lastRun(journal); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", journal, got, want)
		}
	}
}

// Whom a unit runs as is asked of the system, which may know users from elsewhere than files.
func TestUnitOwner(t *testing.T) {
	dir := t.TempDir()
	const getent = "#!/bin/sh\ncase $1-$2 in\npasswd-etcd) echo etcd:x:995:994:etcd:/var/lib/etcd:/bin/false ;;\ngroup-ops) echo ops:x:1200: ;;\n*) exit 2 ;;\nesac\n"
	if err := os.WriteFile(filepath.Join(dir, "getent"), []byte(getent), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for _, c := range []struct {
		user, group string
		want        *owner
	}{
		{"", "", &owner{0, 0}}, {"etcd", "", &owner{995, 994}}, {"etcd", "ops", &owner{995, 1200}}, {"", "ops", &owner{0, 1200}},
		{"4711", "4712", &owner{4711, 4712}}, {"4711", "", nil}, {"nobody-knows", "", nil}, {"etcd", "nobody-knows", nil},
	} {
		if got := (&place{}).at("etcd").ownerOf(t.Context(), c.user, c.group); !reflect.DeepEqual(got, c.want) {
			t.Errorf("User=%s Group=%s: %+v, want %+v", c.user, c.group, got, c.want)
		}
	}
}

func TestSpans(t *testing.T) {
	for text, want := range map[string]time.Duration{"1min 30s": 90 * time.Second, "500ms": 500 * time.Millisecond, "infinity": time.Hour, "": 0, "2h 5.5s": 2*time.Hour + 5500*time.Millisecond, "soon": 0, "5": 0} {
		if got := parseSpan(text); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/restore"
)

// systemd is a unit of the system's service manager.
type systemd struct {
	*place
	unit string
}

const (
	// systemUnits is where an administrator's units are, and drop-ins that outlive a reboot.
	systemUnits = "/etc/systemd/system"
	// inhibitor is the drop-in that makes a unit's start fail. Its name comes last: a later one could take the assertion back.
	inhibitor = "zz-requorum-inhibited.conf"
	// startPatience is how long a start waits for etcd to say that it is ready. Without a quorum it never does: that is for the proof to judge.
	startPatience = 20 * time.Second
	startPoll     = 100 * time.Millisecond
	// cancelPatience is how long a stop that fails is asked for again.
	cancelPatience = 5 * time.Second
)

func unitName(name string) string {
	if strings.HasSuffix(name, ".service") {
		return name
	}
	return name + ".service"
}

// systemctl runs one of systemctl's verbs.
func (s systemd) systemctl(ctx context.Context, timeout time.Duration, args ...string) (string, error) {
	return s.call(ctx, timeout, "systemctl", append([]string{"--no-ask-password", "--no-pager"}, args...)...)
}

// properties are what systemd knows of the unit. Those that may come more than once have a line for each.
type properties map[string][]string

func (p properties) get(name string) string { return strings.Join(p[name], " ") }

func parseProperties(text string) properties {
	found := properties{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), "="); ok && value != "" {
			found[name] = append(found[name], value)
		}
	}
	return found
}

func (s systemd) show(ctx context.Context, names ...string) (properties, error) {
	out, err := s.systemctl(ctx, s.patience(), "show", "--property="+strings.Join(names, ","), "--", s.unit)
	if err == nil && !strings.Contains(out, "=") {
		err = s.fault(restore.HostCommand, "is this machine run by systemd?", "systemctl show %s says nothing", s.unit)
	}
	return parseProperties(out), err
}

// up tells whether the unit's processes run or will be started again by systemd itself.
func up(active string) bool { return active != "inactive" && active != "failed" }

func (s systemd) status(ctx context.Context) (status, error) {
	p, err := s.show(ctx, "Id", "ActiveState", "SubState", "Result", "NRestarts", "DropInPaths")
	if err != nil {
		return status{}, err
	}
	state := p.get("ActiveState")
	if state == "" {
		return status{}, s.fault(restore.HostCommand, "see whether systemctl status works by hand", "systemctl does not tell the state of %s", s.unit)
	}
	found := status{active: up(state), output: fmt.Sprintf("%s is %s (%s)", s.unit, state, p.get("SubState")), exits: exits(p), waits: waits(p)}
	if found.exits >= restore.EndsAgain {
		found.output += fmt.Sprintf(", and has ended %d times since it was started%s", found.exits, s.lastLines(ctx))
	}
	file := dropIn(p)
	if _, err := os.Stat(file); gone(err) {
		found.open = file + " is gone"
	} else if err != nil {
		return status{}, fmt.Errorf("%s: %w", s.member.Name, err)
	} else if !loaded(p) {
		found.open = "systemd has not read " + file
	}
	return found, nil
}

// waits says whether the unit's process has ended, and systemd is about to start it again.
func waits(p properties) bool { return strings.HasPrefix(p.get("SubState"), "auto-restart") }

// exits is how often the unit's process has ended by itself since somebody started it. A systemd before 235 does not count.
func exits(p properties) int {
	n, _ := strconv.Atoi(p.get("NRestarts")) // of restarts
	if p.get("SubState") == "auto-restart" {
		n++ // the next is still to come
	}
	return n
}

// dropIn is the path of the drop-in that forbids starts. It is that of the unit's own name, also where an alias is configured.
func dropIn(p properties) string {
	return filepath.Join(systemUnits, p.get("Id")+".d", inhibitor)
}

func loaded(p properties) bool {
	return slices.Contains(strings.Fields(p.get("DropInPaths")), dropIn(p))
}

func (s systemd) do(ctx context.Context, a restore.Action) error {
	switch a {
	case restore.ActInhibit:
		return s.inhibit(ctx)
	case restore.ActStop:
		return s.stop(ctx)
	case restore.ActAllow:
		return s.allow(ctx)
	case restore.ActStart:
		return s.start(ctx)
	}
	return nil
}

// inhibit makes every start fail, a reboot's too. The drop-in asserts that itself does not exist: so it holds from the moment that systemd has
// read it, and ends with the file, whatever systemd has read.
func (s systemd) inhibit(ctx context.Context) error {
	p, err := s.show(ctx, "Id", "LoadState", "DropInPaths")
	if err != nil {
		return err
	}
	if load := p.get("LoadState"); load != "loaded" {
		return s.fault(restore.HostCommand, "see systemctl status "+s.unit, "unit %s is %s", s.unit, load)
	}
	file := dropIn(p)
	if _, err := os.Stat(file); gone(err) {
		err = os.Mkdir(filepath.Dir(file), 0o755)
		if err == nil {
			err = syncDir(systemUnits)
		} else if errors.Is(err, os.ErrExist) {
			err = nil
		}
		if err == nil {
			err = writeFile(file, inhibition(file, s.run, s.member.Name))
		}
		if err != nil {
			return fmt.Errorf("%s: forbid starts of %s: %w", s.member.Name, s.unit, err)
		}
	} else if err != nil {
		return fmt.Errorf("%s: forbid starts of %s: %w", s.member.Name, s.unit, err)
	}
	if loaded(p) {
		return nil
	}
	if _, err := s.systemctl(ctx, s.patience(), "daemon-reload"); err != nil {
		return err
	}
	if p, err = s.show(ctx, "Id", "DropInPaths"); err != nil {
		return err
	}
	if !loaded(p) {
		return s.fault(restore.HostCommand, "see systemctl cat "+s.unit, "systemd does not read %s after a daemon-reload: starts of %s cannot be forbidden", file, s.unit)
	}
	return nil
}

func inhibition(file, run, member string) []byte {
	return fmt.Appendf(nil, `# requorum run %s is exchanging the data dir of member %s. Starts fail meanwhile, also after a reboot, so that etcd
# never runs on half of it. The same "requorum restore" again, or "requorum rollback", ends that and removes this file.
[Unit]
AssertPathExists=!%s
`, run, member, strings.ReplaceAll(file, "%", "%%"))
}

func (s systemd) allow(ctx context.Context) error {
	p, err := s.show(ctx, "Id")
	if err != nil {
		return err
	}
	file := dropIn(p)
	if err := os.Remove(file); gone(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("%s: allow starts of %s: %w", s.member.Name, s.unit, err)
	}
	if err := syncDir(filepath.Dir(file)); err != nil {
		return fmt.Errorf("%s: allow starts of %s: %w", s.member.Name, s.unit, err)
	}
	_ = os.Remove(filepath.Dir(file)) // unless it holds others' drop-ins
	_, err = s.systemctl(ctx, s.patience(), "daemon-reload")
	return err
}

// stop stops the unit alone. Units that only require it, such as agents, go on: they are to be seen at the gate.
func (s systemd) stop(ctx context.Context) error {
	p, err := s.show(ctx, "LoadState", "TimeoutStopUSec")
	if err != nil {
		return err
	}
	if p.get("LoadState") == "not-found" {
		return nil // its processes and ports are looked for in any case
	}
	limit := max(s.patience(), parseSpan(p.get("TimeoutStopUSec"))+10*time.Second)
	for begun := time.Now(); ; {
		if _, err = s.systemctl(ctx, limit, "stop", "--job-mode=ignore-requirements", "--", s.unit); err == nil {
			return nil
		}
		// Somebody who starts the unit at this moment cancels its stop. That start fails, as it is forbidden; the unit may be down, or not.
		if p, lookErr := s.show(ctx, "ActiveState"); lookErr == nil && p.get("ActiveState") != "" && !up(p.get("ActiveState")) {
			return nil
		}
		if time.Since(begun) > cancelPatience {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(startPoll):
		}
	}
}

// start starts the unit and waits until it is ready, or has run for a while: an etcd whose quorum is missing is never ready. One that ends, and that systemd
// starts again, gets [restore.EndsAgain] attempts.
func (s systemd) start(ctx context.Context) error {
	_, _ = s.systemctl(ctx, s.patience(), "reset-failed", "--", s.unit) // it may not have failed
	if _, err := s.systemctl(ctx, s.patience(), "start", "--no-block", "--", s.unit); err != nil {
		return err
	}
	begun := time.Now()
	for {
		p, err := s.show(ctx, "ActiveState", "SubState", "Result", "Job", "MainPID", "NRestarts", "ConditionResult", "AssertResult", "ExecMainStatus")
		if err != nil {
			return err
		}
		state, queued := p.get("ActiveState"), p.get("Job") != "" && p.get("Job") != "0"
		took := time.Since(begun)
		switch {
		case state == "active":
			return nil
		case state == "activating" && p.get("MainPID") != "0" && !waits(p) && took > startPatience:
			return nil
		case waits(p) && exits(p) >= restore.EndsAgain:
			return s.notStarted(ctx, fmt.Sprintf("it has ended %d times (%s), exit code %s", exits(p), p.get("Result"), p.get("ExecMainStatus")))
		case state == "inactive" && !queued && p.get("AssertResult") == "no", state == "inactive" && !queued && p.get("ConditionResult") == "no":
			return s.notStarted(ctx, "a condition of the unit is not met")
		case state == "failed" && !queued, state == "inactive" && !queued:
			return s.notStarted(ctx, fmt.Sprintf("it is %s (%s), exit code %s", state, p.get("Result"), p.get("ExecMainStatus")))
		case took > s.patience():
			return s.notStarted(ctx, fmt.Sprintf("after %s it is still %s (%s)", s.patience(), state, p.get("SubState")))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: start: %w", s.member.Name, context.Cause(ctx))
		case <-time.After(startPoll):
		}
	}
}

// notStarted says why, with the last lines that the unit wrote.
func (s systemd) notStarted(ctx context.Context, why string) error {
	return s.fault(restore.HostCommand, "see journalctl -u "+s.unit, "unit %s did not start: %s%s", s.unit, why, s.lastLines(ctx))
}

// lastLines are what the unit wrote at last, as the end of a sentence.
func (s systemd) lastLines(ctx context.Context) string {
	out, err := s.call(ctx, 10*time.Second, "journalctl", "--unit="+s.unit, "--lines=100", "--no-pager", "--output=json")
	lines := lastRun(out)
	if err != nil || len(lines) == 0 {
		return ""
	}
	const most = 8
	if n := len(lines); n > most { // a program that ends may say why in its first line: etcd writes how it is used after a flag that it does not know
		lines = append([]string{lines[0], "…"}, lines[n-most+2:]...)
	}
	return "; it wrote:\n    " + strings.Join(lines, "\n    ")
}

// lastRun are the messages in a journal that the processes of the last run wrote, or systemd itself if they were silent.
func lastRun(journal string) []string {
	var run string
	var own, manager []string
	for line := range strings.Lines(journal) {
		var e struct {
			Message string `json:"MESSAGE"`
			PID     string `json:"_PID"`
			Run     string `json:"_SYSTEMD_INVOCATION_ID"` // of the unit, if a process of it wrote
		}
		switch err := json.Unmarshal([]byte(line), &e); {
		case err != nil: // no text
		case e.PID == "1":
			manager = append(manager, e.Message)
		default:
			if e.Run != run {
				run, own = e.Run, nil
			}
			own = append(own, e.Message)
		}
	}
	if len(own) == 0 {
		return manager
	}
	return own
}

// look reads the unit as systemd has it.
func (s systemd) look(ctx context.Context) (o outlook) {
	p, err := s.show(ctx, "Id", "LoadState", "LoadError", "NeedDaemonReload", "UnitFileState", "BoundBy", "ExecStart", "Environment", "EnvironmentFiles",
		"PassEnvironment", "WorkingDirectory", "RootDirectory", "RootImage", "User", "Group", "DynamicUser")
	if err != nil {
		o.problem("service", "%v", err)
		return o
	}
	switch load := p.get("LoadState"); load {
	case "loaded":
	case "not-found":
		o.problem("service", "this machine has no unit %s: correct service.systemd of member %s", s.unit, s.member.Name)
		return o
	case "masked":
		o.problem("service", "unit %s is masked, so it cannot be started: systemctl unmask %s", s.unit, s.unit)
		return o
	default:
		o.problem("service", "unit %s is %s %s: see systemctl status %s", s.unit, load, p.get("LoadError"), s.unit)
		return o
	}
	if p.get("NeedDaemonReload") == "yes" {
		o.problem("service", "the files of unit %s were changed since systemd read them, so nobody knows how it would be started: systemctl daemon-reload", s.unit)
	}
	if p.get("UnitFileState") == "disabled" {
		o.warn("service", "unit %s is disabled: nothing starts it after a reboot", s.unit)
	}
	if bound := p.get("BoundBy"); bound != "" {
		o.warn("service", "%s are bound to %s: systemd stops them with it, and does not start them again", bound, s.unit)
	}
	if err := unix.Access(systemUnits, unix.W_OK|unix.X_OK); err != nil {
		o.problem("permissions", "%s cannot be written to: %v; run requorum as root, or with sudo", systemUnits, err)
	}
	if p.get("DynamicUser") != "yes" {
		o.owner = s.ownerOf(ctx, p.get("User"), p.get("Group"))
	}
	if p.get("RootDirectory") == "" && p.get("RootImage") == "" {
		s.execStart(p, &o)
	}
	return o
}

// parseSpan reads a time as systemd writes it, such as "1min 30s"; one that is not understood is 0, no limit an hour.
func parseSpan(text string) time.Duration {
	if text == "infinity" {
		return time.Hour
	}
	var sum time.Duration
	for word := range strings.FieldsSeq(text) {
		i := strings.IndexFunc(word, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
		if i < 1 {
			return 0
		}
		n, err := strconv.ParseFloat(word[:i], 64)
		unit, known := map[string]time.Duration{"us": time.Microsecond, "ms": time.Millisecond, "s": time.Second, "min": time.Minute, "h": time.Hour, "d": 24 * time.Hour}[word[i:]]
		if err != nil || !known {
			return 0
		}
		sum += time.Duration(n * float64(unit))
	}
	return sum
}

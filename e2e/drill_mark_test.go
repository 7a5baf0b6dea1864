package e2e

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/requorum/requorum/internal/etcdtest/command"
)

// marked fails the test unless list and show say of a backup what the last drill that came to a verdict found; "" is none.
func (s *site) marked(backup, drill string, ok bool, why string) {
	s.t.Helper()
	type found struct {
		ID, Why string
		OK      bool
	}
	type row struct {
		ID     string
		Failed bool
		Drill  *found
	}
	var listed []row
	var shown row
	s.run("-o", "json", "list", "dcs").Exits(s.t, command.ExitOK).Decode(s.t, &listed)
	s.run("-o", "json", "show", "dcs", backup).Exits(s.t, command.ExitOK).Decode(s.t, &shown)
	words, cell := "in none that came to a verdict", ""
	switch {
	case drill != "" && ok:
		words, cell = "restored in "+drill, " ago"
	case drill != "":
		words, cell = "FAILED in "+drill, "FAILED"
	}
	s.run("show", "dcs", backup).Exits(s.t, command.ExitOK, words, why)
	s.run("list", "dcs").Exits(s.t, command.ExitOK, "DRILLED", cell)
	i := slices.IndexFunc(listed, func(b row) bool { return b.ID == backup })
	if i < 0 || listed[i].Failed {
		s.t.Fatalf("backup %s: %+v; a drill is no verification", backup, listed)
	}
	for where, f := range map[string]*found{"list": listed[i].Drill, "show": shown.Drill} {
		if (f != nil) != (drill != "") || f != nil && (f.ID != drill || f.OK != ok || where == "show" && !strings.HasPrefix(f.Why, why)) {
			s.t.Errorf("%s: the drill of %s is %+v, want %q, passed %t: %s", where, backup, f, drill, ok, why)
		}
	}
}

// warned shows that the plan of a restore warns when the latest drill of its source failed, names the backup that a drill did restore, and goes on.
func (s *site) warned(restored string) {
	t := s.t
	t.Helper()
	b := s.backup()
	data := filepath.Join(s.storeDir(), "dcs", b.Data.Key)
	whole := read(t, data)
	write(t, data, whole[:len(whole)/2])
	r := s.drill(command.ExitVerify)
	write(t, data, whole)
	if !slices.ContainsFunc(r.Notes, func(n string) bool { return strings.Contains(n, "speaks against backup "+b.ID) }) {
		t.Errorf("the report does not say whom the failure is about: %q", r.Notes)
	}
	if checked := s.run("check", "dcs", "--wait", "0"); !strings.Contains(checked.Stdout, "backup "+b.ID+" failed in drill "+r.ID) || strings.Contains(checked.Stdout, "backup "+restored+" failed") {
		t.Errorf("check does not warn of the backup alone:\n%s", checked)
	}
	s.run("restore", "dcs", "--plan", "--replace-healthy", "dcs").Exits(t, command.ExitOK, "the latest drill of backup "+b.ID+", "+r.ID, "failed: fetch: ", "--at "+restored)
	plan := s.run("restore", "dcs", "--plan", "--replace-healthy", "dcs", "--at", restored).Exits(t, command.ExitOK)
	if strings.Contains(plan.Stdout, "the latest drill") {
		t.Errorf("the plan warns of a backup that was restored in a drill:\n%s", plan)
	}
}

package e2e

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// hasFields fails the test unless text is a JSON object with exactly these fields. Scripts read them: a field that is renamed or lost
// breaks them, and one that is added belongs into this list and into the documentation.
func hasFields(t *testing.T, of string, text []byte, required ...string) {
	t.Helper()
	var object map[string]json.RawMessage
	if err := json.Unmarshal(text, &object); err != nil {
		t.Fatalf("%s: %v\n%s", of, err, text)
	}
	for _, name := range required {
		if _, ok := object[name]; !ok {
			t.Errorf("%s has no %q; it has %q", of, name, slices.Sorted(maps.Keys(object)))
		}
	}
}

// onlyFields is hasFields, and nothing else is there but the optional ones.
func onlyFields(t *testing.T, of string, text []byte, required []string, optional ...string) {
	t.Helper()
	hasFields(t, of, text, required...)
	var object map[string]json.RawMessage
	if err := json.Unmarshal(text, &object); err != nil {
		t.Fatal(err)
	}
	for name := range object {
		if !slices.Contains(required, name) && !slices.Contains(optional, name) {
			t.Errorf("%s has %q, of which the contract knows nothing", of, name)
		}
	}
}

// part is a value inside of a JSON document: keys, and 0 for the first item of a list.
func part(t *testing.T, text string, path ...string) []byte {
	t.Helper()
	raw := json.RawMessage(text)
	for i, key := range path {
		var err error
		if key == "0" {
			var list []json.RawMessage
			if err = json.Unmarshal(raw, &list); err == nil && len(list) > 0 {
				raw = list[0]
				continue
			}
		} else {
			var object map[string]json.RawMessage
			if err = json.Unmarshal(raw, &object); err == nil && object[key] != nil {
				raw = object[key]
				continue
			}
		}
		t.Fatalf("nothing is at %s: %v\n%s", strings.Join(path[:i+1], "."), err, text)
	}
	return raw
}

// The names of what -o json prints are a contract: those of the design, for every command that it names.
func TestJSONContract(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{etcd: etcdtest.Options{Members: 1}, cluster: "    agents: [{leased: {prefix: /app/}}]\n"})
	s.fill(50, 200)
	etcdtest.Lease(t, s.Client(t), 30*time.Minute, "/app/leader")
	words := func(s string) []string { return strings.Fields(s) }

	manifest := words("format cluster line id time revision source version cluster_id raft_term member members config data facts codec recipients " +
		"compact_revision hash_kv keys rows leases lease_hash auth_hash proofs")
	may := words("host auth_enabled warnings")
	backup := s.run("-o", "json", "backup", "dcs").Exits(t, command.ExitOK).Stdout
	onlyFields(t, "backup", []byte(backup), append(slices.Clone(manifest), words("seconds stores run")...), append(slices.Clone(may), "alerts")...)
	onlyFields(t, "backup.data", part(t, backup, "data"), words("key bytes sha256 stored_bytes stored_sha256"))
	onlyFields(t, "backup.hash_kv", part(t, backup, "hash_kv"), words("hash compact_revision revision"))
	onlyFields(t, "backup.proofs", part(t, backup, "proofs", "0"), words("name ok where"), "detail")
	onlyFields(t, "backup.members", part(t, backup, "members", "0"), words("id name peer_urls client_urls"), "learner")
	onlyFields(t, "backup.member", part(t, backup, "member"), words("name id endpoint server_version storage_version"))

	show := s.run("show", "dcs", "latest", "-o", "json").Exits(t, command.ExitOK).Stdout
	onlyFields(t, "show", []byte(show), append(slices.Clone(manifest), "agent_facts", "drill"), may...)

	list := s.run("list", "-o", "json").Exits(t, command.ExitOK).Stdout
	onlyFields(t, "list", part(t, list, "0"), words("id cluster line revision time stored_bytes encrypted stores verified_at failed drill"))
	if at := part(t, list, "0", "verified_at"); string(at) != "null" {
		t.Errorf("a backup that was not verified since has verified_at %s, want null", at)
	}

	verify := s.run("verify", "dcs", "-o", "json").Exits(t, command.ExitOK).Stdout
	onlyFields(t, "verify", []byte(verify), words("id ok scope checks"), "warnings")
	onlyFields(t, "verify.checks", part(t, verify, "checks", "0"), words("name ok detail"))
	var all []struct{ ID, Scope string }
	s.run("verify", "dcs", "--all", "-o", "json").Exits(t, command.ExitOK).Decode(t, &all)
	if len(all) != 1 || all[0].Scope != "full" {
		t.Errorf("verify --all is %+v", all)
	}

	check := s.run("check", "dcs", "--wait", "0", "-o", "json").Exits(t, 0).Stdout
	onlyFields(t, "check", []byte(check), words("cluster ok members agents last_backup problems"))
	onlyFields(t, "check.members", part(t, check, "members", "0"), words("name endpoint healthy leader learner version revision db_bytes"), "error")
	onlyFields(t, "check.last_backup", part(t, check, "last_backup"), words("id age_seconds"))

	refused := s.run("restore", "dcs", "--yes", "-o", "json").Exits(t, command.ExitRefused).Stdout
	onlyFields(t, "an error", []byte(refused), words("error"))
	onlyFields(t, "error", part(t, refused, "error"), words("what where advice code"))
	if code := string(part(t, refused, "error", "code")); code != "14" {
		t.Errorf("the error's code is %s, the exit code 14", code)
	}
	if advice := string(part(t, refused, "error", "advice")); !strings.Contains(advice, "--replace-healthy dcs") {
		t.Errorf("the advice of a refusal is %s, not its flag", advice)
	}
	broken := s.run("list", "nobody", "-o", "json").Exits(t, command.ExitUsage).Stdout
	onlyFields(t, "error", part(t, broken, "error"), words("what where advice code"))

	s.lose()
	critical := s.run("check", "dcs", "--wait", "0", "-o", "json").Exits(t, 2).Stdout
	onlyFields(t, "check.problems", part(t, critical, "problems", "0"), words("severity what"), "advice")
	plan := s.run("restore", "dcs", "--plan", "-o", "json").Exits(t, command.ExitOK).Stdout
	hasFields(t, "restore --plan", []byte(plan), words("run kind cluster source members checks target_revision ghosts steps")...)

	restore := s.run("restore", "dcs", "--yes", "-o", "json").Exits(t, command.ExitOK).Stdout
	onlyFields(t, "restore", []byte(restore), words("run kind ok resumed source target_revision bump cluster_id ghosts_removed rpo_seconds rpo_basis rto_seconds "+
		"healthy_seconds waiting stages members proof agents started ended"), words("edits backup without discarded notes error")...)
	onlyFields(t, "restore.source", part(t, restore, "source"), words("kind id revision time"))
	onlyFields(t, "restore.ghosts_removed", part(t, restore, "ghosts_removed", "0"), words("prefix count"))
	onlyFields(t, "restore.stages", part(t, restore, "stages", "0"), words("name seconds"))
	onlyFields(t, "restore.members", part(t, restore, "members", "0"), words("name healthy leader revision hash"), "detail")
	hasFields(t, "restore.agents", part(t, restore, "agents", "0"), words("name verdict checks")...)

	// Data is on stdout and nothing else is: a script can pipe it.
	for _, r := range []command.Result{s.run("list", "-o", "json"), s.run("runs", "-o", "json"), s.run("schedules", "-o", "json"), s.run("version", "-o", "json"), s.run("expire", "dcs", "--dry-run", "-o", "json")} {
		if !json.Valid([]byte(r.Exits(t, command.ExitOK).Stdout)) {
			t.Errorf("stdout is not JSON:\n%s", r)
		}
	}
	if r := s.run("-q", "backup", "dcs").Exits(t, command.ExitOK); r.Stderr != "" {
		t.Errorf("-q says %q on stderr", r.Stderr)
	}
}

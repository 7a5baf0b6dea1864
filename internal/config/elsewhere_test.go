package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A cluster elsewhere has its own path and members, keeps stores and keys, and waits for no agent of the old one; whatever would mix the two up is refused.
func TestElsewhere(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	none := func(string) (string, bool) { return "", false }
	member := `- {name: a1, peer_url: "https://10.1.0.1:2380", client_url: "https://10.1.0.1:2379", data_dir: /var/lib/etcd, service: {start: up, stop: down, status: is}}`
	c, err := Load(write("requorum.yaml", `
clusters:
  dcs:
    stores: [main]
    path: prod/dcs
    members: [{name: e1, peer_url: "https://10.0.0.1:2380", client_url: "https://10.0.0.1:2379", data_dir: /var/lib/etcd, service: {start: up, stop: down, status: is}}]
    agents: [{leased: {prefix: /app/}}]
  spare:
    stores: [main]
    members: [{name: s1, peer_url: "https://10.2.0.1:2380", client_url: "https://10.2.0.1:2379", data_dir: /var/lib/etcd, service: {start: up, stop: down, status: is}}]
  bare: {stores: [main], endpoints: ["https://10.3.0.1:2379"]}
stores: {main: {file: {path: `+dir+`}}}
`), none)
	if err != nil {
		t.Fatal(err)
	}
	dcs := c.Clusters["dcs"]
	good := write("members.yaml", "members:\n"+member+"\n")
	to, err := c.Elsewhere(dcs, "dcs2", good, none)
	if err != nil {
		t.Fatal(err)
	}
	if to.Name != "dcs2" || to.Path != "dcs2" || len(to.Members) != 1 || to.Members[0].Name != "a1" || to.Members[0].Host != "local" || len(to.Agents) != 0 ||
		len(to.Endpoints) != 1 || to.Endpoints[0] != "https://10.1.0.1:2379" || len(to.Stores) != 1 {
		t.Errorf("elsewhere: %+v", to)
	}
	if dcs.Name != "dcs" || dcs.Path != "prod/dcs" || dcs.Members[0].Name != "e1" || len(dcs.Agents) != 1 {
		t.Errorf("the old cluster was changed: %+v", dcs)
	}
	if to, err := c.Elsewhere(dcs, "spare", "", none); err != nil || to != c.Clusters["spare"] {
		t.Errorf("a configured cluster: %+v, %v", to, err)
	}
	for _, refused := range []struct{ as, file, want string }{
		{"dcs", good, "the cluster itself"},
		{"spare", good, "is configured, with members of its own"},
		{"bare", "", "no members"},
		{"dcs2", "", "--members FILE"},
		{"a.b", good, "is no name"},
		{"prod", good, "those of cluster dcs"},
		{"dcs2", filepath.Join(dir, "missing.yaml"), "cannot read"},
		{"dcs2", write("empty.yaml", "members: []\n"), "members"},
		{"dcs2", write("typo.yaml", "member:\n"+member+"\n"), "unknown key"},
		{"dcs2", write("twice.yaml", "members:\n"+member+"\n"+member+"\n"), "the name"},
	} {
		if _, err := c.Elsewhere(dcs, refused.as, refused.file, none); err == nil || !strings.Contains(err.Error(), refused.want) {
			t.Errorf("--as %s --members %s: %v, expected %q", refused.as, filepath.Base(refused.file), err, refused.want)
		}
	}
}

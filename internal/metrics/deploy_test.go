package metrics

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/requorum/requorum/internal/health"
	"github.com/requorum/requorum/internal/service"
)

const (
	rules     = "../../deploy/prometheus/rules.yml"
	dashboard = "../../deploy/grafana/requorum.json"
	alerts    = "../../docs/alerts.md"
)

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var metricName = regexp.MustCompile(`requorum_[a-z0-9_]+`)

// known fails the test for names of metrics that are not exposed.
func known(t *testing.T, where, text string) {
	t.Helper()
	var names []string
	for _, d := range All() {
		names = append(names, d.Name)
		if d.Type == "histogram" {
			names = append(names, d.Name+"_bucket", d.Name+"_sum", d.Name+"_count")
		}
	}
	for _, name := range metricName.FindAllString(text, -1) {
		if !slices.Contains(names, name) {
			t.Errorf("%s: %s is no metric of requorum's", where, name)
		}
	}
}

// anchors are the fragments that GitHub makes of the headings.
func anchors(markdown string) []string {
	var all []string
	drop := regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	for line := range strings.Lines(markdown) {
		if title, ok := strings.CutPrefix(line, "#"); ok {
			title = strings.TrimSpace(strings.TrimLeft(title, "#"))
			all = append(all, strings.ReplaceAll(drop.ReplaceAllString(strings.ToLower(title), ""), " ", "-"))
		}
	}
	return all
}

func TestRules(t *testing.T) {
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr         string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, rules)), &file); err != nil {
		t.Fatal(err)
	}
	doc := read(t, alerts)
	sections, tests := anchors(doc), read(t, strings.TrimSuffix(rules, ".yml")+"_test.yml")
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			known(t, r.Alert, r.Expr)
			page, section, _ := strings.Cut(r.Annotations["runbook_url"], "#")
			if !strings.HasSuffix(page, "/docs/alerts.md") || !slices.Contains(sections, section) {
				t.Errorf("%s: there is no section at %q", r.Alert, r.Annotations["runbook_url"])
			}
			if s := r.Labels["severity"]; s != "warning" && s != "critical" {
				t.Errorf("%s has the severity %q", r.Alert, s)
			}
			if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("%s says nothing", r.Alert)
			}
			if row := regexp.MustCompile(`\| \[[^]]*\b` + r.Alert + `\b[^]]*\]\(#` + regexp.QuoteMeta(section) + `\) `); !row.MatchString(doc) {
				t.Errorf("the table of docs/alerts.md does not lead from %s to #%s", r.Alert, section)
			}
			if !strings.Contains(tests, "\n        alertname: "+r.Alert+"\n        exp_alerts:\n") {
				t.Errorf("no test in rules_test.yml raises %s", r.Alert)
			}
		}
	}
	for _, name := range slices.Concat(health.Names, service.Names()) {
		if !strings.Contains(doc, "`"+name+"`") {
			t.Errorf("docs/alerts.md says nothing of the problem %s", name)
		}
	}
	known(t, alerts, doc)
}

// Links within the page and to its neighbours lead somewhere.
func TestAlertsLinks(t *testing.T) {
	doc := read(t, alerts)
	for _, m := range regexp.MustCompile(`\]\(([^)#]*)(#[^)]*)?\)`).FindAllStringSubmatch(doc, -1) {
		target := doc
		if m[1] != "" {
			target = read(t, filepath.Join(filepath.Dir(alerts), m[1]))
		}
		if m[2] != "" && !slices.Contains(anchors(target), m[2][1:]) {
			t.Errorf("%s%s leads nowhere", m[1], m[2])
		}
	}
}

// promtool is what Prometheus itself says of the rules.
func promtool(t *testing.T, stdin string, args ...string) {
	t.Helper()
	tool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed: on Debian apt-get install prometheus")
	}
	cmd := exec.CommandContext(t.Context(), tool, args...)
	cmd.Dir = filepath.Dir(rules)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func TestPromtool(t *testing.T) {
	t.Run("check rules", func(t *testing.T) { promtool(t, "", "check", "rules", "rules.yml") })
	t.Run("test rules", func(t *testing.T) { promtool(t, "", "test", "rules", "rules_test.yml") })
	t.Run("check metrics", func(t *testing.T) { promtool(t, exposition(t, filled(t)), "check", "metrics") })
}

func TestDashboard(t *testing.T) {
	text := read(t, dashboard)
	var board struct {
		Title, UID string
		Panels     []struct {
			ID          int
			Type, Title string
			GridPos     struct{ H, W, X, Y int }
			Targets     []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(text), &board); err != nil {
		t.Fatal(err)
	}
	known(t, dashboard, text)
	if board.Title == "" || board.UID == "" || len(board.Panels) < 10 {
		t.Errorf("%q has %d panels", board.Title, len(board.Panels))
	}
	ids := map[int]bool{}
	taken := map[[2]int]string{}
	var expressions []map[string]string // as rules, for promtool
	for _, p := range board.Panels {
		if ids[p.ID] {
			t.Errorf("two panels have the id %d", p.ID)
		}
		ids[p.ID] = true
		for _, target := range p.Targets {
			expressions = append(expressions, map[string]string{"record": fmt.Sprintf("panel:%d_%d", p.ID, len(expressions)), "expr": strings.ReplaceAll(target.Expr, "$cluster", ".*")})
		}
		if p.Type != "row" && (len(p.Targets) == 0 || p.Title == "") {
			t.Errorf("panel %d %q shows nothing", p.ID, p.Title)
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("%s lies on %s, or outside", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
	}
	file := filepath.Join(t.TempDir(), "panels.yml")
	panels, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "panels", "rules": expressions}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, panels, 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "", "check", "rules", file)
}

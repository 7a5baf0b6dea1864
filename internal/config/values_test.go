package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

func TestSecretNeverPrints(t *testing.T) {
	const value = "hunter2-hunter2"
	s := NewSecret(value)
	type inner struct{ hidden, Shown Secret }
	whole := inner{s, s}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", s, "struct", whole)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", s, "struct", whole)
	j, err := json.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	y, err := yaml.Marshal(map[string]any{"s": s, "p": &s})
	if err != nil {
		t.Fatal(err)
	}
	all := log.String() + string(j) + string(y)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%p", "%t"} {
		all += fmt.Sprintf(verb, s) + fmt.Sprintf(verb, &s) + fmt.Sprintf(verb, whole) + fmt.Sprintf(verb, &whole) + fmt.Sprintf(verb, []Secret{s})
	}
	for _, form := range []string{value, fmt.Sprintf("%x", value), fmt.Sprintf("%X", value)} {
		if strings.Contains(all, form) {
			t.Errorf("the secret shows as %s in\n%s", form, all)
		}
	}
	if !strings.Contains(string(j), `"Shown":"[redacted]"`) || s.Reveal() != value || (Secret{}).String() != "" || NewSecret("") != (Secret{}) {
		t.Errorf("JSON %s, revealed %q", j, s.Reveal())
	}
}

func TestReadSecret(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct{ content, want, err string }{
		{"abc\n", "abc", ""}, {"abc\r\n", "abc", ""}, {" a b \n\n", " a b \n", ""}, {"\n", "", "is empty"}, {strings.Repeat("x", maxSecretFile+1), "", "no password"},
	} {
		file := filepath.Join(dir, "s")
		if err := os.WriteFile(file, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := ReadSecret(File(file))
		if got.Reveal() != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%.10q: got %q, %v", c.content, got.Reveal(), err)
		}
	}
	conn := Access{Username: "u", PasswordFile: File(filepath.Join(dir, "gone"))}
	if _, _, err := conn.Credentials(); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("a missing password file: %v", err)
	}
}

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "0s": 0, "90m": 90 * time.Minute, "1h30m": 90 * time.Minute, "7d": 7 * day, "2w": 14 * day, "1.5d": 36 * time.Hour,
		"1w2d3h4m5s6ms": 9*day + 3*time.Hour + 4*time.Minute + 5*time.Second + 6*time.Millisecond, "250ms": 250 * time.Millisecond, "3us": 3000, "3µs": 3000,
	} {
		got, err := ParseDuration(text)
		if err != nil || time.Duration(got) != want {
			t.Errorf("%s: got %v, %v", text, time.Duration(got), err)
		}
		if again, err := ParseDuration(got.String()); err != nil || again != got {
			t.Errorf("%s is written as %s, which reads as %v, %v", text, got, again, err)
		}
	}
	for _, text := range []string{"", " ", "90", "-1h", "1x", "h", "1.2.3s", "1h30", "1e3s", "300000w", "1h -3m", "NaNs", "."} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
	}
}

func TestExpand(t *testing.T) {
	d := &decoder{lookup: env(map[string]string{"A": "one", "B_2": "", "C": "${A}$$"})}
	for text, want := range map[string]string{
		"plain": "plain", "${A}": "one", "x${A}y${A}": "xoney" + "one", "${B_2}": "", "$$": "$", "$$$$": "$$", "$${A}": "${A}", "$A": "$A", "a$": "a$", "$": "$",
		"$$${A}": "$one", "${C}": "${A}$$", // what comes out of a variable is not looked at again
	} {
		if got, f := d.expand(text); f != nil || got != want {
			t.Errorf("%s: got %q, %v; want %q", text, got, f, want)
		}
	}
	for _, text := range []string{"${", "${A", "${}", "${NONE}", "${A B}", "${A:-x}", "${1}"} {
		if got, f := d.expand(text); f == nil {
			t.Errorf("%s: got %q, want an error", text, got)
		}
	}
}

func TestVariablesInOtherTypes(t *testing.T) {
	const file = "clusters: {a: {endpoints: ['${URL}'], stores: [s], retention: {last: '${N}', within: '${D}'}}}\nstores: {s: {s3: {bucket: '${B}', path_style: '${P}'}}}\n"
	c, err := Parse("x.yaml", []byte(file), env(map[string]string{"URL": "http://h:1", "N": "12", "D": "2d", "P": "true", "B": "b"}))
	if err != nil {
		t.Fatal(err)
	}
	r := c.Clusters["a"].Retention
	if c.Clusters["a"].Endpoints[0] != "http://h:1" || r.Last != 12 || time.Duration(r.Within) != 2*day || !c.Stores["s"].S3.PathStyle {
		t.Errorf("got %+v %+v", r, c.Stores["s"].S3)
	}
	_, err = Parse("x.yaml", []byte(file), env(map[string]string{"URL": "h", "N": "many", "D": "2", "P": "perhaps", "B": ""}))
	if ps, _ := errors.AsType[Problems](err); len(ps) != 5 {
		t.Errorf("five bad values gave:\n%v", err)
	}
}

func TestGap(t *testing.T) {
	for _, c := range []struct {
		specs Crons
		want  time.Duration
	}{
		{nil, 0},
		{Crons{"* * * * *"}, time.Minute},
		{Crons{"0 * * * *"}, time.Hour},
		{Crons{"@every 45m"}, 45 * time.Minute},
		{Crons{"0 9-17 * * 1-5"}, 64 * time.Hour},              // over the weekend
		{Crons{"0 9-17 * * 1-5", "0 0 * * *"}, 24 * time.Hour}, // the union counts
		{Crons{"0 9 1 */3 *"}, 92 * day},
		{Crons{"0 0 29 2 *"}, 1461 * day},
		{Crons{"0 0 * * *"}, 24 * time.Hour},
		{Crons{"CRON_TZ=Europe/Berlin 0 12 * * *"}, 25 * time.Hour}, // the night when clocks go back
		{Crons{"*/5 * * 1-11 *"}, 31 * day},                         // beyond the firings looked at one by one
	} {
		got := c.specs.Gap()
		if diff := (got - c.want).Abs(); diff > 10*time.Minute || c.want < day && diff > 0 {
			t.Errorf("%v: got %v, want %v", c.specs, got, c.want)
		}
	}
}

func TestCronRefusesTooFast(t *testing.T) {
	for _, text := range []string{"@every 0s", "@every -5m", "CRON_TZ=UTC @every 10ms"} {
		var c Cron
		if f := c.parse(text, nil); f == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestNotifyProblems(t *testing.T) {
	const secret = "T0000-XXXX"
	for _, tc := range []struct{ name, notify, want string }{
		{"no kind", "- severity: critical", "notify.to[0]: a receiver is of exactly one kind"},
		{"two kinds", "- {slack: {url: http://h/x}, webhook: {url: http://h/x}}", "exactly one kind"},
		{"a misspelt kind, once", "- slak: {url: x}", "did you mean slack?"},
		{"no URL", "- slack: {}", "notify.to[0].slack: there is no URL"},
		{"two URLs", "- slack: {url: http://h/x, url_file: requorum.yaml}", "url and url_file are both written"},
		{"no such URL", "- slack: {url: " + secret + "}", "notify.to[0].slack.url: it is no URL of a web server"},
		{"no severity", "- {slack: {url: http://h/x}, severity: info}", `"info" is no severity; write one of warning and critical`},
		{"no security", "- email: {server: h, security: ssl, from: a@b, to: [c@d]}", `"ssl" is no security of mail`},
		{"no recipients", "- email: {server: h, from: a@b, to: []}", "notify.to[0].email.to: it is empty"},
		{"no address", "- email: {server: h, from: a@b, to: [nobody]}", `"nobody" is no mail address`},
		{"half a login", "- email: {server: h, from: a@b, to: [c@d], username: u}", "there is a username and no password"},
		{"half a login", "- email: {server: h, from: a@b, to: [c@d], password: " + secret + "}", "there is a password and no username"},
		{"a CA for nothing", "- email: {server: h, from: a@b, to: [c@d], security: plain, ca: requorum.yaml}", "no certificate is checked"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "requorum.yaml"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Parse(filepath.Join(dir, "requorum.yaml"), []byte(small+"notify:\n  to:\n    "+tc.notify+"\n"), env(nil))
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), secret) || tc.name != "two kinds" && strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want %s", err, tc.want)
			}
		})
	}
}

func TestNotifyWarnsOfUnknownClusters(t *testing.T) {
	c, err := Parse("requorum.yaml", []byte(small+"notify: {to: [{slack: {url: http://h/x}, clusters: [gone]}]}\n"), env(nil))
	if err != nil || len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0].Error(), `there is no cluster "gone"`) {
		t.Errorf("%v, warnings %v", err, c.Warnings)
	}
}

// Secrets of notifications are read from their files when they are used, checked by config check, and kept out of manifests.
func TestNotifySecrets(t *testing.T) {
	dir := t.TempDir()
	const secret = "https://h/T0000-XXXX"
	for name, content := range map[string]string{"good": secret + "\n", "bad": "T0000-XXXX\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text := strings.Replace(small, "    stores: [main]", "    stores: [main]\n    heartbeat: {url: "+secret+"}", 1) +
		"notify: {to: [{slack: {url_file: good}}, {webhook: {url_file: bad, token: T0000-XXXX}}, {slack: {url: " + secret + "}}]}\n"
	c, err := Parse(filepath.Join(dir, "requorum.yaml"), []byte(text), env(nil))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Notify.To[0].Slack.Read(); got != secret || err != nil {
		t.Errorf("the URL is %q, %v", got, err)
	}
	if got, err := c.Notify.To[1].Webhook.Bearer()(); got != "T0000-XXXX" || err != nil {
		t.Errorf("the token is %q, %v", got, err)
	}
	problems := c.CheckFiles(time.Now())
	if len(problems) != 1 || !strings.Contains(problems.Error(), "notify.to[1].webhook.url_file: it is no URL") || strings.Contains(problems.Error(), "XXXX") {
		t.Errorf("config check says %v", problems)
	}
	raw, err := c.Sanitized("dcs")
	if err != nil || strings.Contains(string(raw), "XXXX") || !strings.Contains(string(raw), "notify.to[2].slack.url") {
		t.Errorf("a manifest keeps %s, %v", raw, err)
	}
}

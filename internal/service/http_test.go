package service

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

func call(t *testing.T, h http.Handler, method, path, host, token string) (int, string) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, nil)
	r.Host = host
	if password, ok := strings.CutPrefix(token, "password "); ok {
		r.SetBasicAuth("anybody", password)
	} else if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	b, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	if path != "/metrics" && (path != "/" || w.Code != http.StatusOK) && !json.Valid(b) {
		t.Errorf("%s %s gives no JSON: %s", method, path, b)
	}
	return w.Code, string(b)
}

// Who may read and who may start something: a mistake here lets strangers in.
func TestAPI(t *testing.T) {
	began := make(chan string, 10)
	cluster := func(name string) Cluster {
		return Cluster{Name: name, Repository: memoryRepository(t, name),
			Jobs: map[Kind]Job{Snapshot: {Work: func(context.Context, *slog.Logger, string) (Report, error) {
				began <- name
				return Report{}, nil
			}}},
			List:      func(context.Context) (any, error) { return []string{"backup of " + name}, nil },
			Schedules: func(_ context.Context, next int) (any, error) { return []int{next}, nil },
			Check:     func(context.Context) (any, error) { return map[string]string{"cluster": name}, nil }}
	}
	s := New(Options{Classify: classify, AtOnce: 1})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	open := API{Service: s, Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "requorum_up 1\n") })}
	if code, _ := call(t, open.Handler(), "GET", "/readyz", "localhost", ""); code != http.StatusServiceUnavailable {
		t.Errorf("ready before it has begun: %d", code)
	}
	go func() { defer close(ended); s.Run(ctx, []Cluster{cluster("a"), cluster("b")}) }()
	<-s.Begun()
	for deadline := time.Now().Add(time.Minute); slices.ContainsFunc(s.sorted(), func(u *unit) bool { return u.current().Role != Leader }); {
		if time.Now().After(deadline) {
			t.Fatal("the only replica does not lead")
		}
		time.Sleep(time.Millisecond)
	}
	guarded := open
	guarded.Token = func() (string, error) { return "s3cret", nil }
	for _, c := range []struct {
		name, method, path, host, token string
		open, guarded                   int
		says                            string
	}{
		{"alive", "GET", "/healthz", "10.0.0.1:9379", "", 200, 200, `"ok":true`},
		{"ready", "GET", "/readyz", "10.0.0.1:9379", "", 200, 200, `"ok":true`},
		{"metrics", "GET", "/metrics", "127.0.0.1:9379", "", 200, 401, ""},
		{"metrics with the token", "GET", "/metrics", "10.0.0.1:9379", "s3cret", 403, 200, ""},
		{"the page", "GET", "/", "127.0.0.1:9379", "", 200, 401, "<!DOCTYPE html>"},
		{"the page with the token", "GET", "/", "127.0.0.1:9379", "s3cret", 200, 200, "<!DOCTYPE html>"},
		{"the page in a browser", "GET", "/", "127.0.0.1:9379", "password s3cret", 200, 200, `data-cluster="b"`},
		{"the page with a wrong password", "GET", "/", "127.0.0.1:9379", "password s3cre", 200, 401, ""},
		{"the page with an empty password", "GET", "/", "127.0.0.1:9379", "password ", 200, 401, ""},
		{"the page through a name of an attacker", "GET", "/", "evil.example:9379", "", 403, 401, ""},
		{"the page, posted to", "POST", "/", "127.0.0.1:9379", "s3cret", 404, 404, ""},
		{"what is not there", "GET", "/api/v1/backups", "127.0.0.1:9379", "s3cret", 404, 404, "/api/v1/clusters"},
		{"another method", "DELETE", "/api/v1/list", "127.0.0.1:9379", "s3cret", 404, 404, "DELETE /api/v1/list"},
		{"all backups", "GET", "/api/v1/list", "localhost:9379", "s3cret", 200, 200, `["backup of a","backup of b"]`},
		{"all backups through a name of an attacker", "GET", "/api/v1/list", "evil.example:9379", "", 403, 401, ""},
		{"one cluster's backups", "GET", "/api/v1/clusters/b/list", "[::1]:9379", "s3cret", 200, 200, `["backup of b"]`},
		{"no such cluster", "GET", "/api/v1/clusters/c/list", "localhost", "s3cret", 404, 404, "no such cluster"},
		{"schedules", "GET", "/api/v1/clusters/a/schedules?next=5", "localhost", "s3cret", 200, 200, "[5]"},
		{"schedules, badly asked", "GET", "/api/v1/clusters/a/schedules?next=x", "localhost", "s3cret", 400, 400, "must be a number"},
		{"check", "GET", "/api/v1/clusters/a/check", "localhost", "s3cret", 200, 200, `{"cluster":"a"}`},
		{"states", "GET", "/api/v1/clusters", "localhost", "s3cret", 200, 200, `"role":"leader"`},
		{"alerts", "GET", "/api/v1/alerts", "localhost", "s3cret", 200, 200, "[]"},
		{"observation of a cluster that is not watched", "GET", "/api/v1/clusters/a/observation", "localhost", "s3cret", 200, 200, "null"},
		{"a wrong token", "GET", "/api/v1/list", "localhost", "s3cre", 200, 401, ""},
		{"a backup without a token", "POST", "/api/v1/clusters/a/backup", "localhost", "", 403, 401, ""},
		{"a backup by a form that a browser sends", "POST", "/api/v1/clusters/a/backup", "localhost", "password s3cret", 403, 401, ""},
		{"a backup with a token where none is configured", "POST", "/api/v1/clusters/a/backup", "localhost", "s3cret", 403, 202, ""},
	} {
		for word, api := range map[string]struct {
			h    http.Handler
			want int
		}{"open": {open.Handler(), c.open}, "guarded": {guarded.Handler(), c.guarded}} {
			code, body := call(t, api.h, c.method, c.path, c.host, c.token)
			if code != api.want || code < 300 && !strings.Contains(body, c.says) {
				t.Errorf("%s, %s: %d %s; want %d and %q", c.name, word, code, body, api.want, c.says)
			}
			if strings.Contains(body, "s3cret") {
				t.Errorf("%s, %s: the answer holds the token: %s", c.name, word, body)
			}
		}
	}
	select {
	case name := <-began:
		if name != "a" || len(began) > 0 {
			t.Errorf("a backup of %s was begun, and %d more", name, len(began))
		}
	case <-time.After(time.Minute):
		t.Error("no backup was begun")
	}
	broken := open
	broken.Token = func() (string, error) { return "", nil }
	if code, _ := call(t, broken.Handler(), "GET", "/api/v1/list", "localhost", "x"); code != http.StatusServiceUnavailable {
		t.Errorf("an empty token lets in: %d", code)
	}
	cancel()
	<-ended
	if code, _ := call(t, open.Handler(), "GET", "/readyz", "localhost", ""); code != http.StatusServiceUnavailable {
		t.Errorf("ready after the end: %d", code)
	}
}

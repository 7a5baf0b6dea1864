package service

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// API is the service over HTTP.
type API struct {
	Service *Service
	Metrics http.Handler // nil: there are none

	// Token returns what a caller must show as Authorization: Bearer. It is asked at each request, so that a rotated one counts at once. nil:
	// anybody who reaches the listener may read, and nobody may start anything; then the listener must be on loopback.
	Token func() (string, error)
}

// apiTimeout bounds what a request may ask of stores and members.
const apiTimeout = 2 * time.Minute

// Handler serves
//
//	GET  /                                    the same for people: a page
//	GET  /healthz                             the process gets on
//	GET  /readyz                              schedules are followed
//	GET  /metrics
//	GET  /api/v1/clusters                     what the service knows of each cluster
//	GET  /api/v1/alerts                       what is wrong now
//	GET  /api/v1/list, /api/v1/schedules      as the commands print them, of all clusters
//	GET  /api/v1/clusters/{cluster}/list, …/schedules, …/check, …/observation
//	POST /api/v1/clusters/{cluster}/backup    begins a backup: 202
//
// Everything but /healthz and /readyz needs the token where there is one; POST always does. Whoever only reads may also show it as a browser does: as the
// password of any user.
func (a API) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", state(a.Service.Alive))
	mux.HandleFunc("GET /readyz", state(a.Service.Ready))
	if a.Metrics != nil {
		mux.Handle("GET /metrics", a.reader(a.Metrics.ServeHTTP))
	}
	get := func(path string, f func(ctx context.Context, r *http.Request) (any, error)) {
		mux.Handle("GET "+path, a.reader(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), apiTimeout)
			defer cancel()
			v, err := f(ctx, r)
			if err != nil {
				fail(w, statusOf(err), err.Error(), "")
				return
			}
			answer(w, http.StatusOK, v)
		}))
	}
	mux.Handle("GET /{$}", a.reader(a.page))
	get("/api/v1/clusters", func(context.Context, *http.Request) (any, error) { return a.Service.states(), nil })
	get("/api/v1/alerts", func(_ context.Context, r *http.Request) (any, error) {
		return a.Service.alerts.list(r.FormValue("cluster")), nil
	})
	get("/api/v1/list", a.all(func(ctx context.Context, c Cluster, _ *http.Request) (any, error) { return c.List(ctx) }))
	get("/api/v1/schedules", a.all(plans))
	get("/api/v1/clusters/{cluster}/list", a.one(func(ctx context.Context, c Cluster, _ *http.Request) (any, error) { return c.List(ctx) }))
	get("/api/v1/clusters/{cluster}/schedules", a.one(plans))
	get("/api/v1/clusters/{cluster}/check", a.one(func(ctx context.Context, c Cluster, _ *http.Request) (any, error) { return c.Check(ctx) }))
	get("/api/v1/clusters/{cluster}/observation", func(_ context.Context, r *http.Request) (any, error) {
		u, err := a.Service.unit(r.PathValue("cluster"))
		if err != nil {
			return nil, err
		}
		u.mu.Lock()
		defer u.mu.Unlock()
		return u.detail, nil // null on a replica that does not watch it
	})
	mux.Handle("POST /api/v1/clusters/{cluster}/backup", a.writer(func(w http.ResponseWriter, r *http.Request) {
		if err := a.Service.Demand(r.PathValue("cluster")); err != nil {
			fail(w, statusOf(err), err.Error(), "")
			return
		}
		answer(w, http.StatusAccepted, map[string]string{"cluster": r.PathValue("cluster"), "state": "begun"})
	}))
	mux.Handle("/", a.reader(func(w http.ResponseWriter, r *http.Request) {
		fail(w, http.StatusNotFound, fmt.Sprintf("there is nothing at %s %s", r.Method, r.URL.Path), "ask for / (a page), /metrics, /healthz, /readyz, /api/v1/clusters or /api/v1/alerts")
	}))
	return mux
}

// NewServer is an HTTP server for a handler, with bounds against slow callers.
func NewServer(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: apiTimeout + 30*time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10}
}

// errBadRequest is a mistake of the caller.
var errBadRequest = errors.New("bad request")

func statusOf(err error) int {
	switch {
	case errors.Is(err, ErrNoCluster):
		return http.StatusNotFound
	case errors.Is(err, ErrBusy):
		return http.StatusConflict
	case errors.Is(err, ErrStopping):
		return http.StatusServiceUnavailable
	case errors.Is(err, errBadRequest):
		return http.StatusBadRequest
	}
	return http.StatusInternalServerError
}

func plans(ctx context.Context, c Cluster, r *http.Request) (any, error) {
	next := 1
	if text := r.FormValue("next"); text != "" {
		var err error
		if next, err = strconv.Atoi(text); err != nil || next < 1 || next > 1000 {
			return nil, fmt.Errorf("%w: next is %q, and must be a number from 1 to 1000", errBadRequest, text)
		}
	}
	return c.Schedules(ctx, next)
}

type perCluster func(ctx context.Context, c Cluster, r *http.Request) (any, error)

// one asks for the cluster in the path.
func (a API) one(f perCluster) func(context.Context, *http.Request) (any, error) {
	return func(ctx context.Context, r *http.Request) (any, error) {
		u, err := a.Service.unit(r.PathValue("cluster"))
		if err != nil {
			return nil, err
		}
		c, _ := u.now()
		return f(ctx, c, r)
	}
}

// all joins what each cluster gives, which is an array each time. A cluster whose stores do not answer fails the whole: a part would be
// taken for everything.
func (a API) all(f perCluster) func(context.Context, *http.Request) (any, error) {
	return func(ctx context.Context, r *http.Request) (any, error) {
		joined := []json.RawMessage{}
		for _, u := range a.Service.sorted() {
			c, _ := u.now()
			v, err := f(ctx, c, r)
			if err != nil {
				return nil, fmt.Errorf("cluster %s: %w", c.Name, err)
			}
			text, err := json.Marshal(v)
			if err != nil {
				return nil, err
			}
			var rows []json.RawMessage
			if err := json.Unmarshal(text, &rows); err != nil {
				return nil, err
			}
			joined = append(joined, rows...)
		}
		return joined, nil
	}
}

// reader lets through who may read.
func (a API) reader(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.Token != nil && !a.shown(w, r, true) {
			return
		}
		// A page in a browser on this machine could have its own name resolve to loopback, and read along.
		if a.Token == nil && !loopbackName(r.Host) {
			fail(w, http.StatusForbidden, fmt.Sprintf("the host %q is not this machine's loopback", r.Host), "ask 127.0.0.1 or localhost, or configure serve.token_file")
			return
		}
		next(w, r)
	})
}

// writer lets through who may start something.
func (a API) writer(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.Token == nil {
			fail(w, http.StatusForbidden, "starting something needs a token, and none is configured", "write serve.token_file into the configuration")
			return
		}
		if a.shown(w, r, false) { // a browser would add what it knows to a form of any page
			next(w, r)
		}
	})
}

// shown says whether the request shows the token, as a password too if that is allowed, and answers it otherwise.
func (a API) shown(w http.ResponseWriter, r *http.Request, password bool) bool {
	want, err := a.Token()
	if err != nil || want == "" {
		a.Service.o.Log.Error("the token of the API cannot be read", "error", err)
		fail(w, http.StatusServiceUnavailable, "the token of the API cannot be read", "see the log of the service")
		return false
	}
	x, y := sha256.Sum256([]byte(tokenIn(r, password))), sha256.Sum256([]byte(want)) // equally long, so that the comparison takes the same time
	if subtle.ConstantTimeCompare(x[:], y[:]) != 1 {
		w.Header().Set("WWW-Authenticate", `Bearer realm="requorum"`)
		if password {
			w.Header().Add("WWW-Authenticate", `Basic realm="requorum", charset="UTF-8"`)
		}
		fail(w, http.StatusUnauthorized, "no valid token was shown", "send it as Authorization: Bearer TOKEN")
		return false
	}
	return true
}

// tokenIn is the token that a request shows, "" if it shows none.
func tokenIn(r *http.Request, password bool) string {
	if scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " "); strings.EqualFold(scheme, "bearer") {
		return token
	}
	if _, token, ok := r.BasicAuth(); ok && password {
		return token
	}
	return ""
}

// loopbackName says whether a Host header names this machine's loopback.
func loopbackName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func state(check func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if err := check(); err != nil {
			fail(w, http.StatusServiceUnavailable, err.Error(), "")
			return
		}
		answer(w, http.StatusOK, map[string]bool{"ok": true})
	}
}

func answer(w http.ResponseWriter, status int, v any) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // the caller is gone
}

func fail(w http.ResponseWriter, status int, what, advice string) {
	answer(w, status, map[string]any{"error": map[string]any{"what": what, "where": "", "advice": advice, "code": status}})
}

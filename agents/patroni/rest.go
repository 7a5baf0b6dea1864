package patroni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	askTimeout    = 5 * time.Second  // bounds one question to one agent
	configTimeout = 2 * time.Second  // and that for settings, which may be answered by silence
	loginTimeout  = 15 * time.Second // bounds the way to an agent that this machine may not reach by itself
)

// endpoint is the REST API of one agent.
type endpoint struct {
	base string // scheme://host:port
	host string // host:port
}

func parseEndpoint(raw string) (*endpoint, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%q is no URL: give one such as https://10.0.1.1:8008", raw)
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, fmt.Errorf("%q: give scheme and host, such as https://10.0.1.1:8008", raw)
	case u.User != nil:
		return nil, fmt.Errorf("%s: user and password belong into username and password_file", u.Redacted())
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("%q: give the base URL alone, without %q", raw, u.RequestURI())
	}
	return &endpoint{base: u.Scheme + "://" + u.Host, host: u.Host}, nil
}

// client asks agents. It never writes, and follows no redirect.
type client struct {
	http               *http.Client
	username, password string
	patience           time.Duration // bounds one question
	silence            time.Duration // and that for settings
}

func newClient(opt Options) *client {
	c := &client{username: opt.Username, password: opt.Password, patience: askTimeout, silence: configTimeout}
	dial, connect := opt.Dial, askTimeout
	if dial == nil {
		dial = func(ctx context.Context, addr string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		}
	} else {
		connect = loginTimeout
		c.patience += loginTimeout
	}
	c.http = &http.Client{
		Transport: &http.Transport{
			TLSClientConfig: opt.TLS,
			DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
				ctx, cancel := context.WithTimeout(ctx, connect)
				defer cancel()
				return dial(ctx, addr)
			},
			TLSHandshakeTimeout:   askTimeout,
			ResponseHeaderTimeout: askTimeout,
			IdleConnTimeout:       30 * time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c
}

// status is what GET /patroni answers, in the words of 3.x and 4.x.
type status struct {
	State    string `json:"state"`
	Role     string `json:"role"` // master in 3.x, primary in 4.x; replica, standby_leader, demoted, …
	Timeline int64  `json:"timeline"`
	Xlog     struct {
		Location uint64 `json:"location"`          // of a primary
		Received uint64 `json:"received_location"` // of a replica
		Replayed uint64 `json:"replayed_location"`
	} `json:"xlog"`
	Replication []struct {
		ApplicationName string `json:"application_name"`
		State           string `json:"state"`
	} `json:"replication"`
	ReplicationState string `json:"replication_state"` // from 4.x on
	DCSLastSeen      int64  `json:"dcs_last_seen"`     // unix seconds
	SystemID         string `json:"database_system_identifier"`
	Unlocked         bool   `json:"cluster_unlocked"`
	Pause            bool   `json:"pause"`
	Failsafe         bool   `json:"failsafe_mode_is_active"`
	Patroni          struct {
		Version string `json:"version"`
		Scope   string `json:"scope"`
		Name    string `json:"name"` // newer 3.x and 4.x
	} `json:"patroni"`
}

// primary says whether the agent calls its PostgreSQL a running primary.
func (s status) primary() bool {
	return (s.Role == "master" || s.Role == "primary") && s.State == "running"
}

// lsn is how far its WAL goes, 0 when it does not say.
func (s status) lsn() uint64 { return max(s.Xlog.Location, s.Xlog.Received, s.Xlog.Replayed) }

// major is the major version of Patroni, 0 if it does not say.
func (s status) major() int {
	n, _, _ := strings.Cut(s.Patroni.Version, ".")
	major, _ := strconv.Atoi(n)
	return major
}

// status asks an agent where it stands. Any answer that is no such report is
// an error: a stranger may listen there.
func (c *client) status(ctx context.Context, e *endpoint) (status, error) {
	code, body, err := c.get(ctx, e, "/patroni")
	if err != nil {
		return status{}, err
	}
	switch code {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden:
		return status{}, fmt.Errorf("GET %s/patroni: %d: the REST API wants other credentials: see username and password_file", e.base, code)
	default:
		return status{}, fmt.Errorf("GET %s/patroni: %d: is this Patroni's REST API?", e.base, code)
	}
	var s status
	if err := json.Unmarshal(body, &s); err != nil {
		return status{}, fmt.Errorf("GET %s/patroni: %w: is this Patroni's REST API?", e.base, err)
	}
	if s.State == "" {
		return status{}, fmt.Errorf("GET %s/patroni: no state in the answer: is this Patroni's REST API?", e.base)
	}
	return s, nil
}

// settings asks for the dynamic settings that the agent goes by, nil if it does
// not say: without etcd it knows them for one ttl only.
func (c *client) settings(ctx context.Context, e *endpoint) settings {
	ctx, cancel := context.WithTimeout(ctx, c.silence)
	defer cancel()
	code, body, err := c.get(ctx, e, "/config")
	if err != nil || code != http.StatusOK {
		return nil
	}
	return parseConfig(body).settings()
}

// holds asks one of the health checks that answer with their code alone.
func (c *client) holds(ctx context.Context, e *endpoint, path string) (bool, error) {
	code, _, err := c.get(ctx, e, path)
	return code == http.StatusOK, err
}

func (c *client) get(ctx context.Context, e *endpoint, path string) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.base+path, nil)
	if err != nil {
		return 0, nil, err
	}
	if c.username != "" {
		req.SetBasicAuth(c.username, c.password)
	}
	resp, err := c.http.Do(req)
	if outer := (*url.Error)(nil); errors.As(err, &outer) {
		err = outer.Err // it repeats the URL, which whoever tells this knows
	}
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return 0, nil, fmt.Errorf("GET %s%s: %w", e.base, path, err)
	}
	return resp.StatusCode, body, nil
}

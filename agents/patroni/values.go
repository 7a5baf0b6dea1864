package patroni

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// config is the value of a scope's config key: Patroni's dynamic settings.
type config map[string]json.RawMessage

// parseConfig returns nil for anything but a JSON object.
func parseConfig(value []byte) config {
	var c config
	if json.Unmarshal(value, &c) != nil {
		return nil
	}
	return c
}

// looksDynamic says whether these are Patroni's settings and not somebody's
// file that happens to be called config.
func (c config) looksDynamic() bool {
	known := 0
	for _, name := range []string{"ttl", "loop_wait", "retry_timeout", "maximum_lag_on_failover", "synchronous_mode", "failsafe_mode", "standby_cluster", "postgresql", "pause"} {
		if _, ok := c[name]; ok {
			known++
		}
	}
	return known >= 2
}

// on reads a switch as Patroni's parse_bool does.
func (c config) on(name string) bool {
	switch c.word(name) {
	case "on", "true", "yes", "1":
		return true
	}
	return false
}

// word is a setting as one lower-case word, without quotes.
func (c config) word(name string) string {
	return strings.ToLower(strings.Trim(strings.TrimSpace(string(c[name])), `"`))
}

func (c config) paused() bool { return c.on("pause") }

// synchronous says whether the scope replicates synchronously: on, or by
// quorum since 4.0.
func (c config) synchronous() bool {
	return c.on("synchronous_mode") || c.word("synchronous_mode") == "quorum"
}

// standby says whether the scope follows a primary elsewhere.
func (c config) standby() bool {
	var s map[string]json.RawMessage
	return json.Unmarshal(c["standby_cluster"], &s) == nil && len(s) > 0
}

// loopWait is the pause between two rounds of an agent in seconds.
func (c config) loopWait() float64 {
	if s, err := strconv.ParseFloat(c.word("loop_wait"), 64); err == nil && s > 0 {
		return s
	}
	return 10
}

// withSetting returns the config with one setting changed, or taken out if to is
// nil; every other setting and their order stay as they were.
func withSetting(value []byte, setting string, to []byte) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(value))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return nil, fmt.Errorf("set %s in the config key: it holds no JSON object", setting)
	}
	var out bytes.Buffer
	out.WriteByte('{')
	add := func(name string, value []byte) {
		if out.Len() > 1 {
			out.WriteString(", ")
		}
		quoted, _ := json.Marshal(name) // a string always marshals
		out.Write(quoted)
		out.WriteString(": ")
		out.Write(value)
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("set %s in the config key: %w", setting, err)
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return nil, fmt.Errorf("set %s in the config key: setting %v: %w", setting, name, err)
		}
		if name != setting {
			add(name.(string), v)
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, fmt.Errorf("set %s in the config key: %w", setting, err)
	}
	if to != nil {
		add(setting, to)
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}

// member is the value of members/<name>.
type member struct {
	ConnURL          string `json:"conn_url"`
	APIURL           string `json:"api_url"`
	State            string `json:"state"`
	Role             string `json:"role"`
	Version          string `json:"version"`
	Timeline         int64  `json:"timeline"`
	XlogLocation     int64  `json:"xlog_location"`
	ReplicationState string `json:"replication_state"`
}

// parseMember takes both forms: a JSON object, and the URL alone that old
// versions wrote. ok is false for what is no Patroni member.
func parseMember(value []byte) (m member, ok bool) {
	if isPostgresURL(string(value)) {
		return member{ConnURL: string(value)}, true
	}
	if json.Unmarshal(value, &m) != nil {
		return member{}, false
	}
	api, err := url.Parse(m.APIURL)
	hasAPI := err == nil && (api.Scheme == "http" || api.Scheme == "https") && m.State != ""
	return m, isPostgresURL(m.ConnURL) || hasAPI
}

func isPostgresURL(s string) bool {
	return strings.HasPrefix(s, "postgres://") || strings.HasPrefix(s, "postgresql://")
}

// parseSystemID takes a PostgreSQL system identifier: the seconds of its
// creation shifted left by 32 bits, so 19 or 20 digits since 2001.
func parseSystemID(value []byte) (string, bool) {
	s := string(value)
	if n, err := strconv.ParseUint(s, 10, 64); err != nil || n < 1e18 || s[0] == '+' {
		return "", false
	}
	return s, true
}

// change is one entry of history: the end of a timeline.
type change struct {
	Timeline int64  // the one that ended
	LSN      uint64 // where it ended
	Leader   string // who led next, "" if unknown
}

// parseHistory reads [[timeline, lsn, reason, time, new leader], …]; the last
// two are optional.
func parseHistory(value []byte) ([]change, bool) {
	var rows [][]json.RawMessage
	if json.Unmarshal(value, &rows) != nil || rows == nil {
		return nil, false
	}
	changes := make([]change, len(rows))
	for i, row := range rows {
		if len(row) < 3 || json.Unmarshal(row[0], &changes[i].Timeline) != nil || json.Unmarshal(row[1], &changes[i].LSN) != nil {
			return nil, false
		}
		if len(row) >= 5 && json.Unmarshal(row[4], &changes[i].Leader) != nil {
			return nil, false
		}
	}
	return changes, true
}

// syncState is the value of sync.
type syncState struct {
	Leader      string `json:"leader"`
	SyncStandby string `json:"sync_standby"` // names, joined by commas
}

func parseSync(value []byte) (s syncState, ok bool) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(value, &fields) != nil || fields == nil {
		return s, false
	}
	_, hasLeader := fields["leader"]
	return s, json.Unmarshal(value, &s) == nil && (hasLeader || len(fields) == 0)
}

// isStatus says whether value is that of status: {"optime": N, …}.
func isStatus(value []byte) bool {
	var s struct {
		Optime *int64 `json:"optime"`
	}
	return json.Unmarshal(value, &s) == nil && s.Optime != nil
}

// formatLSN writes a WAL position as PostgreSQL does.
func formatLSN(lsn uint64) string { return fmt.Sprintf("%X/%X", lsn>>32, lsn&0xffffffff) }

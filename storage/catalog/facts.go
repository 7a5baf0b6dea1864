package catalog

import (
	"encoding/json"
	"fmt"
)

// Facts say which agents live in a backup. They are sealed like the data.
type Facts struct {
	Format int            `json:"format"`
	Leased []LeasedPrefix `json:"leased"`
	Agents []AgentFacts   `json:"agents"`
}

// LeasedPrefix is a group of leased keys.
type LeasedPrefix struct {
	Prefix    string      `json:"prefix"`
	Count     int         `json:"count"`
	TTLMin    int64       `json:"ttl_min"` // granted, in seconds
	TTLMax    int64       `json:"ttl_max"`
	Owners    []LeasedKey `json:"owners,omitempty"`    // some of them, in key order
	Truncated int         `json:"truncated,omitempty"` // how many are not in Owners
	Agent     string      `json:"agent,omitempty"`     // the configured agent that they belong to
}

// LeasedKey is one key that hangs on a lease.
type LeasedKey struct {
	Key            string `json:"key"`
	Lease          string `json:"lease"` // hexadecimal
	TTL            int64  `json:"ttl"`   // granted, in seconds
	Value          string `json:"value,omitempty"`
	CreateRevision int64  `json:"create_revision"`
	ModRevision    int64  `json:"mod_revision"`
}

// AgentFacts are what one configured agent observed in the backup.
type AgentFacts struct {
	Name string          `json:"name"`
	Kind string          `json:"kind"`
	Data json.RawMessage `json:"data,omitempty"`
}

// ParseFacts reads facts. A newer format is an error, unknown fields are ignored.
func ParseFacts(b []byte) (Facts, error) {
	var f Facts
	if err := json.Unmarshal(b, &f); err != nil {
		return Facts{}, fmt.Errorf("not facts: %w", err)
	}
	if f.Format != Format {
		return Facts{}, formatError(f.Format)
	}
	return f, nil
}

package catalog

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// The sources of a snapshot.
const (
	SourceLive     = "live"     // the Snapshot call of a member with quorum
	SourceImport   = "import"   // a file that someone gave
	SourceSurvivor = "survivor" // a member that had lost its quorum, or its disk
	SourceMerged   = "merged"   // a snapshot and later segments
)

// The codecs of stored objects.
const (
	CodecZstd    = "zstd"
	CodecZstdAge = "zstd+age" // compressed, then encrypted
)

// HashKV is etcd's hash of the key space. Two of them compare only if CompactRevision and Revision are equal.
type HashKV struct {
	Hash            uint32 `json:"hash"`
	CompactRevision int64  `json:"compact_revision"`
	Revision        int64  `json:"revision"`
}

// Proof is one thing that was checked, and where.
type Proof struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Where  string `json:"where"` // "stored", "spool" or "member etcd2"
	Detail string `json:"detail,omitempty"`
}

// Object is one stored object of a backup.
type Object struct {
	Key          string `json:"key"` // relative to the repository's path
	Bytes        int64  `json:"bytes"`
	SHA256       string `json:"sha256"` // of the raw bytes, 64 lower-case hexadecimal digits
	StoredBytes  int64  `json:"stored_bytes"`
	StoredSHA256 string `json:"stored_sha256"`
}

// Member is a member of the cluster as it stood when the backup was taken.
type Member struct {
	ID         string   `json:"id"` // 16 hexadecimal digits
	Name       string   `json:"name"`
	PeerURLs   []string `json:"peer_urls"`
	ClientURLs []string `json:"client_urls"`
	Learner    bool     `json:"learner,omitempty"`
}

// Origin is the member that a snapshot came from.
type Origin struct {
	Name           string `json:"name"`
	ID             string `json:"id,omitempty"`
	Endpoint       string `json:"endpoint,omitempty"`
	ServerVersion  string `json:"server_version,omitempty"`  // such as 3.5.35
	StorageVersion string `json:"storage_version,omitempty"` // empty before 3.6
}

// Manifest makes a backup exist. It is written last.
type Manifest struct {
	Format   int       `json:"format"`
	Cluster  string    `json:"cluster"`
	Line     string    `json:"line"`
	ID       string    `json:"id"`
	Time     time.Time `json:"time"` // the moment the stream opened, UTC, in whole seconds
	Revision int64     `json:"revision"`

	Source  string `json:"source"`
	Version string `json:"version"` // of requorum
	Host    string `json:"host,omitempty"`

	ClusterID string          `json:"cluster_id,omitempty"` // 16 hexadecimal digits; empty for an import
	RaftTerm  uint64          `json:"raft_term,omitempty"`
	Member    *Origin         `json:"member,omitempty"`
	Members   []Member        `json:"members,omitempty"`
	Config    json.RawMessage `json:"config,omitempty"` // the cluster's configuration without secrets

	Data       Object   `json:"data"`
	Facts      *Object  `json:"facts,omitempty"`
	Codec      string   `json:"codec"`
	Recipients []string `json:"recipients,omitempty"`

	CompactRevision int64  `json:"compact_revision"`
	HashKV          HashKV `json:"hash_kv"` // computed from the file
	Keys            int64  `json:"keys"`
	Rows            int64  `json:"rows,omitempty"`
	Leases          int    `json:"leases,omitempty"`
	LeaseHash       string `json:"lease_hash,omitempty"`
	AuthHash        string `json:"auth_hash,omitempty"`
	AuthEnabled     bool   `json:"auth_enabled,omitempty"`

	Proofs   []Proof  `json:"proofs"`
	Warnings []string `json:"warnings,omitempty"`
}

// Sealed reports whether the objects are encrypted.
func (m Manifest) Sealed() bool { return m.Codec == CodecZstdAge }

// Snapshot returns the backup that m describes, as far as a manifest says it.
func (m Manifest) Snapshot() Snapshot {
	s := Snapshot{ID: m.ID, Line: m.Line, Time: m.Time, DataRevision: m.Revision, Encrypted: m.Sealed(), Committed: true, StoredBytes: m.Data.StoredBytes}
	if o, ok := parseObject(m.Data.Key); ok {
		s.DataRevision = o.revision
	}
	if m.Facts != nil {
		s.StoredBytes += m.Facts.StoredBytes
	}
	return s.At(m.Revision)
}

// Check returns an error unless m is complete and agrees with its key.
func (m Manifest) Check(key string) error {
	if m.Format != Format {
		return formatError(m.Format)
	}
	o, ok := parseObject(key)
	if !ok || o.name != manifestName {
		return fmt.Errorf("%q is not the key of a manifest", key)
	}
	disagree := func(what string, manifest, key any) error {
		return fmt.Errorf("the manifest does not belong under this key: its %s is %v, that of the key is %v", what, manifest, key)
	}
	switch {
	case m.Line != o.line:
		return disagree("line", m.Line, o.line)
	case m.ID != o.id:
		return disagree("id", m.ID, o.id)
	case !m.Time.Equal(o.time):
		return disagree("time", m.Time.UTC().Format(time.RFC3339Nano), o.time.Format(time.RFC3339))
	case m.Revision != o.revision:
		return disagree("revision", m.Revision, o.revision)
	case m.Cluster == "":
		return fmt.Errorf("the manifest names no cluster")
	case m.Codec != CodecZstd && m.Codec != CodecZstdAge:
		return fmt.Errorf("unknown codec %q: this requorum knows %s and %s", m.Codec, CodecZstd, CodecZstdAge)
	}
	switch m.Source {
	case SourceLive, SourceSurvivor, SourceMerged:
		if err := checkClusterID(m.ClusterID); err != nil {
			return err
		}
	case SourceImport:
	default:
		return fmt.Errorf("unknown source %q", m.Source)
	}
	s := m.Snapshot()
	if err := s.Check(); err != nil {
		return err
	}
	if err := m.Data.check(s.DataKey()); err != nil {
		return err
	}
	if m.Facts != nil {
		return m.Facts.check(s.FactsKey())
	}
	return nil
}

func (o Object) check(key string) error {
	switch {
	case o.Key != key:
		return fmt.Errorf("object %q: expected %q", o.Key, key)
	case o.Bytes <= 0 || o.StoredBytes <= 0:
		return fmt.Errorf("object %s: %d bytes, %d stored: both must be above zero", o.Key, o.Bytes, o.StoredBytes)
	}
	for _, sum := range []string{o.SHA256, o.StoredSHA256} {
		if len(sum) != 64 || strings.Trim(sum, "0123456789abcdef") != "" {
			return fmt.Errorf("object %s: %q is not a sha256", o.Key, sum)
		}
	}
	return nil
}

// Encode returns m as it is stored.
func (m Manifest) Encode() ([]byte, error) {
	m.Time = m.Time.UTC()
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("manifest of %s: %w", m.ID, err)
	}
	return append(b, '\n'), nil
}

// ParseManifest reads a manifest. A newer format is an error, unknown fields are ignored: fields are added within a format.
// It proves nothing about the contents; see [Manifest.Check].
func ParseManifest(b []byte) (Manifest, error) {
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return Manifest{}, fmt.Errorf("not a manifest: %w", err)
	}
	if head.Format != Format {
		return Manifest{}, formatError(head.Format)
	}
	var m Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return Manifest{}, fmt.Errorf("not a manifest: %w", err)
	}
	m.Time = m.Time.UTC()
	return m, nil
}

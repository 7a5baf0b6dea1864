package dbfile

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"strconv"

	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/lease/leasepb"
	"go.etcd.io/etcd/server/v3/storage/schema"
)

// This file reads the buckets beside the key bucket. Names and formats are those of server/storage/schema.

// metaBucket is what the meta bucket says.
type metaBucket struct {
	scheduled, finished   int64 // compaction markers, -1 if there are none
	consistentIndex, term uint64
	storageVersion        string
}

// compactRevision is what a server started on the file answers as the compacted revision: it takes up a scheduled compaction at once.
func (m metaBucket) compactRevision() int64 { return max(m.scheduled, m.finished) }

// each calls row for every row of a bucket, in key order, and takes the bucket out of all: it can be read only once. A bucket
// that does not exist has no rows.
func (p *pages) each(all map[string]bucket, name []byte, row func(k, v []byte) error) error {
	b, ok := all[string(name)]
	if !ok {
		return nil
	}
	delete(all, string(name))
	return p.leaves(b, ascending, func(g page) error {
		for i := range g.count {
			k, v, _ := g.element(i)
			if err := row(k, v); err != nil {
				return &CheckError{Stage: StageRows, Err: fmt.Errorf("bucket %s, key %q: %w", name, k, err)}
			}
		}
		return nil
	})
}

func (p *pages) readMetaBucket(all map[string]bucket) (metaBucket, error) {
	m := metaBucket{scheduled: -1, finished: -1}
	err := p.each(all, schema.Meta.Name(), func(k, v []byte) (err error) {
		switch string(k) {
		case string(schema.ScheduledCompactKeyName):
			m.scheduled, err = parseMarker(v)
		case string(schema.FinishedCompactKeyName):
			m.finished, err = parseMarker(v)
		case string(schema.MetaConsistentIndexKeyName):
			m.consistentIndex, err = parseUint64(v)
		case string(schema.MetaTermKeyName):
			m.term, err = parseUint64(v)
		case string(schema.MetaStorageVersionName):
			m.storageVersion = string(v)
		}
		return err
	})
	return m, err
}

func parseMarker(b []byte) (int64, error) {
	k, err := parseRowKey(b)
	return k.main, err
}

func parseUint64(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("%d bytes where 8 are expected", len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

// lease is one row of the lease bucket.
type lease struct{ ID, TTL int64 }

func parseLease(k, v []byte) (lease, error) {
	id, err := parseUint64(k)
	if err != nil {
		return lease{}, err
	}
	var l leasepb.Lease
	if err := proto.Unmarshal(v, &l); err != nil {
		return lease{}, err
	}
	if l.ID != int64(id) {
		return lease{}, fmt.Errorf("holds lease %016x", l.ID)
	}
	return lease{ID: l.ID, TTL: l.TTL}, nil
}

// bucketHash is a sha256 over whole buckets: for each its name, then each row's key and value in key order. Before every
// byte string stands its length as a big-endian uint32, before a name additionally the byte 'b' and before a key 'r'.
// A bucket that does not exist counts as empty.
type bucketHash struct{ w hash.Hash }

func newBucketHash() bucketHash { return bucketHash{w: sha256.New()} }

func (h bucketHash) bucket(name []byte) {
	h.w.Write([]byte{'b'})
	h.bytes(name)
}

func (h bucketHash) row(k, v []byte) {
	h.w.Write([]byte{'r'})
	h.bytes(k)
	h.bytes(v)
}

func (h bucketHash) bytes(b []byte) {
	h.w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b))))
	h.w.Write(b)
}

func (h bucketHash) hex() string { return hex.EncodeToString(h.w.Sum(nil)) }

// readSmall fills r from the buckets in all, and checks the structure of those it does not know.
func (p *pages) readSmall(all map[string]bucket, r *Report, l func(lease)) error {
	leases := newBucketHash()
	leases.bucket(schema.Lease.Name())
	err := p.each(all, schema.Lease.Name(), func(k, v []byte) error {
		row, err := parseLease(k, v)
		if err != nil {
			return err
		}
		leases.row(k, v)
		r.Leases++
		l(row)
		return nil
	})
	if err != nil {
		return err
	}
	r.LeaseHash = leases.hex()

	if err := p.readAuth(all, r); err != nil {
		return err
	}

	err = p.each(all, schema.Alarm.Name(), func(k, _ []byte) error {
		a, err := parseAlarm(k)
		r.Alarms = append(r.Alarms, a)
		return err
	})
	if err != nil {
		return err
	}

	err = p.each(all, schema.Cluster.Name(), func(k, v []byte) (err error) {
		if string(k) != string(schema.ClusterDowngradeKeyName) {
			return nil
		}
		r.Downgrade, err = parseDowngrade(v)
		return err
	})
	if err != nil {
		return err
	}

	err = p.each(all, schema.Members.Name(), func(k, v []byte) error {
		var m struct {
			Name string `json:"name"`
		}
		if err := json.Unmarshal(v, &m); err != nil {
			return err
		}
		if m.Name == "" {
			m.Name = string(k)
		}
		r.Members = append(r.Members, m.Name)
		return nil
	})
	if err != nil {
		return err
	}

	for name := range all {
		if err := p.each(all, []byte(name), func(_, _ []byte) error { return nil }); err != nil {
			return err
		}
	}
	return nil
}

func (p *pages) readAuth(all map[string]bucket, r *Report) error {
	h := newBucketHash()
	for _, b := range []struct {
		name  []byte
		check func(k, v []byte) error
	}{
		{schema.Auth.Name(), func(k, v []byte) error {
			if string(k) == string(schema.AuthEnabledKeyName) {
				r.AuthEnabled = string(v) == "\x01"
			}
			return nil
		}},
		{schema.AuthUsers.Name(), func(_, v []byte) error { return proto.Unmarshal(v, new(authpb.User)) }},
		{schema.AuthRoles.Name(), func(_, v []byte) error { return proto.Unmarshal(v, new(authpb.Role)) }},
	} {
		h.bucket(b.name)
		err := p.each(all, b.name, func(k, v []byte) error {
			h.row(k, v)
			return b.check(k, v)
		})
		if err != nil {
			return err
		}
	}
	r.AuthHash = h.hex()
	return nil
}

// parseDowngrade reports whether a cluster's downgrade is under way; a cancelled one leaves its mark, too.
func parseDowngrade(v []byte) (bool, error) {
	var d struct {
		Enabled bool `json:"enabled"`
	}
	err := json.Unmarshal(v, &d)
	return d.Enabled, err
}

func parseAlarm(k []byte) (Alarm, error) {
	var m etcdserverpb.AlarmMember
	if err := proto.Unmarshal(k, &m); err != nil {
		return Alarm{}, err
	}
	name, ok := etcdserverpb.AlarmType_name[int32(m.Alarm)]
	if !ok {
		name = strconv.Itoa(int(m.Alarm))
	}
	return Alarm{Member: m.MemberID, Type: name}, nil
}

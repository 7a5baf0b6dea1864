package dbfile

import (
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// rowKey is the key of a row of the key bucket: 8 bytes revision, '_', 8 bytes sub-revision, and 't' for a tombstone.
type rowKey struct {
	main, sub int64
	tombstone bool
}

const (
	rowKeySize       = 17
	tombstoneKeySize = 18
)

func parseRowKey(b []byte) (rowKey, error) {
	if len(b) != rowKeySize && len(b) != tombstoneKeySize || b[8] != '_' || len(b) == tombstoneKeySize && b[rowKeySize] != 't' {
		return rowKey{}, fmt.Errorf("row key %x is none of etcd's", b)
	}
	k := rowKey{
		main:      int64(binary.BigEndian.Uint64(b)),
		sub:       int64(binary.BigEndian.Uint64(b[9:])),
		tombstone: len(b) == tombstoneKeySize,
	}
	if k.main < 0 || k.sub < 0 {
		return rowKey{}, fmt.Errorf("row key %x has a negative revision", b)
	}
	return k, nil
}

func (k rowKey) bytes() []byte {
	b := make([]byte, rowKeySize, tombstoneKeySize)
	binary.BigEndian.PutUint64(b, uint64(k.main))
	b[8] = '_'
	binary.BigEndian.PutUint64(b[9:], uint64(k.sub))
	if k.tombstone {
		b = append(b, 't')
	}
	return b
}

// keyValue is a mvccpb.KeyValue whose key and value still lie in the row.
type keyValue struct {
	key, value           []byte
	create, mod, version int64
	lease                int64
}

// parseKeyValue decodes as proto.Unmarshal into a mvccpb.KeyValue does, without allocating.
func parseKeyValue(b []byte) (keyValue, error) {
	var kv keyValue
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return kv, protowire.ParseError(n)
		}
		if !num.IsValid() {
			return kv, fmt.Errorf("field number %d", num)
		}
		b = b[n:]
		switch {
		case typ == protowire.VarintType && num >= 2 && num <= 6 && num != 5:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return kv, protowire.ParseError(n)
			}
			b = b[n:]
			switch num {
			case 2:
				kv.create = int64(v)
			case 3:
				kv.mod = int64(v)
			case 4:
				kv.version = int64(v)
			case 6:
				kv.lease = int64(v)
			}
		case typ == protowire.BytesType && (num == 1 || num == 5):
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return kv, protowire.ParseError(n)
			}
			b = b[n:]
			if num == 1 {
				kv.key = v
			} else {
				kv.value = v
			}
		default:
			n := protowire.ConsumeFieldValue(num, typ, b)
			if n < 0 {
				return kv, protowire.ParseError(n)
			}
			b = b[n:]
		}
	}
	return kv, nil
}

// parseRow decodes a row and checks what holds for every row that etcd writes. The one row without a key value is the
// bump of a restore: an empty value under the revision it bumps to.
func parseRow(k, v []byte) (rowKey, keyValue, error) {
	r, err := parseRowKey(k)
	if err != nil {
		return r, keyValue{}, err
	}
	kv, err := parseKeyValue(v)
	if err != nil {
		return r, kv, fmt.Errorf("row %d_%d holds no key value: %w", r.main, r.sub, err)
	}
	switch {
	case len(v) == 0 && !r.tombstone:
	case len(kv.key) == 0:
		err = errors.New("has no key")
	case r.tombstone:
	case kv.mod != r.main:
		err = fmt.Errorf("holds a key value of revision %d", kv.mod)
	case kv.create < 1 || kv.create > kv.mod || kv.version < 1:
		err = fmt.Errorf("holds a key value created at %d, in version %d", kv.create, kv.version)
	}
	if err != nil {
		err = fmt.Errorf("row %d_%d %w", r.main, r.sub, err)
	}
	return r, kv, err
}

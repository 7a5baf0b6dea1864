package kubernetes

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// An API server stores an object as k8s.io/apimachinery's runtime.Unknown
// behind four bytes, or as plain JSON (--storage-media-type). Encryption at rest
// puts a text before either. The numbers of fields below are those of the
// generated.proto files of k8s.io/apimachinery and k8s.io/api, which never
// change.

// spec is what is needed of the spec of a Lease of coordination.k8s.io.
type spec struct {
	Holder  string    // "" when nobody holds it, or it was released
	Seconds int64     // how long it holds without being renewed
	Renewed time.Time // by the holder's clock; zero if never
}

// What a stored value may be instead of a Lease that can be read.
var (
	errEncrypted = errors.New("encrypted at rest")
	errForm      = errors.New("not in a known form")
)

// decodeLease reads a Lease as it is stored. An error that is errEncrypted or
// errForm says that nothing can be told of it.
func decodeLease(value []byte) (spec, error) {
	switch {
	case bytes.HasPrefix(value, []byte("k8s:enc:")):
		provider, _, _ := strings.Cut(string(value[len("k8s:enc:"):min(len(value), 40)]), ":")
		return spec{}, fmt.Errorf("%w (%q)", errEncrypted, strings.ToValidUTF8(provider, "?"))
	case bytes.HasPrefix(value, []byte("k8s\x00")):
		return leaseOfProtobuf(value[4:])
	case bytes.HasPrefix(value, []byte("{")):
		return leaseOfJSON(value)
	case bytes.HasPrefix(value, []byte{0xd9, 0xd9, 0xf7}):
		return spec{}, fmt.Errorf("%w (CBOR)", errForm)
	}
	return spec{}, errForm
}

func leaseOfJSON(value []byte) (spec, error) {
	var object struct {
		APIVersion, Kind string
		Spec             struct {
			HolderIdentity       string
			LeaseDurationSeconds int32
			RenewTime            *time.Time
		}
	}
	if err := json.Unmarshal(value, &object); err != nil {
		return spec{}, fmt.Errorf("%w: %w", errForm, err)
	}
	if err := isLease(object.APIVersion, object.Kind); err != nil {
		return spec{}, err
	}
	s := spec{Holder: object.Spec.HolderIdentity, Seconds: int64(object.Spec.LeaseDurationSeconds)}
	if t := object.Spec.RenewTime; t != nil {
		var err error
		if s.Renewed, err = moment(t.Unix(), int64(t.Nanosecond())); err != nil {
			return spec{}, err
		}
	}
	return s, nil
}

func isLease(apiVersion, kind string) error {
	if kind != "Lease" || !strings.HasPrefix(apiVersion, "coordination.k8s.io/") {
		return fmt.Errorf("%w: %q of %q where a Lease is expected", errForm, kind, apiVersion)
	}
	return nil
}

// leaseOfProtobuf reads a runtime.Unknown: typeMeta = 1 {apiVersion = 1, kind =
// 2}, raw = 2, contentEncoding = 3. Its raw is a Lease: spec = 2.
func leaseOfProtobuf(value []byte) (spec, error) {
	envelope, err := fields(value)
	if err != nil {
		return spec{}, err
	}
	kind, err := fields(envelope[1].bytes)
	if err != nil {
		return spec{}, err
	}
	if err := isLease(string(kind[1].bytes), string(kind[2].bytes)); err != nil {
		return spec{}, err
	}
	if encoding := envelope[3].bytes; len(encoding) > 0 {
		return spec{}, fmt.Errorf("%w: content encoding %q", errForm, encoding)
	}
	object, err := fields(envelope[2].bytes)
	if err != nil {
		return spec{}, err
	}
	return specOfProtobuf(object[2].bytes)
}

// specOfProtobuf reads a LeaseSpec: holderIdentity = 1, leaseDurationSeconds = 2,
// acquireTime = 3, renewTime = 4 {seconds = 1, nanos = 2}.
func specOfProtobuf(value []byte) (spec, error) {
	f, err := fields(value)
	if err != nil {
		return spec{}, err
	}
	s := spec{Holder: string(f[1].bytes), Seconds: int64(int32(f[2].number))}
	if f[4].bytes == nil {
		return s, nil
	}
	t, err := fields(f[4].bytes)
	if err != nil {
		return spec{}, err
	}
	s.Renewed, err = moment(int64(t[1].number), int64(int32(t[2].number)))
	if err != nil {
		return spec{}, err
	}
	return s, nil
}

// moment is a time between 1970 and the year 10000, which has a text form no more.
func moment(seconds, nanos int64) (time.Time, error) {
	const end = 253402300800
	if seconds < 0 || seconds >= end || nanos < 0 || nanos >= int64(time.Second) {
		return time.Time{}, fmt.Errorf("%w: renewTime is %d s and %d ns", errForm, seconds, nanos)
	}
	return time.Unix(seconds, nanos).UTC(), nil
}

// field is one field of a message: a number, or bytes (never nil when it is there).
type field struct {
	number uint64
	bytes  []byte
}

// fields takes a message apart. Of a field that is repeated the last counts; one
// that is missing is zero.
func fields(message []byte) (map[protowire.Number]field, error) {
	all := map[protowire.Number]field{}
	for len(message) > 0 {
		id, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return nil, fmt.Errorf("%w: %w", errForm, protowire.ParseError(n))
		}
		message = message[n:]
		var f field
		switch kind {
		case protowire.VarintType:
			f.number, n = protowire.ConsumeVarint(message)
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(message)
		default:
			n = protowire.ConsumeFieldValue(id, kind, message)
		}
		if n < 0 {
			return nil, fmt.Errorf("%w: field %d: %w", errForm, id, protowire.ParseError(n))
		}
		message = message[n:]
		all[id] = f
	}
	return all, nil
}

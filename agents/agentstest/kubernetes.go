package agentstest

import (
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// KubernetesLease is a Lease object as an API server stores it in etcd: byte by
// byte what k8s.io/apimachinery v0.34 writes, which a golden file of package
// kubernetes shows.
func KubernetesLease(namespace, name, holder string, seconds int32, renewed time.Time) string {
	var meta []byte
	for i, text := range []string{name, "", namespace, "", "", ""} { // generateName, selfLink, uid and resourceVersion are empty
		meta = bytesField(meta, protowire.Number(i+1), []byte(text))
	}
	meta = numberField(meta, 7, 0)  // generation
	meta = bytesField(meta, 8, nil) // creationTimestamp

	at := numberField(nil, 1, uint64(renewed.Unix()))
	at = numberField(at, 2, uint64(renewed.Nanosecond()))
	spec := bytesField(nil, 1, []byte(holder))
	spec = numberField(spec, 2, uint64(seconds))
	spec = bytesField(spec, 4, at)

	return stored("coordination.k8s.io/v1", "Lease", bytesField(bytesField(nil, 1, meta), 2, spec))
}

// KubernetesRegistration is what an API server stores under masterleases.
func KubernetesRegistration(address string, generation uint64) string {
	var meta []byte
	for i := range protowire.Number(6) {
		meta = bytesField(meta, i+1, nil)
	}
	meta = numberField(meta, 7, generation)
	meta = bytesField(meta, 8, nil)
	ip := bytesField(nil, 1, []byte(address))
	ip = bytesField(ip, 3, nil) // hostname
	subset := bytesField(nil, 1, ip)
	return stored("v1", "Endpoints", bytesField(bytesField(nil, 1, meta), 2, subset))
}

func stored(apiVersion, kind string, object []byte) string {
	all := bytesField(nil, 1, bytesField(bytesField(nil, 1, []byte(apiVersion)), 2, []byte(kind)))
	all = bytesField(all, 2, object)
	all = bytesField(all, 3, nil)
	all = bytesField(all, 4, nil)
	return "k8s\x00" + string(all)
}

func bytesField(b []byte, number protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, number, protowire.BytesType), value)
}

func numberField(b []byte, number protowire.Number, value uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, number, protowire.VarintType), value)
}

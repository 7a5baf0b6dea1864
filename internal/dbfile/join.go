package dbfile

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/storage/wal"
)

// StageJoining builds the data directory of a member that a running cluster has added and that never ran: a write-ahead log that holds
// nothing but the ids of member and cluster. That is what a member has on disk that went down right after its first start; the leader
// sends it everything else.
//
// With it the flags of the first start do not matter. An etcd on an empty directory founds a cluster or joins one as --initial-cluster and
// --initial-cluster-state say, and those of a service still say how the cluster was once founded. An etcd that has a log
// ignores them, and with these ids it can be a member of this cluster only, never found another.
//
// Of d only DataDir, WALDir and Name count. For the rest it is like Stage.
func StageJoining(d MemberDir, clusterID, memberID uint64) error {
	err := build(d, func(d MemberDir) error {
		metadata, err := proto.Marshal(&etcdserverpb.Metadata{NodeID: proto.Uint64(memberID), ClusterID: proto.Uint64(clusterID)})
		if err != nil {
			return err
		}
		w, err := wal.Create(quiet(), d.wal(), metadata)
		if err != nil {
			return fmt.Errorf("create the write-ahead log: %w", err)
		}
		if err := w.Close(); err != nil {
			return fmt.Errorf("write the write-ahead log: %w", err)
		}
		return nil
	}, settle)
	if err != nil {
		return fmt.Errorf("stage joining member %s in %s: %w", d.Name, d.DataDir, err)
	}
	return nil
}

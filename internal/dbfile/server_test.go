package dbfile_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/metadata"

	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/member"
)

// workload does random things to a cluster, in etcd's own way: puts, deletes, ranges, nested transactions, leases,
// compactions.
func workload(t testing.TB, c *clientv3.Client, rnd *rand.Rand, steps int) {
	t.Helper()
	ctx := t.Context()
	var leases []clientv3.LeaseID
	for range 4 {
		var l *clientv3.LeaseGrantResponse
		err := etcdtest.Retried(ctx, func() (err error) {
			l, err = c.Grant(ctx, int64(600+rnd.IntN(3600)))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		leases = append(leases, l.ID)
	}
	key := func() string { return fmt.Sprintf("/%c/%03d", 'a'+rune(rnd.IntN(4)), rnd.IntN(60)) }
	value := func() string { return strings.Repeat("v", rnd.IntN(200)) }
	for range steps {
		var err error
		switch n := rnd.IntN(100); {
		case n < 50:
			_, err = c.Put(ctx, key(), value())
		case n < 60:
			_, err = c.Put(ctx, "/leased"+key(), value(), clientv3.WithLease(leases[rnd.IntN(len(leases))]))
		case n < 75:
			_, err = c.Delete(ctx, key())
		case n < 78:
			_, err = c.Delete(ctx, key(), clientv3.WithRange(key()))
		case n < 88: // the same key put and then deleted in one revision
			k := key()
			_, err = c.Txn(ctx).Then(
				clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut(k, value()), clientv3.OpPut("/txn"+key(), value())}, nil),
				clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpDelete(k)}, nil)).Commit()
		case n < 97:
			_, err = c.Txn(ctx).Then(clientv3.OpPut("/x"+key(), value()), clientv3.OpPut("/y"+key(), value()), clientv3.OpDelete(key())).Commit()
		case n < 98:
			_, err = c.Revoke(ctx, leases[0])
			if err == nil {
				var l *clientv3.LeaseGrantResponse
				if l, err = c.Grant(ctx, 900); err == nil {
					leases[0] = l.ID
				}
			}
		default:
			var now *clientv3.GetResponse
			if now, err = c.Get(ctx, "x"); err == nil {
				_, err = c.Compact(ctx, max(1, now.Header.Revision-rnd.Int64N(30)))
				if errors.Is(err, rpctypes.ErrCompacted) {
					err = nil
				}
			}
		}
		// A lease may have been revoked without an answer.
		if err != nil && !etcdtest.Unavailable(err) && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			t.Fatal(err)
		}
	}
}

// take streams a snapshot into a file that is unlinked at once, as a backup does.
func take(t testing.TB, c *clientv3.Client) *os.File {
	t.Helper()
	s, err := c.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f, err := os.CreateTemp(t.TempDir(), "spool")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := os.Remove(f.Name()); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, s); err != nil {
		t.Fatal(err)
	}
	return f
}

func check(t testing.TB, f *os.File, o dbfile.CheckOptions) dbfile.Report {
	t.Helper()
	r, err := dbfile.CheckInChild(t.Context(), f, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func hashKV(t testing.TB, c *clientv3.Client, endpoint string, revision int64) dbfile.HashKV {
	t.Helper()
	var h *clientv3.HashKVResponse
	err := etcdtest.Retried(t.Context(), func() (err error) { h, err = c.HashKV(t.Context(), endpoint, revision); return err })
	if err != nil {
		t.Fatalf("HashKV of %s at %d: %v", endpoint, revision, err)
	}
	return dbfile.HashKV{Hash: h.Hash, CompactRevision: h.CompactRevision, Revision: revision}
}

// TestCheckAgreesWithServers compares checks of snapshots with what servers of every version answer.
func TestCheckAgreesWithServers(t *testing.T) {
	type server struct {
		version string
		slow    []string // flags that make compactions take their time
	}
	servers := []server{
		{etcdtest.V35, []string{"--experimental-compaction-batch-limit=2", "--experimental-compaction-sleep-interval=200ms"}},
		{etcdtest.V36, []string{"--compaction-batch-limit=2", "--compaction-sleep-interval=200ms"}},
		{etcdtest.V37, []string{"--compaction-batch-limit=2", "--compaction-sleep-interval=200ms"}},
	}
	for _, version := range etcdtest.Versions() {
		servers = append(servers, server{version: version})
	}
	for _, server := range servers {
		t.Run(server.version+strings.Join(server.slow, ""), func(t *testing.T) {
			t.Parallel()
			cluster := etcdtest.StartCluster(t, etcdtest.Options{Version: server.version, Members: 1, ExtraFlags: server.slow})
			c := cluster.Client(t)
			rnd := rand.New(rand.NewPCG(3, 5))
			var unfinished int
			for round := range 12 {
				workload(t, c, rnd, 60)
				if round == 7 && server.slow == nil { // nothing is left, compacted right at the last tombstone
					etcdtest.Compact(t, c, etcdtest.Delete(t, c, "", clientv3.WithFromKey()))
					etcdtest.Put(t, c, "one", "more")
				}
				spool := take(t, c)
				if compacting(t, spool) {
					unfinished++
				}
				r := check(t, spool, dbfile.CheckOptions{TrailerRequired: true})
				if want := hashKV(t, c, c.Endpoints()[0], r.Revision); r.HashKV != want {
					t.Errorf("round %d: HashKV %+v, the server serves %+v", round, r.HashKV, want)
				}
				rows := etcdtest.RowsAt(t, c, r.Revision)
				if r.Keys != int64(len(rows)) {
					t.Errorf("round %d: %d keys, the server has %d", round, r.Keys, len(rows))
				}
				var leased []etcdtest.Row
				for _, row := range rows {
					if row.Lease != 0 {
						leased = append(leased, row)
					}
				}
				var indexed []etcdtest.Row
				for kv := range r.Index.Keys("") {
					indexed = append(indexed, etcdtest.Row{Key: string(kv.Key), Value: string(kv.Value), CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version, Lease: kv.Lease})
				}
				etcdtest.MustEqual(t, leased, indexed)
				ttls := map[clientv3.LeaseID]int64{}
				for id, ttl := range r.Index.Leases() {
					ttls[clientv3.LeaseID(id)] = ttl
				}
				if want := etcdtest.Leases(t, c); !maps.Equal(ttls, want) {
					t.Errorf("round %d: leases %v, the server has %v", round, ttls, want)
				}
			}
			if server.slow != nil && unfinished == 0 {
				t.Error("no snapshot caught a compaction under way: the test does not test what it should")
			}
		})
	}
}

// compacting reports whether a compaction was under way when the snapshot was taken.
func compacting(t testing.TB, f *os.File) (unfinished bool) {
	t.Helper()
	same := func(string, int, os.FileMode) (*os.File, error) {
		return os.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	}
	db, err := bolt.Open("spool", 0, &bolt.Options{ReadOnly: true, OpenFile: same})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(tx *bolt.Tx) error {
		meta := tx.Bucket([]byte("meta"))
		unfinished = !bytes.Equal(meta.Get([]byte("scheduledCompactRev")), meta.Get([]byte("finishedCompactRev")))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return unfinished
}

// TestPreparedClustersStart restores a database of every version, with alarm, downgrade mark and a missing lease row, to three-member clusters of
// every version.
func TestPreparedClustersStart(t *testing.T) {
	for _, from := range etcdtest.Versions() {
		for _, to := range etcdtest.Versions() {
			t.Run(from+" to "+to, func(t *testing.T) {
				t.Parallel()
				restore(t, from, to)
			})
		}
	}
}

func restore(t *testing.T, from, to string) {
	ctx := t.Context()
	source := etcdtest.StartCluster(t, etcdtest.Options{Version: from, Members: 1, Name: "old"})
	c := source.Client(t)
	workload(t, c, rand.New(rand.NewPCG(1, 2)), 300)
	keep := etcdtest.Lease(t, c, 50*time.Minute, "/keep/leased")
	drop := etcdtest.Lease(t, c, 50*time.Minute, "/stay/unleased")
	etcdtest.Put(t, c, "/edited", "old")
	etcdtest.Put(t, c, "/edited", "older")
	source.EnableAuth(t, "secret")
	c = source.Client(t)
	etcdtest.Put(t, c, "/last", "z")
	source.RaiseAlarm(t, source.Members[0], etcdserverpb.AlarmType_NOSPACE)

	before := etcdtest.Rows(t, c)
	spool := take(t, c)
	token := login(t, source) // of an index that the file does not know
	r := check(t, spool, dbfile.CheckOptions{TrailerRequired: true, Select: dbfile.Select{Prefixes: []string{"/edited"}}})
	if !r.AuthEnabled || len(r.Alarms) != 1 || r.Alarms[0].Type != "NOSPACE" || !slices.Equal(r.Members, []string{"old1"}) {
		t.Errorf("the check finds auth %v, alarms %v, members %v", r.AuthEnabled, r.Alarms, r.Members)
	}

	// To one of the members of the new cluster.
	target := etcdtest.StartCluster(t, etcdtest.Options{Version: to, Name: "new", NotStarted: true})
	target.RootPassword = "secret"
	o := dbfile.PrepareOptions{
		TargetRevision: r.Revision + 1_000_000_000,
		TargetVersion:  to,
		Token:          "fresh-" + from + to,
		Index:          r.Index,
		DropLeases:     []int64{int64(drop)},
		Edits:          []dbfile.Edit{{Key: []byte("/edited"), Value: []byte("new")}, {Key: []byte("/not/there"), Delete: true}, {Key: []byte("/added"), Value: []byte("fresh")}},
	}
	o.Index = nil // "/not/there" is not known to it
	for kv := range r.Index.Keys("/leased") {
		o.Edits = append(o.Edits, dbfile.Edit{Key: kv.Key, Delete: true})
		o.DropLeases = append(o.DropLeases, kv.Lease)
	}
	removed := len(o.Edits) - 3
	for _, m := range target.Members {
		o.Members = append(o.Members, dbfile.Member{Name: m.Name, PeerURLs: []string{m.PeerURL}})
	}
	path := filepath.Join(t.TempDir(), "prepared")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, io.NewSectionReader(spool, 0, r.Size)); err != nil {
		t.Fatal(err)
	}
	f.Close()
	done, err := dbfile.Prepare(ctx, path, o)
	if err != nil {
		t.Fatal(err)
	}
	if done.OpenedRevision != o.TargetRevision || done.Tombstones != removed || done.Puts != 2 || done.Unleased != 1 || len(done.AlarmsCleared) != 1 {
		t.Errorf("prepared %+v, want %d tombstones, 2 puts, 1 key unleased, 1 alarm cleared", done, removed)
	}
	prepared, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer prepared.Close()
	again := check(t, prepared, dbfile.CheckOptions{})
	if again.Revision != o.TargetRevision || again.CompactRevision != o.TargetRevision || again.AuthHash != r.AuthHash {
		t.Errorf("the prepared file has revision %d, compacted %d, auth %s", again.Revision, again.CompactRevision, again.AuthHash)
	}

	// The prediction: by the check, and by a server started on a copy.
	alone := filepath.Join(t.TempDir(), "alone")
	if err := dbfile.StageAlone(ctx, alone, io.NewSectionReader(prepared, 0, 1<<40)); err != nil {
		t.Fatal(err)
	}
	served, err := member.HashOf(ctx, alone, o.TargetRevision)
	if err != nil {
		t.Fatal(err)
	}
	if dbfile.HashKV(served.Hash) != again.HashKV || served.Keys != again.Keys || served.Current != o.TargetRevision {
		t.Errorf("a server on the prepared file serves %+v, the check says %+v and %d keys", served, again.HashKV, again.Keys)
	}

	for _, m := range target.Members {
		if _, err := prepared.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		d := dbfile.MemberDir{DataDir: m.DataDir, Name: m.Name, PeerURLs: []string{m.PeerURL}, InitialCluster: target.InitialCluster(), Token: o.Token}
		if err := dbfile.Stage(ctx, d, prepared); err != nil {
			t.Fatal(err)
		}
	}
	target.Start(t)
	c = target.Client(t)
	var list *clientv3.MemberListResponse
	err = etcdtest.Retried(ctx, func() (err error) { list, err = c.MemberList(ctx); return err })
	if err != nil {
		t.Fatal(err)
	}
	if list.Header.ClusterId != done.ClusterID || len(list.Members) != 3 {
		t.Errorf("cluster %x has %d members, predicted was %x with 3", list.Header.ClusterId, len(list.Members), done.ClusterID)
	}
	for _, m := range list.Members {
		if done.MemberIDs[m.Name] != m.ID {
			t.Errorf("member %s is %x, predicted was %x", m.Name, m.ID, done.MemberIDs[m.Name])
		}
	}
	for _, m := range target.Members {
		refusedToken(t, m, token)
		var now *clientv3.StatusResponse
		err := etcdtest.Retried(ctx, func() (err error) { now, err = c.Status(ctx, m.ClientURL); return err })
		if err != nil {
			t.Fatal(err)
		}
		if now.RaftIndex < r.ConsistentIndex+1e9 || now.RaftTerm <= r.RaftTerm {
			t.Errorf("%s stands at raft index %d, term %d; the old cluster's file at %d, term %d", m.Name, now.RaftIndex, now.RaftTerm, r.ConsistentIndex, r.RaftTerm)
		}
	}
	var alarms *clientv3.AlarmResponse
	err = etcdtest.Retried(ctx, func() (err error) { alarms, err = c.AlarmList(ctx); return err })
	if err != nil || len(alarms.Alarms) != 0 {
		t.Errorf("alarms %v, %v", alarms, err)
	}
	for _, m := range target.Members {
		asked := o.TargetRevision
		if to == etcdtest.V34 {
			asked = 0 // 3.4 refuses the compacted revision itself; nothing was written yet
		}
		got := hashKV(t, target.Client(t, m.ClientURL), m.ClientURL, asked)
		if got.Revision = o.TargetRevision; got != again.HashKV {
			t.Errorf("%s serves HashKV %+v, predicted was %+v", m.Name, got, again.HashKV)
		}
	}
	want := map[string]etcdtest.Row{}
	for _, row := range before {
		if !strings.HasPrefix(row.Key, "/leased") {
			want[row.Key] = row
		}
	}
	stay := want["/stay/unleased"]
	stay.Lease, stay.ModRevision, stay.Version = 0, r.Revision+1, stay.Version+1
	edited := want["/edited"]
	edited.Value, edited.ModRevision, edited.Version = "new", r.Revision+1, edited.Version+1
	want["/stay/unleased"], want["/edited"] = stay, edited
	want["/added"] = etcdtest.Row{Key: "/added", Value: "fresh", CreateRevision: r.Revision + 1, ModRevision: r.Revision + 1, Version: 1}
	var rows []etcdtest.Row
	for _, k := range slices.Sorted(maps.Keys(want)) {
		rows = append(rows, want[k])
	}
	etcdtest.MustEqual(t, rows, etcdtest.Rows(t, c))
	leases := etcdtest.Leases(t, c)
	if _, kept := leases[keep]; !kept {
		t.Errorf("lease %x is gone", keep)
	}
	for _, id := range o.DropLeases {
		if _, there := leases[clientv3.LeaseID(id)]; there {
			t.Errorf("lease %x is still there", id)
		}
	}
	err = etcdtest.Retried(ctx, func() error { _, err := c.Revoke(ctx, keep); return err })
	if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) { // it was there; an attempt may have done it without an answer
		t.Error(err)
	}
	for _, row := range etcdtest.Rows(t, c) {
		if row.Key == "/keep/leased" {
			t.Errorf("a key outlives its revoked lease: %v", row)
		}
	}

	watching, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	c = target.Client(t, target.Members[0].ClientURL) // a member that lags would not know the token yet
	w := <-c.Watch(watching, "/", clientv3.WithPrefix(), clientv3.WithRev(r.Revision+5))
	if !errors.Is(w.Err(), rpctypes.ErrCompacted) || w.CompactRevision != o.TargetRevision {
		t.Errorf("a watch from before is told %v, compacted at %d; want that it is compacted at %d", w.Err(), w.CompactRevision, o.TargetRevision)
	}
}

// login returns the token of a root who logs in now.
func login(t *testing.T, c *etcdtest.Cluster) (token string) {
	t.Helper()
	err := etcdtest.Retried(t.Context(), func() error {
		r, err := c.Client(t).Authenticate(t.Context(), "root", c.RootPassword)
		if err == nil {
			token = r.Token
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// refusedToken makes sure that a member says at once that it does not know a token: who holds it waits for ever otherwise.
func refusedToken(t *testing.T, m *etcdtest.Member, token string) {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{m.ClientURL}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), rpctypes.TokenFieldNameGRPC, token), 2*time.Minute)
	defer cancel()
	err = etcdtest.Retried(ctx, func() error {
		_, err := etcdserverpb.NewKVClient(c.ActiveConnection()).Range(ctx, &etcdserverpb.RangeRequest{Key: []byte("/last")})
		return rpctypes.Error(err)
	})
	if !errors.Is(err, rpctypes.ErrInvalidAuthToken) {
		t.Errorf("%s answers a request with a token of the old cluster with %v, want %v", m.Name, err, rpctypes.ErrInvalidAuthToken)
	}
}

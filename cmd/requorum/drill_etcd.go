package main

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/requorum/requorum/drills"
	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/internal/member"
	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/repository"
)

const (
	drillDial = 10 * time.Second // for a connection
	drillCall = 30 * time.Second // for one question: members of a sandbox share one disk

	// Keys are asked for by pages of about so many bytes, which are more or fewer keys by what came before.
	drillPageBytes = 8 << 20
	drillPageFirst = 64
	drillPageMost  = 10_000
)

// drillEtcd is a client of a cluster in a drill. Clients of one seed give equal sums for equal values.
type drillEtcd struct {
	*clientv3.Client
	seed maphash.Seed
}

var _ drills.Etcd = drillEtcd{}

// openEtcd connects to the endpoints, in all else as conn says.
func openEtcd(ctx context.Context, conn cluster.Options, endpoints []string, seed maphash.Seed) (drillEtcd, error) {
	o := clientv3.Config{Context: ctx, Endpoints: endpoints, DialTimeout: drillDial, Username: conn.Username, Password: conn.Password, Logger: zap.NewNop()}
	if strings.HasPrefix(endpoints[0], "https://") {
		o.TLS = conn.TLS
	}
	if conn.Dial != nil {
		o.DialOptions = []grpc.DialOption{grpc.WithContextDialer(conn.Dial)}
	}
	c, err := clientv3.New(o)
	if err != nil {
		return drillEtcd{}, fmt.Errorf("connect to %s: %w", strings.Join(endpoints, ", "), err)
	}
	return drillEtcd{c, seed}, nil
}

// Register implements [drills.Registrar].
func (e drillEtcd) Register(ctx context.Context, key, owner string, ttl time.Duration) (lease int64, taken bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, drillCall)
	defer cancel()
	granted, err := e.Grant(ctx, int64(ttl.Seconds()))
	if err != nil {
		return 0, false, fmt.Errorf("grant a lease: %w", err)
	}
	done, err := e.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).Then(clientv3.OpPut(key, owner, clientv3.WithLease(granted.ID))).Commit()
	if err == nil && done.Succeeded {
		return int64(granted.ID), false, nil
	}
	revokeErr := e.Revoke(ctx, int64(granted.ID))
	if err != nil {
		return 0, false, errors.Join(fmt.Errorf("register %s: %w", key, err), revokeErr)
	}
	return 0, true, revokeErr
}

// KeepAlive implements [drills.Registrar].
func (e drillEtcd) KeepAlive(ctx context.Context, lease int64) error {
	ctx, cancel := context.WithTimeout(ctx, drillCall)
	defer cancel()
	_, err := e.KeepAliveOnce(ctx, clientv3.LeaseID(lease))
	return err
}

// Revoke implements [drills.Registrar].
func (e drillEtcd) Revoke(ctx context.Context, lease int64) error {
	ctx, cancel := context.WithTimeout(ctx, drillCall)
	defer cancel()
	_, err := e.Lease.Revoke(ctx, clientv3.LeaseID(lease))
	return err
}

// Keys implements [drills.Contents].
func (e drillEtcd) Keys(ctx context.Context, revision int64) iter.Seq2[drills.Key, error] {
	return func(yield func(drills.Key, error) bool) {
		limit := int64(drillPageFirst)
		for from := "\x00"; ; {
			page, err := e.page(ctx, from, revision, limit) // keys alone would come without their leases
			if err != nil {
				yield(drills.Key{}, fmt.Errorf("keys from %q at revision %d: %w", from, revision, err))
				return
			}
			bytes := int64(1)
			for _, kv := range page.Kvs {
				bytes += int64(len(kv.Key) + len(kv.Value))
				if !yield(drills.Key{Name: string(kv.Key), Create: kv.CreateRevision, Mod: kv.ModRevision, Version: kv.Version, Leased: kv.Lease, Sum: maphash.Bytes(e.seed, kv.Value)}, nil) {
					return
				}
			}
			limit = min(max(limit*drillPageBytes/bytes, 1), 2*limit, drillPageMost)
			if !page.More || len(page.Kvs) == 0 {
				return
			}
			from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
		}
	}
}

func (e drillEtcd) page(ctx context.Context, from string, revision, limit int64) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, drillCall)
	defer cancel()
	return e.Get(ctx, from, clientv3.WithFromKey(), clientv3.WithLimit(limit), clientv3.WithRev(revision))
}

// Leases implements [drills.Contents].
func (e drillEtcd) Leases(ctx context.Context) ([]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, drillCall)
	defer cancel()
	answer, err := e.Lease.Leases(ctx)
	if err != nil {
		return nil, fmt.Errorf("leases: %w", err)
	}
	var ids []int64
	for _, l := range answer.Leases {
		ids = append(ids, int64(l.ID))
	}
	slices.Sort(ids)
	return ids, nil
}

// Access implements [drills.Contents].
func (e drillEtcd) Access(ctx context.Context) (drills.Access, error) {
	ctx, cancel := context.WithTimeout(ctx, drillCall)
	defer cancel()
	a := drills.Access{Users: map[string]string{}, Roles: map[string]string{}}
	status, err := e.AuthStatus(ctx)
	if err != nil {
		return a, err
	}
	a.Enabled = status.Enabled
	users, err := e.UserList(ctx)
	if err != nil {
		return a, err
	}
	for _, name := range users.Users {
		u, err := e.UserGet(ctx, name)
		if err != nil {
			return a, fmt.Errorf("user %s: %w", name, err)
		}
		slices.Sort(u.Roles)
		a.Users[name] = strings.Join(u.Roles, ", ")
	}
	roles, err := e.RoleList(ctx)
	if err != nil {
		return a, err
	}
	for _, name := range roles.Roles {
		if name == "root" { // it may do everything, which versions of etcd write differently
			a.Roles[name] = "everything"
			continue
		}
		r, err := e.RoleGet(ctx, name)
		if err != nil {
			return a, fmt.Errorf("role %s: %w", name, err)
		}
		var grants []string
		for _, p := range r.Perm {
			grants = append(grants, fmt.Sprintf("%s of %q to %q", authpb.Permission_Type(p.PermType), p.Key, p.RangeEnd))
		}
		slices.Sort(grants)
		a.Roles[name] = strings.Join(grants, ", ")
	}
	return a, nil
}

// count is how many keys there are, and at which revision.
func (e drillEtcd) count(ctx context.Context) (keys, revision int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, drillCall)
	defer cancel()
	answer, err := e.Get(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithCountOnly())
	if err != nil {
		return 0, 0, err
	}
	return answer.Count, answer.Header.Revision, nil
}

// untouched is an etcd on a backup as it is stored.
type untouched struct {
	drillEtcd
	process *member.Process
}

// untouchedOptions say where an untouched backup comes from, where it is served, and who may ask it.
type untouchedOptions struct {
	repo   *repository.Repository
	dir    string
	conn   cluster.Options
	secure *sandboxTLS // nil: plain
	seed   maphash.Seed
}

// serveUntouched fetches a backup anew and starts etcd on it.
func serveUntouched(ctx context.Context, o untouchedOptions, snap catalog.Snapshot, m catalog.Manifest) (_ drills.Untouched, err error) {
	path, data := filepath.Join(o.dir, "untouched.db"), filepath.Join(o.dir, "untouched")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := o.repo.Fetch(ctx, snap, m, f, func(int64) {}); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil { // what is open stays readable
		return nil, err
	}
	if _, err := f.Seek(0, 0); err != nil {
		return nil, err
	}
	if err := dbfile.StageAlone(ctx, data, f); err != nil {
		return nil, err
	}
	u := &untouched{}
	server := member.Options{Name: "alone", DataDir: data, Tick: 10 * time.Millisecond, QuotaBytes: -1, NoFsync: true}
	if o.secure != nil {
		server.TLS = &o.secure.files
	}
	if u.process, err = member.Start(ctx, server); err != nil {
		return nil, err
	}
	if u.drillEtcd, err = openEtcd(ctx, o.conn, []string{u.process.Endpoint()}, o.seed); err != nil {
		u.process.Kill()
		return nil, err
	}
	return u, nil
}

// Hash implements [drills.Untouched].
func (u *untouched) Hash(ctx context.Context, revision int64) (catalog.HashKV, error) {
	h, err := u.process.Hash(ctx, revision)
	return catalog.HashKV(h), err
}

// Close implements [drills.Untouched].
func (u *untouched) Close() error {
	err := u.Client.Close()
	u.process.Kill()
	return err
}

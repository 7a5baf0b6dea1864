package etcdtest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// A User is someone who may log in once authentication is on.
type User struct {
	Name, Password string
	Root           bool     // has the root role
	Read, Write    []string // prefixes of keys; "" is every key
}

// EnableAuth makes the user root with the given password and the given users, each with a role of
// the same name, and turns authentication on. From then on the cluster's clients log in as root.
func (c *Cluster) EnableAuth(t testing.TB, rootPassword string, users ...User) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := enableAuth(ctx, c.Client(t), rootPassword, users); err != nil {
		t.Fatalf("enable authentication: %v", err)
	}
	c.RootPassword = rootPassword
}

func enableAuth(ctx context.Context, client *clientv3.Client, rootPassword string, users []User) error {
	if err := once(ctx, func() error { _, err := client.RoleAdd(ctx, "root"); return err }); err != nil {
		return fmt.Errorf("add the role root: %w", err)
	}
	for _, u := range append([]User{{Name: "root", Password: rootPassword, Root: true}}, users...) {
		if err := once(ctx, func() error { _, err := client.UserAdd(ctx, u.Name, u.Password); return err }); err != nil {
			return fmt.Errorf("add the user %s: %w", u.Name, err)
		}
		if u.Root {
			if err := once(ctx, func() error { _, err := client.UserGrantRole(ctx, u.Name, "root"); return err }); err != nil {
				return fmt.Errorf("grant root to %s: %w", u.Name, err)
			}
			continue
		}
		if err := once(ctx, func() error { _, err := client.RoleAdd(ctx, u.Name); return err }); err != nil {
			return fmt.Errorf("add the role %s: %w", u.Name, err)
		}
		if err := once(ctx, func() error { _, err := client.UserGrantRole(ctx, u.Name, u.Name); return err }); err != nil {
			return fmt.Errorf("grant the role %s: %w", u.Name, err)
		}
		for kind, prefixes := range map[clientv3.PermissionType][]string{
			clientv3.PermissionType(clientv3.PermRead):  u.Read,
			clientv3.PermissionType(clientv3.PermWrite): u.Write,
		} {
			for _, prefix := range prefixes {
				key, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
				if prefix == "" {
					key, end = "\x00", "\x00"
				}
				if err := once(ctx, func() error { _, err := client.RoleGrantPermission(ctx, u.Name, key, end, kind); return err }); err != nil {
					return fmt.Errorf("grant %q to %s: %w", prefix, u.Name, err)
				}
			}
		}
	}
	if err := once(ctx, func() error { _, err := client.AuthEnable(ctx); return err }); err != nil {
		return fmt.Errorf("turn it on: %w", err)
	}
	return nil
}

// once is [Retried] for a request that fails when it is done twice.
func once(ctx context.Context, request func() error) error {
	asked := 0
	err := Retried(ctx, func() error { asked++; return request() })
	// Turned on by the first request, authentication refuses the second, of which nobody is the user.
	if asked > 1 && (errors.Is(err, rpctypes.ErrRoleAlreadyExist) || errors.Is(err, rpctypes.ErrUserAlreadyExist) || errors.Is(err, rpctypes.ErrUserEmpty)) {
		return nil
	}
	return err
}

// RaiseAlarm raises an alarm as if the member had found a reason for it. The member itself is asked to, so that it knows it then; a learner could not.
func (c *Cluster) RaiseAlarm(t testing.TB, m *Member, alarm pb.AlarmType) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	id := m.ID(t)
	alarms := pb.NewMaintenanceClient(c.Client(t, m.ClientURL).ActiveConnection())
	err := Retried(ctx, func() error {
		_, err := alarms.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: id, Alarm: alarm})
		return rpctypes.Error(err)
	})
	if err != nil {
		t.Fatalf("raise %v for %s: %v", alarm, m.Name, err)
	}
}

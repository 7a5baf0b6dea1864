package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// Servers that ask for client certificates, among themselves too, come back with theirs.
func TestClientCertificates(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{etcd: etcdtest.Options{TLS: true, PeerTLS: true}})
	s.fill(50, 200)
	want := s.rows()

	s.plainTLS = true
	s.configure()
	s.run("backup", "dcs").Exits(t, command.ExitError, "tls")
	s.run("config", "check").Exits(t, command.ExitUsage, "clusters.dcs.endpoints[0]", "tls")
	s.plainTLS = false
	s.configure()

	s.run("config", "check").Exits(t, command.ExitOK)
	s.backup("--prove")
	s.lose()
	s.restore()
	etcdtest.MustEqual(t, want, s.rows())
}

// With authentication on, only a user with the root role can back up, and whoever lacks it is told so. What is restored lets in who
// could log in then: a password that has changed since is found out before anything is touched.
func TestAuthentication(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{})
	s.fill(50, 200)
	s.EnableAuth(t, "then", etcdtest.User{Name: "reader", Password: "reader", Read: []string{""}})
	want := s.rows()
	login := func(user, password string) {
		s.cluster = "    username: " + user + "\n    password_file: password\n"
		s.file("password", password+"\n")
		s.configure()
	}

	s.run("backup", "dcs").Exits(t, command.ExitError, "username")
	login("reader", "reader")
	s.run("backup", "dcs").Exits(t, command.ExitError, "reader", "root role")
	login("root", "wrong")
	s.run("backup", "dcs").Exits(t, command.ExitError, "password")
	if found := s.snapshots(); len(found) > 0 {
		t.Errorf("backups that were refused left %q", found)
	}
	login("root", "then")
	s.backup("--prove")

	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	client := s.Client(t)
	if err := etcdtest.Retried(ctx, func() error { _, err := client.UserChangePassword(ctx, "root", "now"); return err }); err != nil {
		t.Fatal(err)
	}
	s.RootPassword = "now"
	login("root", "now")
	s.Kill(t)
	s.run("restore", "dcs", "--yes", "--from", "store").Exits(t, command.ExitError, "credentials", "the password was changed after this backup", "nothing was changed")
	if s.Members[0].Running() {
		t.Error("a restore that could not be proven started a member")
	}
	s.Start(t)
	s.lose()
	login("root", "then")
	s.restore()
	s.RootPassword = "then"
	etcdtest.MustEqual(t, want, s.rows())
}

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
	"github.com/requorum/requorum/storage/storagetest"
)

// A site is a machine room: etcd servers, a store, and a configuration for both in a directory of its own.
type site struct {
	*etcdtest.Cluster
	t   *testing.T
	dir string
	env []string

	store  string // as it stands in the configuration
	second string // another one, called offsite; "" for none
	bucket string // with S3
	s3     *storagetest.S3Server
	key    *age.X25519Identity // nil: not encrypted

	// What a test may change before it writes the configuration again.
	cluster    string // more lines of the cluster
	endpoints  []string
	spool      string
	sweepAfter string
	plainTLS   bool
}

// siteOptions say what is different from three members, a directory store and encryption.
type siteOptions struct {
	etcd    etcdtest.Options
	s3      bool
	plain   bool   // not encrypted
	cluster string // more lines of the cluster's configuration, each indented by four
}

func newSite(t *testing.T, o siteOptions) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir(), cluster: o.cluster}
	s.Cluster = etcdtest.StartCluster(t, o.etcd)
	s.endpoints, s.spool = s.Endpoints(), filepath.Join(s.dir, "spool")
	s.store = fmt.Sprintf("{file: {path: %s}}", s.storeDir())
	if o.s3 {
		server := storagetest.StartS3(t, storagetest.S3Options{})
		s.s3, s.bucket = &server, server.Bucket(t)
		s.throughS3(server.Endpoint)
		s.env = append(s.env, server.Environ()...)
	}
	if !o.plain {
		key, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		s.key = key
		s.file("age.key", key.String()+"\n")
	}
	s.configure()
	return s
}

// storeDir is the directory of a directory store.
func (s *site) storeDir() string { return filepath.Join(s.dir, "store") }

// throughS3 makes the bucket at an endpoint the store.
func (s *site) throughS3(endpoint string) {
	s.store = fmt.Sprintf("{s3: {bucket: %s, prefix: etcd, region: us-east-1, endpoint: %q, path_style: true}}", s.bucket, endpoint)
}

// file writes a file into the site's directory and returns its path.
func (s *site) file(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// configure writes the configuration.
func (s *site) configure() {
	s.t.Helper()
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	stores := "main"
	if s.second != "" {
		stores += ", offsite"
	}
	line("clusters:\n  dcs:\n    endpoints: [%s]\n    stores: [%s]", strings.Join(s.endpoints, ", "), stores)
	if s.Certs != nil && !s.plainTLS {
		line("    tls: {ca: %s, cert: %s, key: %s}", s.Certs.CA, s.Certs.Client.Cert, s.Certs.Client.Key)
	}
	if s.key != nil {
		line("    recipients: [%s]\n    identity_file: age.key", s.key.Recipient())
	}
	if s.sweepAfter != "" {
		line("    sweep_after: %s", s.sweepAfter)
	}
	line("    snapshot: {dial_timeout: 30s}") // of a machine that does much else
	if s.cluster != "" {
		line("%s", strings.TrimRight(s.cluster, "\n"))
	}
	line("    members:")
	for _, m := range s.Members {
		c := m.Commands(s.t)
		line("      - {name: %s, peer_url: %q, client_url: %q, data_dir: %s, service: {start: %s, stop: %s, status: %s, inhibit: %s, allow: %s}}",
			m.Name, m.PeerURL, m.ClientURL, m.DataDir, c.Start, c.Stop, c.Status, c.Inhibit, c.Allow)
	}
	line("stores:\n  main: %s", s.store)
	if s.second != "" {
		line("  offsite: %s", s.second)
	}
	line("spool_dir: %s\nallow_tmpfs_spool: true", s.spool)
	s.file("requorum.yaml", b.String())
}

// start starts requorum in the site's directory, where it finds the configuration.
func (s *site) start(args ...string) *command.Command {
	s.t.Helper()
	return start(s.t, s.dir, s.env, args...)
}

// run runs requorum to its end.
func (s *site) run(args ...string) command.Result {
	s.t.Helper()
	return s.start(args...).Wait(s.t)
}

// A taken backup, as requorum backup -o json says it.
type taken struct {
	ID        string
	Line      string
	Revision  int64
	Time      time.Time
	ClusterID string `json:"cluster_id"`
	Member    struct{ Name string }
	Data      struct {
		Key          string
		Bytes        int64
		SHA256       string
		StoredSHA256 string `json:"stored_sha256"`
	}
	Recipients []string
	Keys       int64
	Proofs     []struct {
		Name, Where, Detail string
		OK                  bool
	}
	Warnings, Alerts, Stores []string
}

// backup takes a backup, which must succeed.
func (s *site) backup(flags ...string) taken {
	s.t.Helper()
	var b taken
	s.run(slices.Concat([]string{"-o", "json", "backup", "dcs"}, flags)...).Exits(s.t, command.ExitOK).Decode(s.t, &b)
	return b
}

// A restored cluster, as requorum restore -o json says it.
type restored struct {
	Run            string
	OK             bool
	Source         struct{ Kind, ID string }
	TargetRevision int64  `json:"target_revision"`
	ClusterID      string `json:"cluster_id"`
	Backup         string
	Error          string
	GhostsRemoved  []struct {
		Prefix string
		Count  int
	} `json:"ghosts_removed"`
	Members []struct {
		Name, Hash string
		Healthy    bool
	}
	Stages []struct {
		Name    string
		Seconds float64
	}
	Notes []string
}

// restore restores without a question, which must succeed.
func (s *site) restore(flags ...string) restored {
	s.t.Helper()
	var r restored
	s.run(slices.Concat([]string{"-o", "json", "restore", "dcs", "--yes"}, flags)...).Exits(s.t, command.ExitOK).Decode(s.t, &r)
	if !r.OK {
		s.t.Errorf("the restore is not ok: %+v", r)
	}
	s.t.Logf("stages %+v", r.Stages)
	return r
}

// A listed backup, as requorum list -o json says it.
type listed struct {
	ID, Line string
	Revision int64
	Failed   bool
}

func (s *site) list() (all []listed) {
	s.t.Helper()
	s.run("-o", "json", "list", "dcs").Exits(s.t, command.ExitOK).Decode(s.t, &all)
	return all
}

// lose is the disaster: every member is killed, its data removed.
func (s *site) lose() {
	s.t.Helper()
	s.Kill(s.t)
	s.Wipe(s.t)
}

// rows reads every key that is not under a lease.
func (s *site) rows() []etcdtest.Row {
	s.t.Helper()
	return unleased(etcdtest.Rows(s.t, s.Client(s.t)))
}

func unleased(rows []etcdtest.Row) []etcdtest.Row {
	return slices.DeleteFunc(slices.Clone(rows), func(r etcdtest.Row) bool { return r.Lease != 0 })
}

// objects lists the keys in the store, and the unfinished uploads of a bucket.
func (s *site) objects() (keys []string) {
	s.t.Helper()
	if s.s3 == nil {
		err := filepath.WalkDir(s.storeDir(), func(path string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				rel, _ := filepath.Rel(s.storeDir(), path)
				keys = append(keys, rel)
			}
			return err
		})
		if err != nil && !os.IsNotExist(err) {
			s.t.Fatal(err)
		}
		return keys
	}
	pages := s3.NewListObjectsV2Paginator(s.s3.Client, &s3.ListObjectsV2Input{Bucket: &s.bucket})
	for pages.HasMorePages() {
		page, err := pages.NextPage(s.t.Context())
		if err != nil {
			s.t.Fatal(err)
		}
		for _, o := range page.Contents {
			keys = append(keys, *o.Key)
		}
	}
	uploads, err := s.s3.Client.ListMultipartUploads(s.t.Context(), &s3.ListMultipartUploadsInput{Bucket: &s.bucket})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, u := range uploads.Uploads {
		keys = append(keys, "upload of "+*u.Key)
	}
	return keys
}

// snapshots are the objects that belong to backups, whole ones or not.
func (s *site) snapshots() []string {
	s.t.Helper()
	return slices.DeleteFunc(s.objects(), func(key string) bool { return !strings.Contains(key, "snapshots/") })
}

// spooled lists what lies in the spool.
func (s *site) spooled() []string {
	s.t.Helper()
	found, err := filepath.Glob(filepath.Join(s.spool, "*"))
	if err != nil {
		s.t.Fatal(err)
	}
	return found
}

// fill writes keys of which some are overwritten and deleted.
func (s *site) fill(keys, size int) {
	s.t.Helper()
	client := s.Client(s.t)
	etcdtest.MustFill(s.t, client, etcdtest.FillOptions{Prefix: "/data/", Keys: keys, ValueSize: size, Random: true})
	for i := range min(keys, 5) {
		etcdtest.Put(s.t, client, fmt.Sprintf("/data/%08d", i), "again")
	}
	if keys > 6 {
		etcdtest.Delete(s.t, client, "/data/00000006")
	}
}

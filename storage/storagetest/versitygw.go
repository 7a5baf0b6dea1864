package storagetest

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/requorum/requorum/internal/etcdtest"
)

// S3Options choose the kind of server.
type S3Options struct {
	TLS bool // https with a certificate authority of its own: see S3Server.CA
}

// S3Server is a running S3 server on the loopback interface with one privileged user.
type S3Server struct {
	Endpoint  string // http://127.0.0.1:PORT or https://…
	Addr      string // 127.0.0.1:PORT
	Region    string
	AccessKey string
	SecretKey string
	CA        string // PEM file; empty without TLS
	Data      string // the directory behind it: a bucket is a folder

	Client *s3.Client // of the privileged user, for what a test arranges beside the store under test

	binary  string
	buckets *atomic.Int64
}

// StartS3 runs a server until the test ends: versitygw, a gateway in front of a directory, with credentials, checksums,
// conditions, versions and locks that behave like the real ones. Its binary is built once for all tests of this user, which takes a
// few minutes, and kept in the cache of test programs. With -short the test is skipped.
func StartS3(t testing.TB, o S3Options) S3Server {
	t.Helper()
	if testing.Short() {
		t.Skip("starts an S3 server")
	}
	binary := etcdtest.Binary(t, "versitygw", etcdtest.VersityGW)
	dir := t.TempDir()
	s := S3Server{Region: "us-east-1", AccessKey: "requorumtest", SecretKey: "requorumtestsecret", Data: filepath.Join(dir, "data"), binary: binary, buckets: new(atomic.Int64)}
	for _, sub := range []string{"data", "versions", "iam"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s.Addr = fmt.Sprintf("127.0.0.1:%d", etcdtest.FreePort(t))
	args := []string{"-q", "--keep-alive", "--port", s.Addr, "--access", s.AccessKey, "--secret", s.SecretKey, "--iam-dir", filepath.Join(dir, "iam")}
	s.Endpoint = "http://" + s.Addr
	if o.TLS {
		certs := etcdtest.NewCerts(t, dir)
		args = append(args, "--cert", certs.Server.Cert, "--key", certs.Server.Key)
		s.Endpoint, s.CA = "https://"+s.Addr, certs.CA
	}
	args = append(args, "posix", "--versioning-dir", filepath.Join(dir, "versions"), s.Data)
	log := filepath.Join(dir, "versitygw.log")
	output := func() []byte {
		text, err := os.ReadFile(log)
		if err != nil {
			return []byte(err.Error())
		}
		return text
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the S3 server said:\n%s", output())
		}
	})
	// Its death is tied to a thread of its own: one that starts other things may end while the test still needs the server.
	server := etcdtest.NewProgram(t, log)
	server.Start(t, append([]string{binary}, args...)...)
	const patience = 3 * time.Minute // on a machine that does much else
	deadline := time.Now().Add(patience)
	for {
		if c, err := net.Dial("tcp", s.Addr); err == nil {
			c.Close()
			break
		}
		if !server.Running() {
			t.Fatalf("the S3 server ended at once:\n%s", output())
		}
		if time.Now().After(deadline) {
			t.Fatalf("the S3 server does not listen after %v", patience)
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.Client = s.As(t, s.AccessKey, s.SecretKey)
	return s
}

// As returns a client of the server for a user.
func (s S3Server) As(t testing.TB, access, secret string) *s3.Client {
	t.Helper()
	o := s3.Options{
		Region: s.Region, BaseEndpoint: &s.Endpoint, UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(access, secret, ""),
	}
	if s.CA != "" {
		o.HTTPClient = trusting(t, s.CA)
	}
	return s3.New(o)
}

// Bucket makes an empty bucket.
func (s S3Server) Bucket(t testing.TB) string { return s.bucket(t, false) }

// LockedBucket makes an empty bucket with versions and object lock, without any retention by default.
func (s S3Server) LockedBucket(t testing.TB) string { return s.bucket(t, true) }

func (s S3Server) bucket(t testing.TB, lock bool) string {
	t.Helper()
	name := fmt.Sprintf("bucket-%d", s.buckets.Add(1))
	if _, err := s.Client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &name, ObjectLockEnabledForBucket: &lock}); err != nil {
		t.Fatalf("create a bucket: %v", err)
	}
	return name
}

// VersionedBucket makes an empty bucket with versions.
func (s S3Server) VersionedBucket(t testing.TB) string {
	t.Helper()
	name := s.bucket(t, false)
	_, err := s.Client.PutBucketVersioning(t.Context(), &s3.PutBucketVersioningInput{
		Bucket: &name, VersioningConfiguration: &types.VersioningConfiguration{Status: types.BucketVersioningStatusEnabled},
	})
	if err != nil {
		t.Fatalf("turn on versions: %v", err)
	}
	return name
}

// URL is the store URL of a bucket, to be used with [S3Server.Setenv].
func (s S3Server) URL(bucket string) string {
	q := url.Values{"endpoint": {s.Endpoint}, "path_style": {"true"}, "region": {s.Region}}
	if s.CA != "" {
		q.Set("ca", s.CA)
	}
	return "s3://" + bucket + "?" + q.Encode()
}

// Environ is the environment that gives the SDK's default chain the privileged user's credentials and nothing else.
func (s S3Server) Environ() []string {
	return []string{
		"AWS_ACCESS_KEY_ID=" + s.AccessKey, "AWS_SECRET_ACCESS_KEY=" + s.SecretKey, "AWS_SESSION_TOKEN=", "AWS_PROFILE=",
		"AWS_CONFIG_FILE=" + os.DevNull, "AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull, "AWS_EC2_METADATA_DISABLED=true", "AWS_REGION=", "AWS_ENDPOINT_URL=",
	}
}

// Setenv puts [S3Server.Environ] into the environment of the test.
func (s S3Server) Setenv(t *testing.T) {
	t.Helper()
	for _, kv := range s.Environ() {
		name, value, _ := strings.Cut(kv, "=")
		t.Setenv(name, value)
	}
}

// User makes a user who may do the actions ("s3:PutObject") on bucket and what is in it, and nothing else.
func (s S3Server) User(t testing.TB, bucket string, actions ...string) (access, secret string) {
	t.Helper()
	access, secret = fmt.Sprintf("user-%d", s.buckets.Add(1)), "secretofauser"
	args := []string{
		"admin", "--allow-insecure", "--access", s.AccessKey, "--secret", s.SecretKey, "--endpoint-url", s.Endpoint,
		"create-user", "--access", access, "--secret", secret, "--role", "user",
	}
	if out, err := exec.CommandContext(t.Context(), s.binary, args...).CombinedOutput(); err != nil {
		t.Fatalf("create a user: %v\n%s", err, out)
	}
	policy, err := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": []any{map[string]any{
		"Effect": "Allow", "Principal": access, "Action": actions, "Resource": []string{"arn:aws:s3:::" + bucket, "arn:aws:s3:::" + bucket + "/*"},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Client.PutBucketPolicy(t.Context(), &s3.PutBucketPolicyInput{Bucket: &bucket, Policy: aws.String(string(policy))}); err != nil {
		t.Fatalf("set the bucket's policy: %v", err)
	}
	return access, secret
}

func trusting(t testing.TB, ca string) *http.Client {
	t.Helper()
	pem, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
}

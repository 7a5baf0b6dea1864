package s3

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/storagetest"
)

func options(server storagetest.S3Server, bucket string) Options {
	return Options{Bucket: bucket, Region: server.Region, Endpoint: server.Endpoint, PathStyle: true, CA: server.CA, AccessKeyID: server.AccessKey, SecretAccessKey: server.SecretKey}
}

// opened is a store as users get it.
func opened(t *testing.T, o Options) storage.Store {
	t.Helper()
	s, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// adjusted is a store whose requests a test takes a hand in.
func adjusted(t *testing.T, o Options, adjust ...func(*s3.Options)) *Store {
	t.Helper()
	s, err := open(t.Context(), o, adjust...)
	if err != nil {
		t.Fatal(err)
	}
	s.retry.Wait, s.retry.MaxWait = 1, 1 // nanoseconds: tests need not be patient
	return s
}

// doer is an HTTP client that is a function of the one in its place.
type doer func(*http.Request) (*http.Response, error)

func (d doer) Do(r *http.Request) (*http.Response, error) { return d(r) }

// through puts f between the store and its HTTP client.
func through(f func(next s3.HTTPClient, r *http.Request) (*http.Response, error)) func(*s3.Options) {
	return func(o *s3.Options) {
		next := o.HTTPClient
		o.HTTPClient = doer(func(r *http.Request) (*http.Response, error) { return f(next, r) })
	}
}

func TestStore(t *testing.T) {
	server := storagetest.StartS3(t, storagetest.S3Options{})
	t.Run("Plain", func(t *testing.T) {
		storagetest.Run(t, func(t *testing.T) storage.Store { return opened(t, options(server, server.Bucket(t))) })
	})
	t.Run("VersionedWithPrefix", func(t *testing.T) {
		storagetest.Run(t, func(t *testing.T) storage.Store {
			o := options(server, server.VersionedBucket(t))
			o.Prefix = "team/etcd"
			return opened(t, o)
		})
	})
}

func TestTLS(t *testing.T) {
	server := storagetest.StartS3(t, storagetest.S3Options{TLS: true})
	bucket := server.Bucket(t)
	s := opened(t, options(server, bucket))
	for _, size := range []int{0, 10, 1 << 20, 13 << 20} {
		data := storagetest.Bytes(size, 1)
		key := "tls/" + strings.Repeat("x", size%7+1)
		if o := storagetest.Put(t, s, key, data); o.Checksum != checksumOf(newChecksum().of(data)) {
			t.Errorf("%d bytes: the server vouched for %q", size, o.Checksum)
		}
		if got := storagetest.Get(t, s, key, 0); string(got) != string(data) {
			t.Errorf("%d bytes came back as %d others", size, len(got))
		}
		if err := s.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	o := options(server, bucket)
	o.CA = ""
	for _, err := range opened(t, o).List(t.Context(), "", "") {
		if !errors.Is(err, storage.ErrCertificate) || !strings.Contains(err.Error(), "as ca") {
			t.Errorf("without the authority: %v, want ErrCertificate with advice", err)
		}
	}
	o.Endpoint = strings.Replace(o.Endpoint, "https", "http", 1)
	for _, err := range opened(t, o).List(t.Context(), "", "") {
		if err == nil {
			t.Error("plain HTTP was answered by a TLS server")
		}
	}
}

func TestFromURL(t *testing.T) {
	for raw, want := range map[string]any{
		"s3://b": Options{Bucket: "b"},
		"s3://backups/etcd/dcs/?region=eu-central-1&endpoint=https%3A%2F%2Fs3.example.org%3A9000&path_style=true&ca=/etc/ca.pem&profile=ops&storage_class=STANDARD_IA&sse=aws:kms&kms_key=alias/x": Options{
			Bucket: "backups", Prefix: "etcd/dcs", Region: "eu-central-1", Endpoint: "https://s3.example.org:9000", PathStyle: true, CA: "/etc/ca.pem",
			Profile: "ops", StorageClass: "STANDARD_IA", SSE: "aws:kms", KMSKey: "alias/x",
		},
		"s3://b?path_style=maybe":           "true or false",
		"s3://b?access_key=x":               "unknown parameter",
		"s3://b?endpoint=minio:9000":        "https://HOST:PORT",
		"s3://b?endpoint=http://u:p@h":      "https://HOST:PORT",
		"s3://b/a//b":                       "empty element",
		"s3://b?sse=rot13":                  "AES256 or aws:kms",
		"s3://b?sse=AES256&kms_key=alias/x": "needs the server-side encryption aws:kms",
		"s3:///prefix":                      "s3://bucket/prefix",
		"file:///x":                         "s3://bucket/prefix",
	} {
		u, err := storage.ParseURL(raw)
		if err != nil {
			t.Fatal(err)
		}
		got, err := FromURL(u)
		switch want := want.(type) {
		case Options:
			if err != nil || got != want {
				t.Errorf("%s:\ngot  %+v, %v\nwant %+v", raw, got, err, want)
			}
		case string:
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want an error with %q", raw, err, want)
			}
		}
	}
}

func TestNew(t *testing.T) {
	noEnvironment(t)
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, o := range map[string]Options{
		"not a bucket's name":    {Region: "x"},
		"one of them is missing": {Bucket: "b", Region: "x", AccessKeyID: "x"},
		"no such file":           {Bucket: "b", Region: "x", CA: "/nowhere/ca.pem"},
		"holds no certificate":   {Bucket: "b", Region: "x", CA: empty},
		"no region":              {Bucket: "b"},
		"nosuchprofile":          {Bucket: "b", Region: "x", Profile: "nosuchprofile"},
	} {
		if _, err := New(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want an error with %q", o, err, want)
		}
	}
}

// noEnvironment keeps the machine's own AWS configuration out of a test.
func noEnvironment(t *testing.T) {
	t.Helper()
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "", "AWS_REGION": "", "AWS_DEFAULT_REGION": "",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_EC2_METADATA_DISABLED": "true", "AWS_ENDPOINT_URL": "", "AWS_ENDPOINT_URL_S3": "",
	} {
		t.Setenv(name, value)
	}
}

// The bucket is named in the path where the endpoint cannot have a name before it.
func TestBucketHost(t *testing.T) {
	for endpoint, want := range map[string]string{
		"http://127.0.0.1:9000":      "127.0.0.1:9000/backups/k",
		"http://[::1]:9000":          "[::1]:9000/backups/k",
		"https://minio:9000":         "minio:9000/backups/k",
		"https://s3.example.org":     "backups.s3.example.org/k",
		"https://s3.example.org/api": "backups.s3.example.org/api/k",
		"":                           "backups.s3.eu-central-1.amazonaws.com/k",
	} {
		var got string
		s := adjusted(t, Options{Bucket: "backups", Region: "eu-central-1", Endpoint: endpoint, AccessKeyID: "a", SecretAccessKey: "s"}, through(func(_ s3.HTTPClient, r *http.Request) (*http.Response, error) {
			got = r.URL.Host + r.URL.Path
			return nil, storage.ErrDenied
		}))
		if r, err := s.Get(t.Context(), "k", 0); err == nil {
			r.Close()
		}
		if got != want {
			t.Errorf("endpoint %q: asked %s, want %s", endpoint, got, want)
		}
	}
}

// The default chain: a profile of the shared files, then the environment.
func TestCredentials(t *testing.T) {
	server := storagetest.StartS3(t, storagetest.S3Options{})
	bucket := server.Bucket(t)
	noEnvironment(t)
	dir := t.TempDir()
	shared := filepath.Join(dir, "credentials")
	if err := os.WriteFile(shared, []byte("[ops]\naws_access_key_id = "+server.AccessKey+"\naws_secret_access_key = "+server.SecretKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", shared)
	u, err := storage.ParseURL(server.URL(bucket) + "&profile=ops")
	if err != nil {
		t.Fatal(err)
	}
	o, err := FromURL(u)
	if err != nil {
		t.Fatal(err)
	}
	storagetest.Put(t, opened(t, o), "by/profile", []byte("x"))

	o.Profile = ""
	_, err = opened(t, o).Put(t.Context(), "by/nothing", strings.NewReader("x"))
	if !errors.Is(err, storage.ErrNoCredentials) || !strings.Contains(err.Error(), "AWS_ACCESS_KEY_ID") {
		t.Errorf("without credentials: %v, want ErrNoCredentials with advice", err)
	}

	server.Setenv(t)
	s := opened(t, o)
	storagetest.Put(t, s, "by/environment", []byte("x"))
	if got := storagetest.Keys(t, s, "", ""); len(got) != 2 {
		t.Errorf("stored: %q", got)
	}
}

// The probe meets what a Put would meet, where a Put would meet it, and leaves nothing.
func TestProbe(t *testing.T) {
	server := storagetest.StartS3(t, storagetest.S3Options{})
	o := options(server, server.Bucket(t))
	o.Prefix = "team/etcd"
	var asked []string
	s := adjusted(t, o, through(func(next s3.HTTPClient, r *http.Request) (*http.Response, error) {
		asked = append(asked, step(r)+" "+r.URL.Path)
		return next.Do(r)
	}))
	if err := storage.Probe(t.Context(), storage.Retry(storage.Prefix(s, o.Prefix), storage.RetryOptions{})); err != nil {
		t.Error(err)
	}
	for _, request := range asked {
		if !strings.HasSuffix(request, "/team/etcd/"+storage.ProbeKey) {
			t.Errorf("probed outside the prefix: %s", request)
		}
	}
	if len(asked) == 0 {
		t.Error("nothing was asked")
	}
	clean(t, s)

	reader := o
	reader.AccessKeyID, reader.SecretAccessKey = server.User(t, o.Bucket, "s3:GetObject", "s3:ListBucket")
	if err := storage.Probe(t.Context(), opened(t, reader)); !errors.Is(err, storage.ErrDenied) {
		t.Errorf("a user who may only read: %v, want ErrDenied", err)
	}
	o.Bucket = "no-such-bucket"
	if err := storage.Probe(t.Context(), opened(t, o)); !errors.Is(err, storage.ErrNoBucket) {
		t.Errorf("no bucket: %v, want ErrNoBucket", err)
	}
	clean(t, s)
}

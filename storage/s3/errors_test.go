package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/storagetest"
)

// operations are the four of a store.
var operations = map[string]func(context.Context, storage.Store) error{
	"put": func(ctx context.Context, s storage.Store) error {
		_, err := s.Put(ctx, "k", strings.NewReader("x"))
		return err
	},
	"get": func(ctx context.Context, s storage.Store) error {
		r, err := s.Get(ctx, "k", 0)
		if err == nil {
			_ = r.Close()
		}
		return err
	},
	"list": func(ctx context.Context, s storage.Store) error {
		for _, err := range s.List(ctx, "", "") {
			return err
		}
		return nil
	},
	"delete": func(ctx context.Context, s storage.Store) error { return s.Delete(ctx, "k") },
}

// skewed signs at another time than now.
type skewed struct {
	signer *v4.Signer
	by     time.Duration
}

func (s skewed) SignHTTP(ctx context.Context, c aws.Credentials, r *http.Request, hash, service, region string, at time.Time, f ...func(*v4.SignerOptions)) error {
	return s.signer.SignHTTP(ctx, c, r, hash, service, region, at.Add(s.by), f...)
}

// Each mistake of an operator has its own class and says what to try, on a real server.
func TestMistakes(t *testing.T) {
	server := storagetest.StartS3(t, storagetest.S3Options{})
	bucket := server.Bucket(t)
	for name, test := range map[string]struct {
		change func(*Options)
		adjust func(*s3.Options)
		want   error
		advice string
	}{
		"access key": {change: func(o *Options) { o.AccessKeyID = "nobody" }, want: storage.ErrAccessKey, advice: "AWS_ACCESS_KEY_ID"},
		"secret":     {change: func(o *Options) { o.SecretAccessKey = "wrong" }, want: storage.ErrSecretKey, advice: "AWS_SECRET_ACCESS_KEY"},
		"bucket":     {change: func(o *Options) { o.Bucket = "no-such-bucket" }, want: storage.ErrNoBucket, advice: "name"},
		"region":     {change: func(o *Options) { o.Region = "eu-central-1" }, want: storage.ErrRegion, advice: "region"},
		"clock slow": {adjust: func(o *s3.Options) { o.HTTPSignerV4 = skewed{v4.NewSigner(), -time.Hour} }, want: storage.ErrClock, advice: "timedatectl"},
		"clock fast": {adjust: func(o *s3.Options) { o.HTTPSignerV4 = skewed{v4.NewSigner(), time.Hour} }, want: storage.ErrClock, advice: "timedatectl"},
	} {
		o := options(server, bucket)
		adjust := []func(*s3.Options){}
		if test.change != nil {
			test.change(&o)
		}
		if test.adjust != nil {
			adjust = append(adjust, test.adjust)
		}
		s := adjusted(t, o, adjust...)
		for op, call := range operations {
			err := call(t.Context(), s)
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.advice) || !strings.Contains(err.Error(), s.o.Bucket) {
				t.Errorf("%s, %s: %v\nwant %q, the bucket, and advice with %q", name, op, err, test.want, test.advice)
			}
			if !storage.Permanent(err) {
				t.Errorf("%s, %s: would be tried again in vain", name, op)
			}
		}
	}
	if keys := storagetest.Keys(t, opened(t, options(server, bucket)), "", ""); len(keys) > 0 {
		t.Errorf("stored in spite of it all: %q", keys)
	}
}

// What only other servers say, as they say it.
func TestClassify(t *testing.T) {
	for _, test := range []struct {
		status int
		code   string
		header http.Header
		want   error
		again  bool
	}{
		{status: 400, code: "ExpiredToken", want: storage.ErrExpired},
		{status: 403, code: "RequestExpired", want: storage.ErrExpired},
		{status: 301, code: "PermanentRedirect", header: http.Header{"X-Amz-Bucket-Region": {"ap-south-1"}}, want: storage.ErrRegion},
		{status: 400, code: "AuthorizationHeaderMalformed", want: storage.ErrRegion},
		{status: 403, code: "AccessDenied", want: storage.ErrDenied},
		{status: 403, code: "Whatever", want: storage.ErrDenied},
		{status: 507, code: "XMinioStorageFull", want: storage.ErrFull},
		{status: 403, code: "QuotaExceeded", want: storage.ErrFull},
		{status: 403, code: "InvalidObjectState", want: storage.ErrArchived},
		{status: 400, code: "InvalidStorageClass", want: storage.ErrRefused},
		{status: 404, code: "NoSuchBucket", want: storage.ErrNoBucket},
		{status: 503, code: "SlowDown", again: true},
		{status: 500, code: "InternalError", again: true},
		{status: 429, code: "TooManyRequests", again: true},
		{status: 409, code: "OperationAborted", again: true},
		{status: 400, code: "RequestTimeout", again: true},
	} {
		var requests atomic.Int64
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			requests.Add(1)
			_, _ = io.Copy(io.Discard, r.Body)
			for name, values := range test.header {
				w.Header()[name] = values
			}
			w.WriteHeader(test.status)
			fmt.Fprintf(w, "<?xml version=\"1.0\"?><Error><Code>%s</Code><Message>as it says.</Message><RequestId>R1</RequestId></Error>", test.code)
		}))
		s := adjusted(t, Options{Bucket: "b", Endpoint: server.URL, AccessKeyID: "a", SecretAccessKey: "s"})
		for op, call := range operations {
			requests.Store(0)
			err := call(t.Context(), s)
			if test.want != nil && !errors.Is(err, test.want) || storage.Permanent(err) == test.again {
				t.Errorf("%d %s, %s: %v; want %v, to be tried again: %v", test.status, test.code, op, err, test.want, test.again)
			}
			if err != nil && (!strings.Contains(err.Error(), test.code) || strings.Contains(err.Error(), "operation error")) {
				t.Errorf("%d %s, %s: the message is %s", test.status, test.code, op, err)
			}
			if region := test.header.Get("X-Amz-Bucket-Region"); region != "" && !strings.Contains(err.Error(), region) {
				t.Errorf("the server named the right region, the message does not: %v", err)
			}
			tries := int64(1)
			if test.again && op == "put" {
				tries = 8 // the adapter repeats only what no decorator can
			}
			if op == "delete" && test.code == "AccessDenied" {
				tries = 2 // perhaps only the versions may not be listed
			}
			if requests.Load() != tries {
				t.Errorf("%d %s, %s: %d requests, want %d", test.status, test.code, op, requests.Load(), tries)
			}
		}
		server.Close()
	}
}

func TestUnreachable(t *testing.T) {
	closed := fmt.Sprintf("http://127.0.0.1:%d", etcdtest.FreePort(t))
	for _, endpoint := range []string{closed, "http://nowhere.invalid"} {
		s := adjusted(t, Options{Bucket: "b", Endpoint: endpoint, PathStyle: true, AccessKeyID: "a", SecretAccessKey: "s"})
		for op, call := range operations {
			err := call(t.Context(), s)
			if !errors.Is(err, storage.ErrUnreachable) || !strings.Contains(err.Error(), endpoint) || !strings.Contains(err.Error(), "check the endpoint") {
				t.Errorf("%s, %s: %v, want ErrUnreachable with the endpoint", endpoint, op, err)
			}
			if storage.Permanent(err) {
				t.Errorf("%s, %s: would not be tried again", endpoint, op)
			}
		}
	}
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	s := adjusted(t, Options{Bucket: "b", Endpoint: strings.Replace(plain.URL, "http", "https", 1), AccessKeyID: "a", SecretAccessKey: "s"})
	if err := operations["list"](t.Context(), s); err == nil || !strings.Contains(err.Error(), "plain HTTP") {
		t.Errorf("https to a plain server: %v", err)
	}
}

// A stream that ends before its announced length is an error, never a short object.
func TestTruncatedDownload(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write(make([]byte, 400))
	}))
	defer server.Close()
	s := adjusted(t, Options{Bucket: "b", Endpoint: server.URL, AccessKeyID: "a", SecretAccessKey: "s"})
	r, err := s.Get(t.Context(), "k", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	n, err := io.Copy(io.Discard, r)
	if n != 400 || !errors.Is(err, storage.ErrUnreachable) || storage.Permanent(err) {
		t.Errorf("read %d bytes, %v; want 400 and an error that is worth another try", n, err)
	}
}

// A server without ranges sends all of it: the offset is kept nevertheless.
func TestNoRanges(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "0123456789")
	}))
	defer server.Close()
	s := adjusted(t, Options{Bucket: "b", Endpoint: server.URL, AccessKeyID: "a", SecretAccessKey: "s"})
	for offset, want := range map[int64]string{0: "0123456789", 4: "456789", 10: "", 20: ""} {
		if got := storagetest.Get(t, s, "k", offset); string(got) != want {
			t.Errorf("from %d: %q, want %q", offset, got, want)
		}
	}
}

// A listing that is out of order would make retention and resumption wrong: it is refused.
func TestListDisorder(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `<?xml version="1.0"?><ListBucketResult><Contents><Key>a/b</Key><Size>1</Size></Contents><Contents><Key>folder/</Key></Contents><Contents><Key>a-b</Key><Size>1</Size></Contents></ListBucketResult>`)
	}))
	defer server.Close()
	s := adjusted(t, Options{Bucket: "b", Endpoint: server.URL, AccessKeyID: "a", SecretAccessKey: "s"})
	var keys []string
	var last error
	for o, err := range s.List(t.Context(), "", "") {
		if last = err; err == nil {
			keys = append(keys, o.Key)
		}
	}
	if last == nil || !strings.Contains(last.Error(), "order") || len(keys) != 1 {
		t.Errorf("listed %q, %v", keys, last)
	}
}

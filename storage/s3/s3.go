// Package s3 keeps objects in a bucket of Amazon S3 or of a server that speaks its protocol.
//
// Objects are created with If-None-Match, so that nothing is ever overwritten, and with a CRC64NVME checksum over the whole
// object, which the server verifies and remembers. Servers that know neither are recognised by their
// answer and served without, as well as that can be done. Credentials come from the SDK's default chain (environment,
// profiles, SSO, web identity, instance roles) and are refreshed as they expire.
package s3

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/requorum/requorum/storage"
)

// Options say which bucket, how to reach it, and how objects are kept in it.
type Options struct {
	Bucket string
	Prefix string // all keys are below it; without a slash at its end

	Region   string // default: the profile's or the environment's; us-east-1 with an Endpoint
	Endpoint string // URL of a server that is not Amazon's

	// PathStyle puts the bucket into the path instead of the host name. It is always done when the endpoint is an
	// address or a name without a dot, where nothing else can work.
	PathStyle bool
	CA        string // PEM file of certificate authorities to trust beside the system's

	Profile         string // of the shared configuration files
	AccessKeyID     string // with SecretAccessKey: instead of the default chain
	SecretAccessKey string
	SessionToken    string

	StorageClass string // STANDARD_IA, GLACIER_IR, …; default the bucket's
	SSE          string // server-side encryption: AES256 or aws:kms; default the bucket's
	KMSKey       string // key id or ARN; implies aws:kms
}

// FromURL reads s3://bucket/prefix with the parameters region, endpoint, path_style, ca, profile, storage_class, sse and
// kms_key. Credentials are never part of a URL.
func FromURL(u *url.URL) (Options, error) {
	if u.Scheme != "s3" || u.Host == "" {
		return Options{}, fmt.Errorf("store URL %s: not of the form s3://bucket/prefix", u.Redacted())
	}
	q, err := storage.Query(u, "region", "endpoint", "path_style", "ca", "profile", "storage_class", "sse", "kms_key")
	if err != nil {
		return Options{}, err
	}
	o := Options{
		Bucket: u.Host, Prefix: strings.Trim(u.Path, "/"), Region: q["region"], Endpoint: q["endpoint"], CA: q["ca"],
		Profile: q["profile"], StorageClass: q["storage_class"], SSE: q["sse"], KMSKey: q["kms_key"],
	}
	if v, given := q["path_style"]; given {
		if o.PathStyle, err = strconv.ParseBool(v); err != nil {
			return Options{}, fmt.Errorf("store URL s3://%s%s: path_style is %q, not true or false", u.Host, u.Path, v)
		}
	}
	if err := o.check(); err != nil {
		return Options{}, err
	}
	return o, nil
}

// check finds what is wrong without asking a server.
func (o *Options) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("store s3://%s: %w", o.Bucket, fmt.Errorf(format, args...))
	}
	if o.Bucket == "" || strings.ContainsAny(o.Bucket, "/?#") {
		return bad("%q is not a bucket's name", o.Bucket)
	}
	if o.Prefix != "" {
		if err := storage.CheckKey(o.Prefix); err != nil {
			return bad("prefix: %w", err)
		}
	}
	if o.Endpoint != "" {
		u, err := url.Parse(o.Endpoint)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" {
			return bad("endpoint: write it as https://HOST:PORT")
		}
	}
	if (o.AccessKeyID == "") != (o.SecretAccessKey == "") {
		return bad("an access key and its secret belong together: one of them is missing")
	}
	switch o.SSE {
	case "", "aws:kms", "aws:kms:dsse":
	case "AES256":
		if o.KMSKey != "" {
			return bad("a KMS key needs the server-side encryption aws:kms, not AES256")
		}
	default:
		return bad("server-side encryption %q is unknown; use AES256 or aws:kms", o.SSE)
	}
	return nil
}

// Store is a [storage.Store], [storage.Confirmer] and [storage.Sweeper].
type Store struct {
	client *s3.Client
	o      Options
	name   string // for messages
	crc    checksum
	retry  storage.RetryOptions

	// What this server turned out not to know. See [Store.learn].
	noConditions, noChecksums atomic.Bool

	parts sync.Pool // of *[]byte, partSize long: buffers that uploads left behind
}

// New returns the store. It reads the SDK's configuration, but asks no server for anything: see [Options] and
// call List to try it.
func New(ctx context.Context, o Options) (storage.Store, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	s, err := open(ctx, o)
	if err != nil {
		return nil, err
	}
	return storage.Prefix(s, o.Prefix), nil
}

// open returns the store of the whole bucket, without the prefix.
func open(ctx context.Context, o Options, adjust ...func(*s3.Options)) (*Store, error) {
	if o.KMSKey != "" && o.SSE == "" {
		o.SSE = string(types.ServerSideEncryptionAwsKms)
	}
	fail := func(err error) error { return fmt.Errorf("store s3://%s: %w", o.Bucket, err) }
	transport, err := newTransport(o.CA)
	if err != nil {
		return nil, fail(err)
	}
	load := []func(*config.LoadOptions) error{config.WithHTTPClient(transport)}
	if o.Region != "" {
		load = append(load, config.WithRegion(o.Region))
	}
	if o.Profile != "" {
		load = append(load, config.WithSharedConfigProfile(o.Profile))
	}
	if o.AccessKeyID != "" {
		load = append(load, config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider(o.AccessKeyID, o.SecretAccessKey, o.SessionToken)))
	}
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, fail(err)
	}
	client := s3.NewFromConfig(cfg, func(c *s3.Options) {
		if o.Endpoint != "" {
			c.BaseEndpoint = &o.Endpoint
		}
		endpoint := aws.ToString(c.BaseEndpoint)
		if c.Region == "" && endpoint != "" {
			c.Region = "us-east-1" // what such servers call their only one
		}
		c.UsePathStyle = o.PathStyle || noBucketHosts(endpoint)
		// Requests are repeated by us, which must know what an earlier attempt may have done.
		c.Retryer = aws.NopRetryer{}
		// A clock that is minutes off gives objects wrong names: say so instead of working around it.
		c.DisableClockSkewCorrection = true
		// Every upload brings its own checksum.
		c.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		c.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		c.HTTPClient = &watchdog{client: cfg.HTTPClient, stall: stallAfter, assemble: assembleWithin}
		for _, f := range adjust {
			f(c)
		}
	})
	resolved := client.Options()
	if resolved.Region == "" {
		return nil, fail(errors.New("no region: give one with region=…, in the profile or in AWS_REGION"))
	}
	s := &Store{client: client, o: o, name: "s3://" + o.Bucket, crc: newChecksum(), retry: storage.RetryOptions{Attempts: 8, Wait: 500 * time.Millisecond, MaxWait: 20 * time.Second}}
	if endpoint := aws.ToString(resolved.BaseEndpoint); endpoint != "" {
		s.name += " at " + endpoint
	}
	return s, nil
}

// noBucketHosts reports whether a bucket's name cannot be put before the host of the endpoint.
func noBucketHosts(endpoint string) bool {
	u, err := url.Parse(endpoint)
	if err != nil || endpoint == "" {
		return false
	}
	return net.ParseIP(u.Hostname()) != nil || !strings.Contains(u.Hostname(), ".")
}

func newTransport(ca string) (*awshttp.BuildableClient, error) {
	c := awshttp.NewBuildableClient()
	if ca == "" {
		return c, nil
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, fmt.Errorf("certificate authorities: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("certificate authorities: %s holds no certificate in PEM form", ca)
	}
	return c.WithTransportOptions(func(t *http.Transport) { t.TLSClientConfig.RootCAs = pool }), nil
}

// unsigned leaves the body of an upload out of the signature where TLS guards it: the checksum is of it already.
func unsigned(o *s3.Options) {
	if endpoint := aws.ToString(o.BaseEndpoint); endpoint == "" || strings.HasPrefix(endpoint, "https:") {
		o.APIOptions = append(o.APIOptions, v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware)
	}
}

// Get implements [storage.Store].
func (s *Store) Get(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	if err := storage.CheckKey(key); err != nil {
		return nil, s.fail(ctx, "get", key, err)
	}
	if offset < 0 {
		return nil, s.fail(ctx, "get", key, fmt.Errorf("offset %d is negative", offset))
	}
	in := &s3.GetObjectInput{Bucket: &s.o.Bucket, Key: &key}
	if offset > 0 {
		in.Range = aws.String(fmt.Sprintf("bytes=%d-", offset))
	}
	out, err := s.client.GetObject(ctx, in)
	if status(err) == http.StatusRequestedRangeNotSatisfiable {
		return http.NoBody, nil
	}
	if err != nil {
		return nil, s.fail(ctx, "get", key, err)
	}
	if offset > 0 && out.ContentRange == nil {
		// The server ignored the range; reading it all as if it began at offset would corrupt what is restored.
		if _, err := io.CopyN(io.Discard, out.Body, offset); err != nil && err != io.EOF {
			_ = out.Body.Close() // the copy's error is the one that counts
			return nil, s.fail(ctx, "get", key, err)
		}
	}
	return &stream{ctx: ctx, s: s, key: key, body: out.Body}, nil
}

// stream reads one object. It ends with the context of its Get, which it therefore keeps.
type stream struct {
	ctx  context.Context
	s    *Store
	key  string
	body io.ReadCloser
}

func (r *stream) Read(p []byte) (int, error) {
	n, err := r.body.Read(p)
	if err != nil && err != io.EOF {
		err = r.s.fail(r.ctx, "get", r.key, err)
	}
	return n, err
}

func (r *stream) Close() error { return r.body.Close() }

// List implements [storage.Store]. It takes one request for a thousand objects. Keys that no Put can have made, like the
// "folders" of web consoles, are passed over.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		in := &s3.ListObjectsV2Input{Bucket: &s.o.Bucket, Prefix: optional(prefix), StartAfter: optional(after)}
		last := after
		for {
			out, err := s.client.ListObjectsV2(ctx, in)
			if err != nil {
				yield(storage.Object{}, s.fail(ctx, "list", prefix, err))
				return
			}
			for _, o := range out.Contents {
				key := aws.ToString(o.Key)
				if storage.CheckKey(key) != nil {
					continue
				}
				if key <= last && last != "" {
					yield(storage.Object{}, s.fail(ctx, "list", prefix, fmt.Errorf("the server does not list in the order of the keys: %q came after %q", key, last)))
					return
				}
				last = key
				if !yield(storage.Object{Key: key, Size: aws.ToInt64(o.Size), Modified: aws.ToTime(o.LastModified)}, nil) {
					return
				}
			}
			if !aws.ToBool(out.IsTruncated) {
				return
			}
			if aws.ToString(out.NextContinuationToken) == "" {
				yield(storage.Object{}, s.fail(ctx, "list", prefix, errors.New("the server says that there is more, but not how to ask for it")))
				return
			}
			in.ContinuationToken = out.NextContinuationToken
		}
	}
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

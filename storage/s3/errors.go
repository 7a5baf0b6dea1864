package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/requorum/requorum/storage"
)

// code is S3's own name of an error, or empty.
func code(err error) string {
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		return e.ErrorCode()
	}
	return ""
}

// status is the HTTP status of an error, 0 if there was no answer.
func status(err error) int {
	if e, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		return e.HTTPStatusCode()
	}
	return 0
}

// brief leaves the SDK's preamble ("operation error S3: PutObject, https response error StatusCode: …, HostID: …")
// out of an error, but keeps the request id of an answer: support asks for it.
func brief(err error) error {
	api, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		if sent, ok := errors.AsType[*url.Error](err); ok { // no answer came: what failed is below the request
			return &answer{sent.Err.Error(), err}
		}
		if op, ok := errors.AsType[*smithy.OperationError](err); ok {
			return op.Err
		}
		return err
	}
	text := api.ErrorCode()
	if m := api.ErrorMessage(); m != "" {
		text += ": " + strings.TrimSuffix(m, ".")
	}
	if st := status(err); st != 0 {
		text += fmt.Sprintf(" (HTTP %d", st)
		if r, ok := errors.AsType[*awshttp.ResponseError](err); ok && r.RequestID != "" {
			text += ", request " + r.RequestID
		}
		text += ")"
	}
	return &answer{text, err}
}

// answer is a short text for a long error, which it keeps.
type answer struct {
	text string
	err  error
}

func (a *answer) Error() string { return a.text }
func (a *answer) Unwrap() error { return a.err }

// fail says what err means: its class, and what to try. A nil err, one that is described already, and the end of ctx
// stay what they are.
func (s *Store) fail(ctx context.Context, op, key string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*storage.Error](err); ok {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s %s: %w", op, key, context.Cause(ctx))
	}
	e := &storage.Error{Op: op, Store: s.name, Key: key, Err: brief(err)}
	if errors.Is(err, storage.ErrKey) {
		return e
	}
	e.Kind = kindOf(err)
	e.Advice = advise(e.Kind, err)
	if errors.Is(e.Kind, storage.ErrRegion) {
		if r, ok := errors.AsType[*smithyhttp.ResponseError](err); ok && r.Response != nil {
			if region := r.Response.Header.Get("X-Amz-Bucket-Region"); region != "" {
				e.Advice = "set the region to " + region
			}
		}
	}
	return e
}

// codes are the error codes that name their class by themselves.
var codes = map[string]error{
	"NoSuchKey": fs.ErrNotExist, "NoSuchVersion": fs.ErrNotExist, "NotFound": fs.ErrNotExist,
	"PreconditionFailed": storage.ErrExists,
	"NoSuchBucket":       storage.ErrNoBucket, "InvalidBucketName": storage.ErrNoBucket,
	"InvalidAccessKeyId":    storage.ErrAccessKey,
	"SignatureDoesNotMatch": storage.ErrSecretKey,
	"RequestTimeTooSkewed":  storage.ErrClock, "RequestInTheFuture": storage.ErrClock,
	"ExpiredToken": storage.ErrExpired, "ExpiredTokenException": storage.ErrExpired, "TokenRefreshRequired": storage.ErrExpired, "RequestExpired": storage.ErrExpired,
	"PermanentRedirect": storage.ErrRegion, "TemporaryRedirect": storage.ErrRegion, "AuthorizationHeaderMalformed": storage.ErrRegion,
	"IllegalLocationConstraintException": storage.ErrRegion,
	"AccessDenied":                       storage.ErrDenied, "AllAccessDisabled": storage.ErrDenied, "AccountProblem": storage.ErrDenied, "InvalidToken": storage.ErrDenied,
	"QuotaExceeded": storage.ErrFull, "InsufficientStorage": storage.ErrFull, "StorageFull": storage.ErrFull, "XMinioStorageFull": storage.ErrFull, "XMinioAdminBucketQuotaExceeded": storage.ErrFull,
	"InvalidObjectState": storage.ErrArchived, "NoSuchUpload": storage.ErrRefused,
	"ExistingObjectIsDirectory": storage.ErrKey, "ObjectParentIsFile": storage.ErrKey, "XMinioParentIsObject": storage.ErrKey,
}

// passing are the codes of answers below 500 that a second attempt may change.
var passing = map[string]bool{
	"RequestTimeout": true, "SlowDown": true, "Throttling": true, "ThrottlingException": true, "TooManyRequests": true, "OperationAborted": true,
	"ConditionalRequestConflict": true, "BadDigest": true, "XAmzContentSHA256Mismatch": true, "XAmzContentChecksumMismatch": true, "IncompleteBody": true,
}

var advice = map[error]string{
	storage.ErrAccessKey:     "check AWS_ACCESS_KEY_ID, the profile, or the access key in the configuration; with an endpoint, that it is the right server",
	storage.ErrSecretKey:     "check AWS_SECRET_ACCESS_KEY, the profile, or the secret in the configuration",
	storage.ErrExpired:       "renew them: aws sso login, or a new session token",
	storage.ErrClock:         "set this machine's clock: timedatectl shows whether it is synchronised",
	storage.ErrRegion:        "set region to the bucket's",
	storage.ErrNoBucket:      "check the bucket's name, or create it",
	storage.ErrDenied:        "check the policies of the user and of the bucket: putting needs s3:PutObject, s3:AbortMultipartUpload and s3:ListBucket, reading s3:GetObject, expiring s3:DeleteObject, s3:DeleteObjectVersion and s3:ListBucketVersions",
	storage.ErrFull:          "free some space there, or raise the quota",
	storage.ErrArchived:      "restore it from the archive in the storage console, then try again",
	storage.ErrCertificate:   "give the authority that signed it as ca",
	storage.ErrUnreachable:   "check the endpoint, the network, the name server and the proxy",
	storage.ErrNoCredentials: "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, choose a profile, or give the machine a role",
}

func advise(kind, err error) string {
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok || strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		return "the server speaks plain HTTP there: write the endpoint with http://"
	}
	return advice[kind]
}

// kindOf is the class of an error of the SDK, or nil if it has none.

func kindOf(err error) error {
	name, st := code(err), status(err)
	if kind := codes[name]; kind != nil {
		return kind
	}
	switch {
	case passing[name]:
		return nil
	case st == 0:
		return kindWithoutAnswer(err)
	case st == http.StatusNotFound:
		return fs.ErrNotExist
	case st == http.StatusUnauthorized, st == http.StatusForbidden:
		return storage.ErrDenied
	case st == http.StatusMovedPermanently, st == http.StatusTemporaryRedirect:
		return storage.ErrRegion
	case st == http.StatusPreconditionFailed:
		return storage.ErrExists
	case st == http.StatusInsufficientStorage:
		return storage.ErrFull
	case st == http.StatusRequestTimeout, st == http.StatusTooManyRequests, st >= 500 && st != http.StatusNotImplemented:
		return nil
	case st >= 300:
		return storage.ErrRefused
	}
	return nil
}

// kindWithoutAnswer classifies what went wrong before the server said anything.
func kindWithoutAnswer(err error) error {
	var (
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		verify    *tls.CertificateVerificationError
	)
	if errors.As(err, &authority) || errors.As(err, &host) || errors.As(err, &invalid) || errors.As(err, &verify) {
		return storage.ErrCertificate
	}
	text := err.Error()
	if strings.Contains(text, "get identity") {
		if strings.Contains(strings.ToLower(text), "expired") {
			return storage.ErrExpired
		}
		return storage.ErrNoCredentials
	}
	var network net.Error
	if errors.As(err, &network) || errors.Is(err, errStalled) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return storage.ErrUnreachable
	}
	if sent, ok := errors.AsType[*smithyhttp.RequestSendError](err); ok && sent.ConnectionError() {
		return storage.ErrUnreachable
	}
	return nil
}

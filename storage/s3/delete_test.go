package s3

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/storagetest"
)

func want(data []byte, o storage.Object) storage.Want {
	sum := sha256.Sum256(data)
	return storage.Want{Size: int64(len(data)), SHA256: hex.EncodeToString(sum[:]), Checksum: o.Checksum}
}

// versionsOf counts what a bucket keeps under key and below, markers included.
func versionsOf(t *testing.T, server storagetest.S3Server, bucket, key string) int {
	t.Helper()
	out, err := server.Client.ListObjectVersions(t.Context(), &s3.ListObjectVersionsInput{Bucket: &bucket, Prefix: &key})
	if err != nil {
		t.Fatal(err)
	}
	return len(out.Versions) + len(out.DeleteMarkers)
}

// Deleting in a bucket with versions removes all that is kept of the key, what others hid behind a marker too,
// and nothing of its neighbours.
func TestDeleteVersions(t *testing.T) {
	server := storagetest.StartS3(t, storagetest.S3Options{})
	bucket := server.VersionedBucket(t)
	s := adjusted(t, options(server, bucket))
	for range 2 {
		if _, err := server.Client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &bucket, Key: aws.String("k"), Body: strings.NewReader("x")}); err != nil {
			t.Fatal(err)
		}
		if _, err := server.Client.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &bucket, Key: aws.String("k")}); err != nil {
			t.Fatal(err)
		}
	}
	storagetest.Put(t, s, "k-2", []byte("y"))
	if n := versionsOf(t, server, bucket, "k"); n != 5 {
		t.Fatalf("the bucket keeps %d versions and markers, the test wants 5", n)
	}
	for range 2 {
		if err := s.Delete(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		if n := versionsOf(t, server, bucket, "k"); n != 1 {
			t.Errorf("%d versions and markers are left, want only the neighbour", n)
		}
	}
	if got := storagetest.Get(t, s, "k-2", 0); string(got) != "y" {
		t.Errorf("the neighbour is %q", got)
	}
}

func TestDeleteLocked(t *testing.T) {
	server := storagetest.StartS3(t, storagetest.S3Options{})
	bucket := server.LockedBucket(t)
	s := adjusted(t, options(server, bucket))
	tomorrow := time.Now().Add(24 * time.Hour)
	for name, lock := range map[string]func(key string) error{
		"retention": func(key string) error {
			_, err := server.Client.PutObjectRetention(t.Context(), &s3.PutObjectRetentionInput{
				Bucket: &bucket, Key: &key, Retention: &types.ObjectLockRetention{Mode: types.ObjectLockRetentionModeCompliance, RetainUntilDate: &tomorrow},
			})
			return err
		},
		"hold": func(key string) error {
			_, err := server.Client.PutObjectLegalHold(t.Context(), &s3.PutObjectLegalHoldInput{
				Bucket: &bucket, Key: &key, LegalHold: &types.ObjectLockLegalHold{Status: types.ObjectLockLegalHoldStatusOn},
			})
			return err
		},
		"default": func(key string) error { // for objects yet to come, and not to be seen at them
			_, err := server.Client.PutObjectLockConfiguration(t.Context(), &s3.PutObjectLockConfigurationInput{
				Bucket: &bucket, ObjectLockConfiguration: &types.ObjectLockConfiguration{
					ObjectLockEnabled: types.ObjectLockEnabledEnabled,
					Rule:              &types.ObjectLockRule{DefaultRetention: &types.DefaultRetention{Days: aws.Int32(1), Mode: types.ObjectLockRetentionModeCompliance}},
				},
			})
			if err != nil {
				return err
			}
			_, err = s.Put(t.Context(), key+"-later", strings.NewReader("x"))
			return err
		},
	} {
		storagetest.Put(t, s, name, []byte("x"))
		if err := lock(name); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		key := name
		if name == "default" {
			key += "-later"
		}
		err := s.Delete(t.Context(), key)
		if !errors.Is(err, storage.ErrLocked) || errors.Is(err, storage.ErrDenied) || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: delete: %v, want ErrLocked", name, err)
		}
		if got := storagetest.Get(t, s, key, 0); string(got) != "x" {
			t.Errorf("%s: after the refused delete it is %q", name, got)
		}
	}
}

// Other servers say it differently; some only deny access, and then the object shows its lock.
func TestDeleteLockedElsewhere(t *testing.T) {
	server := storagetest.StartS3(t, storagetest.S3Options{})
	for _, test := range []struct {
		status        int
		code, message string
		head          http.Header
		want          error
	}{
		{400, "InvalidRequest", "Object is WORM protected and cannot be overwritten", nil, storage.ErrLocked},
		{403, "AccessDenied", "Access Denied", http.Header{"X-Amz-Object-Lock-Legal-Hold": {"ON"}}, storage.ErrLocked},
		{403, "AccessDenied", "Access Denied", http.Header{
			"X-Amz-Object-Lock-Mode": {"GOVERNANCE"}, "X-Amz-Object-Lock-Retain-Until-Date": {time.Now().Add(time.Hour).UTC().Format(time.RFC3339)},
		}, storage.ErrLocked},
		{403, "AccessDenied", "Access Denied", http.Header{
			"X-Amz-Object-Lock-Mode": {"GOVERNANCE"}, "X-Amz-Object-Lock-Retain-Until-Date": {time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)},
		}, storage.ErrDenied},
		{403, "AccessDenied", "Access Denied", nil, storage.ErrDenied},
		{400, "InvalidRequest", "Missing parameter", nil, storage.ErrRefused},
	} {
		s := adjusted(t, options(server, server.Bucket(t)), through(func(next s3.HTTPClient, r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodDelete {
				return answerOf(r, test.status, test.code, test.message), nil
			}
			response, err := next.Do(r)
			if err == nil && r.Method == http.MethodHead {
				for name, values := range test.head {
					response.Header[name] = values
				}
			}
			return response, err
		}))
		storagetest.Put(t, s, "k", []byte("x"))
		if err := s.Delete(t.Context(), "k"); !errors.Is(err, test.want) {
			t.Errorf("%+v: %v", test, err)
		}
	}
}

// A user who may only add: everything that a backup needs works, whatever the size; deleting is denied, not locked.
func TestAppendOnly(t *testing.T) {
	server := storagetest.StartS3(t, storagetest.S3Options{})
	for name, actions := range map[string][]string{
		"put, list, read": {"s3:PutObject", "s3:GetObject", "s3:ListBucket"},
		"put, list":       {"s3:PutObject", "s3:ListBucket"},
	} {
		t.Run(name, func(t *testing.T) {
			bucket := server.Bucket(t)
			o := options(server, bucket)
			o.AccessKeyID, o.SecretAccessKey = server.User(t, bucket, actions...)
			s := adjusted(t, o)
			for _, size := range twoSizes {
				data := storagetest.Bytes(size, 1)
				key := "k/" + strings.Repeat("x", 1+size%5)
				stored := storagetest.Put(t, s, key, data)
				how, err := s.Confirm(t.Context(), key, want(data, stored))
				if err != nil || !strings.Contains(how, "CRC64NVME") {
					t.Errorf("confirm %d bytes: %q, %v", size, how, err)
				}
				wrong := want(data, stored)
				wrong.Size++
				if _, err := s.Confirm(t.Context(), key, wrong); !errors.Is(err, storage.ErrMismatch) {
					t.Errorf("confirm of another size: %v, want ErrMismatch", err)
				}
				if _, err := s.Put(t.Context(), key, bytes.NewReader(data)); !errors.Is(err, storage.ErrExists) {
					t.Errorf("put again: %v, want ErrExists", err)
				}
				err = s.Delete(t.Context(), key)
				if !errors.Is(err, storage.ErrDenied) || errors.Is(err, storage.ErrLocked) {
					t.Errorf("delete: %v, want ErrDenied", err)
				}
			}
			if n := versionsOf(t, server, bucket, "k"); n != len(twoSizes) {
				t.Errorf("%d objects are there, want %d", n, len(twoSizes))
			}
		})
	}
}

// Where versions cannot be listed, no marker is left behind all the same.
func TestDeleteWithoutListingVersions(t *testing.T) {
	server := storagetest.StartS3(t, storagetest.S3Options{})
	for status, code := range map[int]string{501: "NotImplemented", 403: "AccessDenied"} {
		bucket := server.Bucket(t)
		if status == 403 {
			bucket = server.VersionedBucket(t)
		}
		s := adjusted(t, options(server, bucket), through(func(next s3.HTTPClient, r *http.Request) (*http.Response, error) {
			if r.URL.Query().Has("versions") {
				return answerOf(r, status, code, "not for you"), nil
			}
			return next.Do(r)
		}))
		storagetest.Put(t, s, "k", []byte("x"))
		for range 2 {
			if err := s.Delete(t.Context(), "k"); err != nil {
				t.Errorf("%s: %v", code, err)
			}
			if n := versionsOf(t, server, bucket, "k"); n != 0 {
				t.Errorf("%s: %d versions and markers are left", code, n)
			}
		}
	}
}

package s3

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/requorum/requorum/storage"
)

// Delete implements [storage.Store]. It takes a request to list the versions and one for each of them.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := storage.CheckKey(key); err != nil {
		return s.fail(ctx, "delete", key, err)
	}
	versions, err := s.versions(ctx, key)
	if err != nil {
		return s.fail(ctx, "delete", key, err)
	}
	for _, version := range versions {
		_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.o.Bucket, Key: &key, VersionId: version})
		if err == nil {
			continue
		}
		failed := s.fail(ctx, "delete", key, err)
		switch {
		case errors.Is(failed, fs.ErrNotExist):
		case s.locked(ctx, key, version, err):
			return &storage.Error{Op: "delete", Store: s.name, Key: key, Kind: storage.ErrLocked, Err: brief(err), Advice: "it can go when its retention has passed or its hold is lifted"}
		default:
			return failed
		}
	}
	return nil
}

// versions returns the versions and delete markers of key, the oldest first: if one of them cannot be
// deleted, what was visible still is, and nothing that was hidden by a marker comes back. A nil entry stands for the
// object of a server or bucket without versions.
func (s *Store) versions(ctx context.Context, key string) ([]*string, error) {
	var newestFirst []*string
	in := &s3.ListObjectVersionsInput{Bucket: &s.o.Bucket, Prefix: &key}
	for {
		out, err := s.client.ListObjectVersions(ctx, in)
		if err != nil {
			return s.oneVersion(ctx, key, err)
		}
		past := false // the keys are listed in order
		for _, m := range out.DeleteMarkers {
			if aws.ToString(m.Key) == key {
				newestFirst = append(newestFirst, m.VersionId)
			} else {
				past = true
			}
		}
		for _, v := range out.Versions {
			if aws.ToString(v.Key) == key {
				newestFirst = append(newestFirst, v.VersionId)
			} else {
				past = true
			}
		}
		if past || !aws.ToBool(out.IsTruncated) {
			slices.Reverse(newestFirst)
			return newestFirst, nil
		}
		in.KeyMarker, in.VersionIdMarker = out.NextKeyMarker, out.NextVersionIdMarker
	}
}

// oneVersion finds the version to delete where versions cannot be listed: the server knows none, or the
// rights do not suffice.
func (s *Store) oneVersion(ctx context.Context, key string, err error) ([]*string, error) {
	switch {
	case status(err) == http.StatusNotImplemented, code(err) == "NotImplemented":
		return []*string{nil}, nil
	case code(err) != "AccessDenied":
		return nil, err
	}
	head, headErr := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.o.Bucket, Key: &key})
	switch {
	case status(headErr) == http.StatusNotFound:
		return nil, nil
	case headErr != nil:
		return nil, err // deleting blindly might leave a marker, and the object for ever
	}
	return []*string{head.VersionId}, nil
}

// locked reports whether a delete was refused because of a retention or a legal hold. Servers say so in different words, or
// just deny access; then the object itself is asked.
func (s *Store) locked(ctx context.Context, key string, version *string, err error) bool {
	if st := status(err); st != http.StatusForbidden && st != http.StatusBadRequest && st != http.StatusConflict {
		return false
	}
	text := strings.ToLower(brief(err).Error())
	for _, word := range []string{"object lock", "objectlock", "worm", "retention", "legal hold", "legalhold", "object is locked", "protected"} {
		if strings.Contains(text, word) {
			return true
		}
	}
	if aws.ToString(version) == "null" {
		version = nil // a bucket without versions, and not every server takes that name for the object
	}
	head, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.o.Bucket, Key: &key, VersionId: version})
	if err != nil {
		return false
	}
	held := head.ObjectLockLegalHoldStatus == "ON"
	kept := head.ObjectLockMode != "" && aws.ToTime(head.ObjectLockRetainUntilDate).After(serverTime(head.ResultMetadata))
	return held || kept
}

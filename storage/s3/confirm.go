package s3

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/requorum/requorum/storage"
)

// head asks for an object's size and checksum, repeating the request if need be.
func (s *Store) head(ctx context.Context, key string) (*s3.HeadObjectOutput, error) {
	var out *s3.HeadObjectOutput
	in := &s3.HeadObjectInput{Bucket: &s.o.Bucket, Key: &key}
	if s.mode().checksums {
		in.ChecksumMode = types.ChecksumModeEnabled
	}
	err := s.retry.Do(ctx, func() (err error) {
		out, err = s.client.HeadObject(ctx, in)
		return s.fail(ctx, "confirm", key, err)
	})
	return out, err
}

// fullChecksum is the checksum of the whole object as the server keeps it, or empty. One that is composed of those of
// parts says nothing about the whole.
func fullChecksum(head *s3.HeadObjectOutput) string {
	if head.ChecksumType == types.ChecksumTypeComposite {
		return ""
	}
	return aws.ToString(head.ChecksumCRC64NVME)
}

// Confirm implements [storage.Confirmer]. It asks for the size and the checksum that the server keeps. Credentials that
// may only put and list get the size from a listing and rely on the checksum that the server acknowledged when it
// stored the object. Where the server keeps none, the object is read back.
func (s *Store) Confirm(ctx context.Context, key string, want storage.Want) (string, error) {
	if err := storage.CheckKey(key); err != nil {
		return "", s.fail(ctx, "confirm", key, err)
	}
	mismatch := func(what, got, wanted any) error {
		return &storage.Error{Op: "confirm", Store: s.name, Key: key, Kind: storage.ErrMismatch, Err: fmt.Errorf("%v %v, expected %v", what, got, wanted)}
	}
	head, err := s.head(ctx, key)
	if errors.Is(err, storage.ErrDenied) && want.Checksum != "" {
		size, err := s.listedSize(ctx, key)
		if err == nil && size != want.Size {
			err = mismatch("size", size, want.Size)
		}
		return "server checksum " + algorithm + " acknowledged when stored, size listed", err
	}
	if err != nil {
		return "", err
	}
	if size := aws.ToInt64(head.ContentLength); size != want.Size {
		return "", mismatch("size", size, want.Size)
	}
	kept := fullChecksum(head)
	if kept == "" || want.Checksum == "" {
		return storage.ReadBack(ctx, storage.Retry(s, storage.RetryOptions{}), key, want)
	}
	if got := "crc64nvme:" + kept; got != want.Checksum {
		return "", mismatch("checksum", got, want.Checksum)
	}
	return "server checksum " + algorithm, nil
}

func (s *Store) listedSize(ctx context.Context, key string) (int64, error) {
	for o, err := range storage.Retry(s, storage.RetryOptions{}).List(ctx, key, "") {
		if err != nil {
			return 0, err
		}
		if o.Key == key {
			return o.Size, nil
		}
		break
	}
	return 0, s.fail(ctx, "confirm", key, &types.NoSuchKey{})
}

// Unfinished implements [storage.Sweeper]: the bucket's multipart uploads.
func (s *Store) Unfinished(ctx context.Context, prefix string) iter.Seq2[storage.Unfinished, error] {
	return func(yield func(storage.Unfinished, error) bool) {
		in := &s3.ListMultipartUploadsInput{Bucket: &s.o.Bucket, Prefix: optional(prefix)}
		for {
			var out *s3.ListMultipartUploadsOutput
			err := s.retry.Do(ctx, func() (err error) {
				out, err = s.client.ListMultipartUploads(ctx, in)
				return s.fail(ctx, "sweep", prefix, err)
			})
			if err != nil {
				yield(storage.Unfinished{}, err)
				return
			}
			now := serverTime(out.ResultMetadata)
			for _, u := range out.Uploads {
				begun := aws.ToTime(u.Initiated)
				if !yield(storage.Unfinished{Key: aws.ToString(u.Key), ID: aws.ToString(u.UploadId), Started: begun, Age: max(0, now.Sub(begun))}, nil) {
					return
				}
			}
			if !aws.ToBool(out.IsTruncated) {
				return
			}
			in.KeyMarker, in.UploadIdMarker = out.NextKeyMarker, out.NextUploadIdMarker
		}
	}
}

// Abort implements [storage.Sweeper].
func (s *Store) Abort(ctx context.Context, u storage.Unfinished) error {
	return s.retry.Do(ctx, func() error {
		_, err := s.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &s.o.Bucket, Key: &u.Key, UploadId: &u.ID})
		if code(err) == "NoSuchUpload" || status(err) == http.StatusNotFound && code(err) != "NoSuchBucket" {
			return nil
		}
		return s.fail(ctx, "sweep", u.Key, err)
	})
}

// Now implements [storage.Sweeper]: the Date of an answer, to the second.
func (s *Store) Now(ctx context.Context) (time.Time, error) {
	var now time.Time
	err := s.retry.Do(ctx, func() error {
		out, err := s.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &s.o.Bucket, Prefix: optional(s.o.Prefix), MaxKeys: aws.Int32(1)})
		if err != nil {
			return s.fail(ctx, "ask the clock", "", err)
		}
		if now = serverTime(out.ResultMetadata); now.IsZero() {
			return s.fail(ctx, "ask the clock", "", errors.New("the answer has no Date"))
		}
		return nil
	})
	return now, err
}

package s3

import (
	"testing"

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

func TestStore(t *testing.T) {
	server := storagetest.StartS3(t, storagetest.S3Options{})
	storagetest.Run(t, func(t *testing.T) storage.Store {
		return opened(t, options(server, server.Bucket(t)))
	})
}

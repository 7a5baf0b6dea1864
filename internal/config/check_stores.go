package config

import (
	"os"
	"slices"
	"strings"
)

// encryptions are the server-side encryptions that S3 knows by name.
var encryptions = []string{"AES256", "aws:kms", "aws:kms:dsse"}

func (k *checker) store(key string, s *Store) {
	kinds := 0
	for _, kind := range []string{"s3", "file"} {
		if k.written(key + "." + kind) {
			kinds++
		}
	}
	if kinds != 1 && (kinds > 1 || !k.faulty(key) && !k.reported(key)) {
		k.add(key, "a store is of exactly one kind", "write s3 or file")
	}
	if s.S3 != nil {
		k.s3(key+".s3", *s.S3)
	}
}

func (k *checker) s3(key string, s S3) {
	if strings.ContainsAny(s.Bucket, "/: \t") {
		k.add(key+".bucket", quote(s.Bucket)+" is no bucket's name", "write the name alone; what follows a / is the prefix")
	}
	if s.Prefix != "" {
		k.objectPath(key+".prefix", s.Prefix)
	}
	if k.written(key+".ca") && s.Endpoint != "" && !s.Endpoint.HTTPS() {
		k.add(key+".ca", "the endpoint is http, so no certificate is checked", "write the endpoint with https, or remove ca")
	}
	secret := k.written(key+".secret_key") || k.written(key+".secret_key_file")
	switch {
	case k.written(key+".secret_key") && k.written(key+".secret_key_file"):
		k.add(key+".secret_key_file", "secret_key and secret_key_file are both written", "keep secret_key_file")
	case k.written(key+".access_key") && !secret:
		k.add(key+".access_key", "there is an access key and no secret key", "add secret_key_file")
	case secret && !k.written(key+".access_key"):
		k.add(key, "there is a secret key and no access key", "add access_key")
	case k.written(key+".session_token") && !secret:
		k.add(key+".session_token", "there is a session token and no secret key", "add access_key and secret_key_file")
	}
	if k.written(key+".profile") && k.written(key+".access_key") {
		k.add(key+".profile", "profile and access_key are both written", "keep one: a profile brings its own keys")
	}
	if s.SSE != "" && !slices.Contains(encryptions, s.SSE) {
		k.add(key+".sse", quote(s.SSE)+" is no server-side encryption", "write one of "+join(encryptions))
	}
	if k.written(key+".kms_key") && !strings.HasPrefix(s.SSE, "aws:kms") {
		k.add(key+".kms_key", "a KMS key is used only with sse: aws:kms", "add it or remove kms_key")
	}
	if s.StorageClass == "GLACIER" || s.StorageClass == "DEEP_ARCHIVE" {
		k.warn(key+".storage_class", "objects in "+s.StorageClass+" cannot be read until S3 has brought them back, which takes hours", "a verification or a restore would fail meanwhile; use another class, such as GLACIER_IR")
	}
	k.exposed(key+".secret_key_file", s.SecretKeyFile)
}

// exposed warns of a secret's file that everyone on the machine may read.
func (k *checker) exposed(key string, f File) {
	if f == "" {
		return
	}
	if info, err := os.Stat(string(f)); err == nil && info.Mode().Perm()&0o004 != 0 {
		k.warn(key, "everyone on this machine may read "+string(f), "chmod 600 "+string(f))
	}
}

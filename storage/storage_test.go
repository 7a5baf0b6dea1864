package storage_test

import (
	"errors"
	"io/fs"
	"net/url"
	"strings"
	"testing"

	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/memory"
	"github.com/requorum/requorum/storage/storagetest"
)

func TestError(t *testing.T) {
	cause := errors.New("HTTP 403")
	err := error(&storage.Error{Op: "put", Store: "s3://b", Key: "dcs/x", Kind: storage.ErrDenied, Err: cause, Advice: "ask an administrator"})
	if got, want := err.Error(), "put dcs/x in s3://b: access denied: HTTP 403 (ask an administrator)"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if !errors.Is(err, storage.ErrDenied) || !errors.Is(err, cause) || errors.Is(err, storage.ErrLocked) {
		t.Error("it must match its class and its cause, and no other class")
	}
	err = &storage.Error{Op: "get", Store: "file:///b", Key: "k", Kind: fs.ErrNotExist, Err: errors.New("open /b/k: no such file or directory")}
	if got, want := err.Error(), "get k in file:///b: no such object"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestPermanent(t *testing.T) {
	for err, want := range map[error]bool{
		storage.ErrExists: true, storage.ErrExpired: true, fs.ErrNotExist: true,
		storage.ErrUnreachable: false, errors.New("HTTP 503"): false,
	} {
		if got := storage.Permanent(&storage.Error{Op: "get", Kind: err}); got != want {
			t.Errorf("%v: permanent %v, want %v", err, got, want)
		}
	}
}

func TestParseURL(t *testing.T) {
	for raw, want := range map[string]string{
		"s3://bucket/a/b?region=eu-central-1": "",
		"file:///srv/backups":                 "",
		"/srv/backups":                        "no scheme",
		"":                                    "no scheme",
		"s3://KEY:SECRET@bucket/x":            "holds credentials",
		"s3:bucket":                           "two slashes",
		"s3://bucket/a#b":                     "%23",
		"s3://bad host/":                      "invalid character",
	} {
		u, err := storage.ParseURL(raw)
		switch {
		case want == "" && (err != nil || u.String() != raw):
			t.Errorf("%s: %v, %v", raw, u, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want an error with %q", raw, err, want)
		case err != nil && strings.Contains(err.Error(), "SECRET"):
			t.Errorf("the error repeats the secret: %v", err)
		}
	}
	if _, err := storage.ParseURL("s3://KEY:SECRET@bucket/%zz"); err == nil || strings.Contains(err.Error(), "SECRET") {
		t.Errorf("an unreadable URL: %v", err)
	}
}

func TestQuery(t *testing.T) {
	for raw, want := range map[string]string{
		"a=1&b=2": "", "": "", "a=1&a=2": "given 2 times", "c=3": `unknown parameter "c"; known are: a, b`, "a=": "no value", "a=%zz": "invalid",
	} {
		q, err := storage.Query(&url.URL{Scheme: "s3", Host: "bucket", RawQuery: raw}, "a", "b")
		if want == "" && (err != nil || raw != "" && (q["a"] != "1" || q["b"] != "2")) {
			t.Errorf("%q: %v, %v", raw, q, err)
		}
		if want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want an error with %q", raw, err, want)
		}
	}
}

func FuzzCheckKey(f *testing.F) {
	for _, key := range []string{"", "a", "a/b", "../x", "a//b", ".x", "a/..", "\x00", "ü"} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		err := storage.CheckKey(key)
		if err != nil {
			if !errors.Is(err, storage.ErrKey) {
				t.Errorf("%q: %v is not ErrKey", key, err)
			}
			return
		}
		if key == "" || fs.ValidPath(key) == false || strings.Contains("/"+key, "/.") {
			t.Errorf("%q was taken for a key", key)
		}
	})
}

// A store that can neither confirm nor sweep still works under every decorator.
func TestPlainStore(t *testing.T) {
	type plain struct{ storage.Store }
	s := storage.Retry(storage.Prefix(plain{memory.New(nil)}, "p"), storage.RetryOptions{})
	storagetest.Put(t, s, "k", []byte("abc"))
	want := storage.Want{Size: 3, SHA256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
	if how, err := storage.Confirm(t.Context(), s, "k", want); err != nil || how != "read back sha256" {
		t.Errorf("confirm: %q, %v", how, err)
	}
	for u, err := range storage.AsSweeper(s).Unfinished(t.Context(), "") {
		t.Errorf("unfinished: %v, %v", u, err)
	}
	if _, err := storage.AsSweeper(s).Now(t.Context()); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("the clock of a store without one: %v", err)
	}
}

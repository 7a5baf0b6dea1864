package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/storagetest"
)

// twoSizes are objects of one request and of several parts.
var twoSizes = []int{100_000, 2*partSize + 1000}

// clean fails the test unless the bucket has no objects and no unfinished uploads.
func clean(t *testing.T, s *Store) {
	t.Helper()
	if keys := storagetest.Keys(t, s, "", ""); len(keys) > 0 {
		t.Errorf("visible: %q", keys)
	}
	for u, err := range s.Unfinished(t.Context(), "") {
		t.Errorf("unfinished: %+v, %v", u, err)
	}
}

func step(r *http.Request) string {
	q := r.URL.Query()
	switch {
	case r.Method == http.MethodPut && q.Has("partNumber"):
		return "part"
	case r.Method == http.MethodPut:
		return "put"
	case r.Method == http.MethodPost && q.Has("uploads"):
		return "begin"
	case r.Method == http.MethodPost:
		return "complete"
	case r.Method == http.MethodDelete && q.Has("uploadId"):
		return "abort"
	}
	return r.Method
}

// An answer that is lost makes us repeat a request that was carried out: whatever the server says then, the Put
// has succeeded.
func TestLostAnswers(t *testing.T) {
	server := storagetest.StartS3(t, storagetest.S3Options{})
	for _, lost := range []string{"put", "begin", "part", "complete"} {
		for _, size := range twoSizes {
			var drops, seen atomic.Int64
			drops.Store(2)
			s := adjusted(t, options(server, server.Bucket(t)), through(func(next s3.HTTPClient, r *http.Request) (*http.Response, error) {
				response, err := next.Do(r)
				if err == nil && step(r) == lost {
					seen.Add(1)
					if drops.Add(-1) >= 0 {
						_ = response.Body.Close()
						return nil, errors.New("read tcp: connection reset by peer")
					}
				}
				return response, err
			}))
			data := storagetest.Bytes(size, 1)
			o, err := s.Put(t.Context(), "k", bytes.NewReader(data))
			if err != nil || o.Size != int64(size) || o.Checksum != checksumOf(s.crc.of(data)) {
				t.Errorf("%d bytes, answer to %s lost: %+v, %v", size, lost, o, err)
				continue
			}
			if !bytes.Equal(storagetest.Get(t, s, "k", 0), data) {
				t.Errorf("%d bytes, answer to %s lost: other bytes were stored", size, lost)
			}
			if (lost == "put") == (size == twoSizes[0]) && seen.Load() < 2 {
				t.Errorf("%d bytes: %s was sent %d times: the test lost nothing", size, lost, seen.Load())
			}
		}
	}
}

// The same, but someone else has put other bytes under the key meanwhile: that is not ours.
func TestLostAnswerAndRival(t *testing.T) {
	server := storagetest.StartS3(t, storagetest.S3Options{})
	for _, size := range twoSizes {
		bucket := server.Bucket(t)
		rival := adjusted(t, options(server, bucket))
		var once sync.Once
		s := adjusted(t, options(server, bucket), through(func(next s3.HTTPClient, r *http.Request) (*http.Response, error) {
			var err error
			if what := step(r); what == "put" || what == "complete" {
				once.Do(func() {
					storagetest.Put(t, rival, "k", storagetest.Bytes(size, 99))
					err = errors.New("write tcp: broken pipe")
				})
			}
			if err != nil {
				return nil, err
			}
			return next.Do(r)
		}))
		if _, err := s.Put(t.Context(), "k", bytes.NewReader(storagetest.Bytes(size, 1))); !errors.Is(err, storage.ErrExists) {
			t.Errorf("%d bytes: %v, want ErrExists", size, err)
		}
		if !bytes.Equal(storagetest.Get(t, rival, "k", 0), storagetest.Bytes(size, 99)) {
			t.Errorf("%d bytes: the rival's object was overwritten", size)
		}
		for u, err := range rival.Unfinished(t.Context(), "") {
			t.Errorf("%d bytes: left %+v, %v", size, u, err)
		}
	}
}

// Connections that are reset while the bytes go up are made anew, part by part.
func TestConnectionCut(t *testing.T) {
	server := storagetest.StartS3(t, storagetest.S3Options{})
	proxy := etcdtest.NewProxy(t, server.Addr)
	o := options(server, server.Bucket(t))
	direct := adjusted(t, o)
	o.Endpoint = "http://" + proxy.Addr()
	s := adjusted(t, o)
	s.retry.Wait, s.retry.MaxWait = 10*time.Millisecond, 50*time.Millisecond
	data := storagetest.Bytes(5*partSize+1, 1)

	proxy.Set(etcdtest.Fault{CutUp: partSize + partSize/2})
	if _, err := s.Put(t.Context(), "k", bytes.NewReader(data)); err != nil {
		t.Errorf("with connections that last for a part and a half: %v", err)
	} else if !bytes.Equal(storagetest.Get(t, direct, "k", 0), data) {
		t.Error("with connections that are cut: other bytes were stored")
	}
	if err := direct.Delete(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}

	// Cut for good half-way through the upload: not even the abort gets through.
	read := 0
	r := readerFunc(func(p []byte) (int, error) {
		if read += len(p); read > 3*partSize {
			proxy.Set(etcdtest.Fault{Refuse: true})
			proxy.Reset()
		}
		return len(p), nil
	})
	_, err := s.Put(t.Context(), "k", io.LimitReader(r, 10*partSize))
	if !errors.Is(err, storage.ErrUnreachable) {
		t.Errorf("cut off for good: %v, want ErrUnreachable", err)
	}
	if keys := storagetest.Keys(t, direct, "", ""); len(keys) > 0 {
		t.Errorf("an upload that was cut off is visible: %q", keys)
	}
	swept := 0
	for u, err := range direct.Unfinished(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if u.Key != "k" || u.Age < 0 || u.Age > time.Minute {
			t.Errorf("unfinished: %+v", u)
		}
		if err := direct.Abort(t.Context(), u); err != nil {
			t.Fatal(err)
		}
		swept++
	}
	if swept != 1 {
		t.Errorf("%d unfinished uploads were found, want 1", swept)
	}
	clean(t, direct)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// A connection over which nothing moves is given up; one that is slow but moves is not.
func TestStall(t *testing.T) {
	server := storagetest.StartS3(t, storagetest.S3Options{})
	proxy := etcdtest.NewProxy(t, server.Addr)
	o := options(server, server.Bucket(t))
	o.Endpoint = "http://" + proxy.Addr()
	const patience = 500 * time.Millisecond
	s := adjusted(t, o, func(c *s3.Options) {
		w, ok := c.HTTPClient.(*watchdog)
		if !ok {
			t.Fatalf("the HTTP client is %T", c.HTTPClient)
		}
		w.stall, w.assemble = patience, patience
	})
	// Of a busy machine's own making a stall may be at any moment, but not at every one: what it spoils is tried again, and what never
	// succeeds is wrong.
	s.retry.Attempts = 100
	again := func(what string, try func() bool) {
		t.Helper()
		for deadline := time.Now().Add(3 * time.Minute); !try(); {
			if time.Now().After(deadline) {
				t.Fatalf("it never happens: %s", what)
			}
		}
	}
	read := func(key string) ([]byte, error) {
		r, err := s.Get(t.Context(), key, 0)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return io.ReadAll(r)
	}
	data := storagetest.Bytes(1<<20, 1)

	proxy.Set(etcdtest.Fault{UpRate: 512 << 10})
	begun := time.Now()
	storagetest.Put(t, s, "slow", data)
	if took := time.Since(begun); took < 2*patience {
		t.Errorf("the slow upload took only %v: it proves nothing", took)
	}
	proxy.Set(etcdtest.Fault{DownRate: 512 << 10})
	again("a slow download", func() bool {
		begun := time.Now()
		got, err := read("slow")
		if errors.Is(err, errStalled) {
			return false
		}
		if took := time.Since(begun); err != nil || !bytes.Equal(got, data) || took < 2*patience {
			t.Fatalf("the slow download gave %d bytes of %d in %v, %v", len(got), len(data), took, err)
		}
		return true
	})

	// The upload stalls until the proxy heals, when the request has been given up and sent again.
	proxy.Set(etcdtest.Fault{StallUp: 300 << 10})
	heal := time.AfterFunc(patience*3/2, func() { proxy.Set(etcdtest.Fault{}); proxy.Reset() })
	defer heal.Stop()
	before := proxy.Connections()
	storagetest.Put(t, s, "stalled", data)
	if proxy.Connections() == before {
		t.Error("no new connection was made")
	}

	// A download that stalls ends with an error; the decorator then goes on where it broke.
	proxy.Set(etcdtest.Fault{StallDown: 300 << 10})
	proxy.Reset()
	again("a download that stalls on its way", func() bool {
		got, err := read("slow")
		if !errors.Is(err, storage.ErrUnreachable) || !errors.Is(err, errStalled) {
			t.Fatalf("a stalled download ended after %d bytes with %v", len(got), err)
		}
		return len(got) > 0
	})
	retry := storage.Retry(s, storage.RetryOptions{Attempts: 100, Wait: time.Millisecond, MaxWait: time.Millisecond})
	if got := storagetest.Get(t, retry, "slow", 0); !bytes.Equal(got, data) {
		t.Errorf("resumed again and again: %d bytes of %d", len(got), len(data))
	}

	// A server that never answers.
	proxy.Set(etcdtest.Fault{Stall: true})
	for op, call := range operations {
		if err := call(t.Context(), adjustedOnce(s)); !errors.Is(err, storage.ErrUnreachable) {
			t.Errorf("%s without an answer: %v, want ErrUnreachable", op, err)
		}
	}
}

// adjustedOnce is s without patience.
func adjustedOnce(s *Store) *Store {
	return &Store{client: s.client, o: s.o, name: s.name, crc: s.crc, retry: storage.RetryOptions{Attempts: 1}}
}

// answerOf is a server's refusal.
func answerOf(r *http.Request, status int, code, message string) *http.Response {
	return &http.Response{
		StatusCode: status, Status: http.StatusText(status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r, Header: http.Header{},
		Body: io.NopCloser(strings.NewReader(fmt.Sprintf("<Error><Code>%s</Code><Message>%s</Message></Error>", code, message))),
	}
}

// Servers that lack a part of the protocol are served without it, and what exists is still not overwritten.
func TestLesserServers(t *testing.T) {
	server := storagetest.StartS3(t, storagetest.S3Options{})
	has := func(r *http.Request, header string) bool {
		for name := range r.Header {
			if strings.Contains(strings.ToLower(name), header) {
				return true
			}
		}
		return false
	}
	noConditions := func(next s3.HTTPClient, r *http.Request) (*http.Response, error) {
		if has(r, "if-none-match") {
			return answerOf(r, 501, "NotImplemented", "A header you provided implies functionality that is not implemented"), nil
		}
		return next.Do(r)
	}
	noChecksums := func(next s3.HTTPClient, r *http.Request) (*http.Response, error) {
		if has(r, "x-amz-checksum") {
			return answerOf(r, 400, "InvalidRequest", "Checksum algorithm is not supported"), nil
		}
		return next.Do(r)
	}
	for name, lacks := range map[string][]func(s3.HTTPClient, *http.Request) (*http.Response, error){
		"no conditions": {noConditions}, "no checksums": {noChecksums}, "neither": {noConditions, noChecksums},
	} {
		t.Run(name, func(t *testing.T) {
			adjust := []func(*s3.Options){}
			for _, f := range lacks {
				adjust = append(adjust, through(f))
			}
			s := adjusted(t, options(server, server.Bucket(t)), adjust...)
			for _, size := range twoSizes {
				data := storagetest.Bytes(size, 1)
				key := fmt.Sprint("k", size)
				o := storagetest.Put(t, s, key, data)
				if !bytes.Equal(storagetest.Get(t, s, key, 0), data) {
					t.Errorf("%d bytes: others were stored", size)
				}
				for _, other := range twoSizes {
					if _, err := s.Put(t.Context(), key, bytes.NewReader(storagetest.Bytes(other, 2))); !errors.Is(err, storage.ErrExists) {
						t.Errorf("put of %d bytes over %d: %v, want ErrExists", other, size, err)
					}
				}
				how, err := s.Confirm(t.Context(), key, want(data, o))
				if err != nil || name != "no conditions" && how != "read back sha256" {
					t.Errorf("confirm: %q, %v", how, err)
				}
			}
			for u, err := range s.Unfinished(t.Context(), "") {
				t.Errorf("left %+v, %v", u, err)
			}
		})
	}
}

// What the options say is in the requests that create an object.
func TestUploadHeaders(t *testing.T) {
	server := storagetest.StartS3(t, storagetest.S3Options{})
	o := options(server, server.Bucket(t))
	o.StorageClass, o.KMSKey = "STANDARD_IA", "alias/backups"
	var mu sync.Mutex
	headers := map[string]http.Header{}
	s := adjusted(t, o, through(func(next s3.HTTPClient, r *http.Request) (*http.Response, error) {
		mu.Lock()
		headers[step(r)] = r.Header.Clone()
		mu.Unlock()
		for name := range r.Header {
			if strings.HasPrefix(name, "X-Amz-Server-Side") || name == "X-Amz-Storage-Class" {
				return nil, storage.ErrRefused // this server has neither
			}
		}
		return next.Do(r)
	}))
	for _, size := range twoSizes {
		if _, err := s.Put(t.Context(), fmt.Sprint("k", size), bytes.NewReader(make([]byte, size))); err == nil {
			t.Error("the request was not stopped")
		}
	}
	for _, what := range []string{"put", "begin"} {
		for name, want := range map[string]string{
			"X-Amz-Storage-Class": "STANDARD_IA", "X-Amz-Server-Side-Encryption": "aws:kms", "X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id": "alias/backups",
		} {
			if got := headers[what].Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", what, name, got, want)
			}
		}
	}
	if headers["put"].Get("If-None-Match") != "*" || headers["put"].Get("X-Amz-Checksum-Crc64nvme") == "" {
		t.Errorf("put without condition or checksum: %v", headers["put"])
	}
	if headers["begin"].Get("X-Amz-Checksum-Type") != "FULL_OBJECT" {
		t.Errorf("multipart without a checksum of the whole: %v", headers["begin"])
	}
}

// Bytes that are damaged on their way are refused by the server, and sent again.
func TestDamagedOnTheWay(t *testing.T) {
	server := storagetest.StartS3(t, storagetest.S3Options{TLS: true}) // over plain HTTP the signature would notice
	var damage atomic.Int64
	s := adjusted(t, options(server, server.Bucket(t)), through(func(next s3.HTTPClient, r *http.Request) (*http.Response, error) {
		if what := step(r); (what == "put" || what == "part") && damage.Add(-1) >= 0 {
			b, err := io.ReadAll(r.Body)
			if err != nil {
				return nil, err
			}
			b[len(b)/2] ^= 1
			r = r.Clone(r.Context())
			r.Body = io.NopCloser(bytes.NewReader(b))
		}
		return next.Do(r)
	}))
	for _, size := range twoSizes {
		damage.Store(2)
		data := storagetest.Bytes(size, 1)
		key := fmt.Sprint("k", size)
		storagetest.Put(t, s, key, data)
		if !bytes.Equal(storagetest.Get(t, s, key, 0), data) {
			t.Errorf("%d bytes: damaged ones were stored", size)
		}
		if damage.Load() >= 0 {
			t.Error("nothing was damaged")
		}
	}
}

// Memory does not grow with the object.
func TestBoundedMemory(t *testing.T) {
	server := storagetest.StartS3(t, storagetest.S3Options{})
	s := adjusted(t, options(server, server.Bucket(t)))
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	var most uint64
	read, next := 0, 0
	block := storagetest.Bytes(1<<20, 1)
	r := readerFunc(func(p []byte) (int, error) {
		n := copy(p, block)
		if read += n; read >= next {
			next += 8 << 20
			runtime.ReadMemStats(&now)
			most = max(most, now.HeapInuse)
		}
		return n, nil
	})
	const size = 300 << 20
	if _, err := s.Put(t.Context(), "k", io.LimitReader(r, size)); err != nil {
		t.Fatal(err)
	}
	if grown := int64(most) - int64(before.HeapInuse); grown > inFlight*partSize+24<<20 {
		t.Errorf("the heap grew by %d MiB for an object of %d MiB", grown>>20, size>>20)
	} else {
		t.Logf("the heap grew by %d MiB", grown>>20)
	}
}

func TestTooLarge(t *testing.T) {
	if limit := int64(partSize) * maxParts; limit < 100e9 {
		t.Errorf("parts hold only %d bytes, less than 100 GB", limit)
	}
	if inFlight*partSize > 64<<20 {
		t.Error("the parts in memory are more than 64 MiB")
	}
}

// Several uploads at once do not get into each other's buffers.
func TestUploadsAtOnce(t *testing.T) {
	server := storagetest.StartS3(t, storagetest.S3Options{})
	s := adjusted(t, options(server, server.Bucket(t)))
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			data := storagetest.Bytes(2*partSize+i*1000, uint64(i))
			key := fmt.Sprint("k", i)
			if _, err := s.Put(t.Context(), key, bytes.NewReader(data)); err != nil {
				t.Error(err)
				return
			}
			if !bytes.Equal(storagetest.Get(t, s, key, 0), data) {
				t.Errorf("%s holds other bytes", key)
			}
		})
	}
	wg.Wait()
}

// After an abort the upload is gone, and a second one finds nothing to do.
func TestUnfinished(t *testing.T) {
	server := storagetest.StartS3(t, storagetest.S3Options{})
	bucket := server.Bucket(t)
	s := adjusted(t, options(server, bucket))
	for _, key := range []string{"a/1", "a/2", "b/1"} {
		if _, err := server.Client.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: &bucket, Key: aws.String(key)}); err != nil {
			t.Fatal(err)
		}
	}
	sweep := func(prefix string) (keys []string) {
		for u, err := range storage.Prefix(s, "a").(storage.Sweeper).Unfinished(t.Context(), prefix) {
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, u.Key)
			if err := storage.AsSweeper(storage.Prefix(s, "a")).Abort(t.Context(), u); err != nil {
				t.Fatal(err)
			}
			if err := storage.AsSweeper(storage.Prefix(s, "a")).Abort(t.Context(), u); err != nil {
				t.Errorf("a second abort: %v", err)
			}
		}
		slices.Sort(keys)
		return keys
	}
	if got := sweep(""); !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("swept %q", got)
	}
	if got := sweep(""); len(got) > 0 {
		t.Errorf("swept %q again", got)
	}
}

func TestCancelledWhileSending(t *testing.T) {
	server := storagetest.StartS3(t, storagetest.S3Options{})
	for _, at := range []string{"put", "begin", "part"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("SIGTERM")
		s := adjusted(t, options(server, server.Bucket(t)), through(func(next s3.HTTPClient, r *http.Request) (*http.Response, error) {
			if step(r) == at {
				cancel(why)
			}
			return next.Do(r)
		}))
		for _, size := range twoSizes {
			if (at == "put") != (size == twoSizes[0]) {
				continue
			}
			if _, err := s.Put(ctx, "k", bytes.NewReader(make([]byte, size))); !errors.Is(err, why) {
				t.Errorf("cancelled during %s: %v, want the cause", at, err)
			}
			if at != "put" && at != "begin" {
				clean(t, s)
			} else if keys := storagetest.Keys(t, s, "", ""); len(keys) > 0 {
				t.Errorf("cancelled during %s: visible %q", at, keys)
			}
		}
	}
}

package bench

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/requorum/requorum/storage/catalog"
)

// BenchmarkList compares requorum list, the whole command, with a bare loop over ListObjectsV2, and counts its requests.
func BenchmarkList(b *testing.B) {
	s := readSettings(b)
	to := newBucket(b)
	backups := int(s.of(10_000))
	objects := to.fake(b, backups)
	counter := count(b, to.server.Endpoint)

	c := comparison{what: fmt.Sprintf("list of %d backups: %d objects", backups, objects), oursIs: "requorum list", baseIs: "ListObjectsV2 loop", unit: "s", target: 1.2}
	list := func(endpoint string) execution {
		server := to.server
		server.Endpoint = endpoint
		t := newTask(b, requorum(b), "list", "dcs", "-q", "-o", "json", "--store", server.URL(to.name))
		t.Env = append(os.Environ(), server.Environ()...)
		return t.run(b)
	}
	bare := func() (seconds float64, found, requests int) {
		prefix := "dcs/" + catalog.SnapshotsPrefix
		begun := time.Now()
		client := to.server.As(b, to.server.AccessKey, to.server.SecretKey) // connects anew, as a command does
		pages := s3.NewListObjectsV2Paginator(client, &s3.ListObjectsV2Input{Bucket: &to.name, Prefix: &prefix})
		for pages.HasMorePages() {
			page, err := pages.NextPage(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			requests++
			found += len(page.Contents)
		}
		return time.Since(begun).Seconds(), found, requests
	}
	var loop int
	c.compare(s.pairs, func() float64 {
		e := list(to.server.Endpoint)
		var rows []struct{ ID string }
		if err := json.Unmarshal(e.stdout, &rows); err != nil {
			b.Fatal(err)
		}
		if len(rows) != backups {
			b.Fatalf("%d backups are listed, and there are %d", len(rows), backups)
		}
		return e.seconds
	}, func() float64 {
		seconds, found, requests := bare()
		if found != objects {
			b.Fatalf("the loop finds %d objects, and there are %d", found, objects)
		}
		loop = requests
		return seconds
	})
	list(counter.endpoint)
	lists, others := counter.counts()
	c.remark("%-26s %d listings, %d others; the loop makes %d", "requests of requorum list", lists, others, loop)
	c.report(b)
	if others != 0 {
		b.Errorf("requorum list made %d requests that are no listings", others)
	}
}

// fake puts the objects of n backups into the bucket, empty: nobody reads them. They are written behind the server's back, which
// takes seconds instead of minutes.
func (to bucket) fake(b *testing.B, n int) (objects int) {
	b.Helper()
	line := catalog.NewID(catalog.KindLine)
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range n {
		snap := catalog.NewSnapshot(line, began.Add(time.Duration(i)*time.Hour), int64(i+1)*1000, true)
		for _, key := range []string{snap.DataKey(), snap.FactsKey(), snap.ManifestKey()} {
			path := filepath.Join(to.server.Data, to.name, "dcs", filepath.FromSlash(key))
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				b.Fatal(err)
			}
			if err := os.WriteFile(path, []byte("{}"), 0o600); err != nil {
				b.Fatal(err)
			}
			objects++
		}
	}
	return objects
}

// A requestCounter stands in front of an S3 server.
type requestCounter struct {
	endpoint string

	mu            sync.Mutex
	lists, others int
}

func count(b *testing.B, endpoint string) *requestCounter {
	b.Helper()
	target, err := url.Parse(endpoint)
	if err != nil {
		b.Fatal(err)
	}
	c := &requestCounter{}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host // it is signed
	}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		if r.Method == http.MethodGet && r.URL.Query().Get("list-type") == "2" {
			c.lists++
		} else {
			c.others++
		}
		c.mu.Unlock()
		proxy.ServeHTTP(w, r)
	}))
	b.Cleanup(server.Close)
	c.endpoint = server.URL
	return c
}

func (c *requestCounter) counts() (lists, others int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lists, c.others
}

package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
	"github.com/requorum/requorum/storage/storagetest"
)

// scrape reads the metrics of a replica, sums of each name; nil when it does not answer.
func scrape(port int) map[string]float64 {
	text := page(port, "/metrics")
	if text == "" {
		return nil
	}
	sums := map[string]float64{}
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		v, err := strconv.ParseFloat(value, 64)
		if !ok || err != nil || strings.HasPrefix(name, "#") {
			continue
		}
		name, _, _ = strings.Cut(name, "{")
		sums[name] += v
	}
	return sums
}

// TestSoak lets three replicas back three members up every five seconds, under load, while members, the store and replicas fail at random.
// REQUORUM_SOAK says for how long, REQUORUM_SOAK_SEED gives the same faults again. `make soak` runs it.
func TestSoak(t *testing.T) {
	length, err := time.ParseDuration(os.Getenv("REQUORUM_SOAK"))
	if err != nil {
		t.Skip("REQUORUM_SOAK=4m runs it")
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("REQUORUM_SOAK_SEED"); s != "" {
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	random := rand.New(rand.NewPCG(seed, 1))
	t.Logf("REQUORUM_SOAK_SEED=%d", seed)

	dir := t.TempDir()
	etcd := etcdtest.StartCluster(t, etcdtest.Options{Members: 3})
	coordination := etcdtest.StartCluster(t, etcdtest.Options{Members: 1})
	server := storagetest.StartS3(t, storagetest.S3Options{})
	bucket := server.Bucket(t)
	store := etcdtest.NewProxy(t, server.Addr)
	for key, value := range map[string]string{"AWS_ACCESS_KEY_ID": server.AccessKey, "AWS_SECRET_ACCESS_KEY": server.SecretKey} {
		t.Setenv(key, value)
	}
	etcdtest.MustFill(t, etcd.Client(t), etcdtest.FillOptions{Prefix: "/data/", Keys: 2000, ValueSize: 1000, Random: true})

	var replicas []*etcdtest.Program
	var ports []int
	var args [][]string
	for i := range 3 {
		port := etcdtest.FreePort(t)
		path := filepath.Join(dir, fmt.Sprintf("r%d.yaml", i))
		text := fmt.Sprintf(`clusters:
  dcs:
    endpoints: [%s]
    stores: [main]
    schedules: {snapshot: "@every 5s", verify: "@every 20s", deadline: 60s}
    retention: {last: 1000}
stores: {main: {s3: {bucket: %s, region: us-east-1, endpoint: "http://%s", path_style: true}}}
spool_dir: %s/spool%d
allow_tmpfs_spool: true
election: {endpoints: [%s], lease: 3s}
serve: {listen: "127.0.0.1:%d", watch: 1s}
`, strings.Join(etcd.Endpoints(), ", "), bucket, store.Addr(), dir, i, strings.Join(coordination.Endpoints(), ", "), port)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r := etcdtest.NewProgram(t, filepath.Join(dir, fmt.Sprintf("r%d.log", i)))
		ports, replicas, args = append(ports, port), append(replicas, r), append(args, []string{program, "serve", "-c", path})
		r.Start(t, args[i]...)
	}

	// A load that goes on whatever happens.
	stop := make(chan struct{})
	loaded := make(chan int)
	go func() {
		client, n := etcd.Client(t), 0
		for {
			select {
			case <-stop:
				loaded <- n
				return
			case <-time.After(5 * time.Millisecond):
			}
			if _, err := client.Put(t.Context(), fmt.Sprintf("/load/%d", n%500), strings.Repeat("x", n%1000)); err == nil {
				n++
			}
		}
	}()

	signal := func(r *etcdtest.Program, s syscall.Signal) {
		if err := syscall.Kill(r.PID(), s); err != nil {
			t.Error(err)
		}
	}
	pause := func() { time.Sleep(time.Duration(1+random.IntN(5)) * time.Second) }
	faults := []struct {
		name string
		do   func()
	}{
		{"a member is killed", func() { m := etcd.Members[random.IntN(3)]; m.Kill(t); pause(); m.Start(t) }},
		{"a member is stopped", func() { m := etcd.Members[random.IntN(3)]; m.Pause(t); pause(); m.Resume(t) }},
		{"a replica is killed", func() {
			i := random.IntN(3)
			replicas[i].End(t, syscall.SIGKILL)
			pause()
			replicas[i].Start(t, args[i]...)
		}},
		{"a replica is stopped", func() { r := replicas[random.IntN(3)]; signal(r, syscall.SIGSTOP); pause(); signal(r, syscall.SIGCONT) }},
		{"the store resets connections", store.Reset},
		{"the store refuses connections", func() { store.Set(etcdtest.Fault{Refuse: true}); store.Reset(); pause(); store.Set(etcdtest.Fault{}) }},
		{"the store hangs", func() { store.Set(etcdtest.Fault{Stall: true}); pause(); store.Set(etcdtest.Fault{}) }},
		{"the store cuts uploads", func() {
			store.Set(etcdtest.Fault{CutUp: int64(1 + random.IntN(500_000))})
			store.Reset()
			pause()
			store.Set(etcdtest.Fault{})
			store.Reset()
		}},
		{"the coordination etcd is stopped", func() { coordination.Members[0].Pause(t); pause(); coordination.Members[0].Resume(t) }},
	}
	type sample struct{ goroutines, memory float64 }
	samples := make([][]sample, 3)
	counts := map[string]int{}
	for end := time.Now().Add(length); time.Now().Before(end); {
		time.Sleep(time.Duration(2+random.IntN(4)) * time.Second)
		f := faults[random.IntN(len(faults))]
		counts[f.name]++
		f.do()
		for i, port := range ports {
			if m := scrape(port); m != nil {
				samples[i] = append(samples[i], sample{m["go_goroutines"], m["process_resident_memory_bytes"]})
			}
		}
	}
	t.Logf("faults: %v", counts)
	close(stop)
	t.Logf("%d writes of the load succeeded", <-loaded)
	etcd.WaitHealthy(t)
	time.Sleep(20 * time.Second) // in peace: retries end, and the account of the store is up to date

	// What the metrics say is what lies in the store.
	manifests := func() (n int, keys []string) {
		pages := s3.NewListObjectsV2Paginator(server.Client, &s3.ListObjectsV2Input{Bucket: &bucket})
		for pages.HasMorePages() {
			page, err := pages.NextPage(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range page.Contents {
				if strings.HasSuffix(*o.Key, "/manifest.json") {
					n++
				}
				keys = append(keys, *o.Key)
			}
		}
		return n, keys
	}
	until(t, "metrics that agree with the store", func() bool {
		n, _ := manifests()
		told := 0.0
		for _, port := range ports {
			told += scrape(port)["requorum_backups"]
		}
		return told == float64(n)
	})
	for i, r := range replicas {
		if m := scrape(ports[i]); m["requorum_runs_in_progress"] < 0 || m["requorum_run_failing"] > 0 {
			t.Errorf("replica %d is still failing in peace", i)
		}
		r.End(t, syscall.SIGTERM)
	}

	var all []struct {
		ID string
		OK bool
	}
	start(t, dir, nil, "-c", args[0][3], "-q", "-o", "json", "verify", "dcs", "--all").Wait(t).Exits(t, command.ExitOK).Decode(t, &all)
	n, keys := manifests()
	if len(all) != n || n < int(length/(20*time.Second)) {
		t.Errorf("%d backups verified of %d in the store after %s", len(all), n, length)
	}
	// A backup that is listed has a manifest, and one that has a manifest its data.
	var list []struct{ ID string }
	text := start(t, dir, nil, "-c", args[0][3], "-q", "-o", "json", "list", "dcs").Wait(t).Exits(t, command.ExitOK).Stdout
	if err := json.Unmarshal([]byte(text), &list); err != nil || len(list) != n {
		t.Errorf("%d backups are listed, %d have manifests: %v", len(list), n, err)
	}
	for _, b := range list {
		if !slices.ContainsFunc(keys, func(k string) bool { return strings.Contains(k, b.ID) && strings.HasSuffix(k, "/db.zst") }) {
			t.Errorf("backup %s has no data", b.ID)
		}
	}
	most := func(s []sample) (g, m float64) {
		for _, x := range s {
			g, m = max(g, x.goroutines), max(m, x.memory)
		}
		return g, m
	}
	// The one that leads is the larger one, and that changes: what counts is the largest of all three.
	var before, after sample
	for i, s := range samples {
		g1, m1 := most(s[:len(s)/2])
		g2, m2 := most(s[len(s)/2:])
		t.Logf("replica %d: at most %.0f goroutines and %.0f MiB in the first half, %.0f and %.0f in the second", i, g1, m1/(1<<20), g2, m2/(1<<20))
		before = sample{max(before.goroutines, g1), max(before.memory, m1)}
		after = sample{max(after.goroutines, g2), max(after.memory, m2)}
	}
	if after.goroutines > 1.5*before.goroutines+20 || after.memory > 1.5*before.memory+64<<20 {
		t.Errorf("the replicas grow: %+v in the first half, %+v in the second", before, after)
	}
	t.Logf("%d backups, all verified", n)
}

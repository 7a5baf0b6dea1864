package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/internal/etcdtest"
)

const (
	etcdCore  = 0
	otherCore = 1

	putEvery = 5 * time.Millisecond
	putBytes = 1000
	putKeys  = 1000
)

// BenchmarkPutLatency compares the 99th percentile of puts while a backup is taken with that while etcdctl snapshot save runs. The etcd
// server has one core, and everything else - the writers too - the other one.
func BenchmarkPutLatency(b *testing.B) {
	if runtime.NumCPU() < 2 {
		b.Skip("needs two cores")
	}
	s := readSettings(b)
	pin(b, otherCore)
	d := database{s.of(1.5e9), 2000}
	servers, holds := d.start(b, "taskset", "-c", strconv.Itoa(etcdCore))
	to := newBucket(b)
	path := filepath.Join(workDir(b), "snapshot")
	c := comparison{what: fmt.Sprintf("p99 of puts, one each %v, on %v: %v", putEvery, d, holds), oursIs: "during requorum backup", baseIs: "during etcdctl snapshot save", unit: "ms", target: 1.2}

	var quiet, oursTook, baseTook, oursP50, baseP50, oursMax, baseMax series
	during := func(f func() execution, took, p50, most *series) float64 {
		settle(b)
		var e execution
		latencies := puts(b, servers, func() { e = f() })
		*took = append(*took, e.seconds)
		*p50 = append(*p50, milliseconds(percentile(latencies, 0.50)))
		*most = append(*most, milliseconds(latencies[len(latencies)-1]))
		return milliseconds(percentile(latencies, 0.99))
	}
	for range 2 {
		settle(b)
		latencies := puts(b, servers, func() { time.Sleep(5 * time.Second) })
		quiet = append(quiet, milliseconds(percentile(latencies, 0.99)))
	}
	c.compare(s.pairs, func() float64 {
		return during(func() execution { return to.backup(b, servers.Endpoints()[0]).run(b) }, &oursTook, &oursP50, &oursMax)
	}, func() float64 {
		p99 := during(func() execution { return save(b, servers.Endpoints()[0], path).run(b) }, &baseTook, &baseP50, &baseMax)
		if err := os.Remove(path); err != nil {
			b.Fatal(err)
		}
		return p99
	})
	c.remark("%-26s %s", "with nothing else running", quiet.text("ms"))
	c.remark("%-26s requorum %s, etcdctl %s", "median put", oursP50.text("ms"), baseP50.text("ms"))
	c.remark("%-26s requorum %s, etcdctl %s", "slowest put", oursMax.text("ms"), baseMax.text("ms"))
	c.remark("%-26s requorum %s, etcdctl %s", "it took, pinned so", oursTook.text("s"), baseTook.text("s"))
	c.report(b)
}

// pin gives this process, and so all programs that it starts, one core until b ends.
func pin(b *testing.B, core int) {
	b.Helper()
	var before, after unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		b.Skipf("cores cannot be chosen here: %v", err)
	}
	after.Set(core)
	set := func(cores *unix.CPUSet) error {
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		for _, t := range threads {
			id, err := strconv.Atoi(t.Name())
			if err != nil {
				return err
			}
			if err := unix.SchedSetaffinity(id, cores); err != nil && err != unix.ESRCH {
				return fmt.Errorf("pin thread %d: %w", id, err)
			}
		}
		return nil
	}
	if err := set(&after); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := set(&before); err != nil {
			b.Error(err)
		}
	})
}

// puts writes one key each putEvery while f runs and returns how long each put took, sorted. The time runs from when a put was
// due, so that one that waits for another counts with its wait.
func puts(b *testing.B, servers *etcdtest.Cluster, f func()) []time.Duration {
	b.Helper()
	client := servers.Client(b)
	defer client.Close()
	value := etcdtest.FillOptions{ValueSize: putBytes}.Value(0)
	ctx, cancel := context.WithTimeout(b.Context(), 10*time.Minute)
	defer cancel()
	if _, err := client.Put(ctx, "/bench/first", value); err != nil { // connects
		b.Fatal(err)
	}
	done := make(chan struct{})
	var latencies []time.Duration
	var failure error
	var mu sync.Mutex
	var writers sync.WaitGroup
	writers.Go(func() {
		begun := time.Now()
		for i := 0; ; i++ {
			due := begun.Add(time.Duration(i) * putEvery)
			select {
			case <-done:
				return
			case <-time.After(time.Until(due)):
			}
			writers.Go(func() {
				err := put(ctx, client, i, value)
				took := time.Since(due)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					failure = err
				}
				latencies = append(latencies, took)
			})
		}
	})
	f()
	close(done)
	writers.Wait()
	if failure != nil {
		b.Fatal(failure)
	}
	slices.Sort(latencies)
	return latencies
}

// put writes until etcd has taken it: while a slow disk syncs a snapshot for more than 7 s, it gives puts up.
func put(ctx context.Context, client *clientv3.Client, i int, value string) error {
	for {
		_, err := client.Put(ctx, fmt.Sprintf("/bench/%d", i%putKeys), value)
		if !errors.Is(err, rpctypes.ErrTimeout) {
			return err
		}
	}
}

func percentile(sorted []time.Duration, p float64) time.Duration {
	return sorted[min(len(sorted)-1, int(p*float64(len(sorted))))]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

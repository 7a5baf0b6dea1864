package bench

import (
	"math"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// settings come from the environment, so that one can look at a small run before a long one.
//
//	REQUORUM_BENCH_QUICK=1    a twentieth of every size, two pairs
//	REQUORUM_BENCH_SCALE=0.2  other sizes
//	REQUORUM_BENCH_PAIRS=7    other numbers of pairs
//	REQUORUM_BENCH_DIR=/mnt   where servers, spools and restored members lie: another disk
type settings struct {
	scale float64
	pairs int
}

func readSettings(b *testing.B) settings {
	b.Helper()
	s := settings{scale: 1, pairs: 5}
	if os.Getenv("REQUORUM_BENCH_QUICK") == "1" {
		s = settings{scale: 0.05, pairs: 2}
	}
	if v := os.Getenv("REQUORUM_BENCH_SCALE"); v != "" {
		f, err := strconv.ParseFloat(v, 64)
		if err != nil || f <= 0 {
			b.Fatalf("REQUORUM_BENCH_SCALE=%s: not a positive number", v)
		}
		s.scale = f
	}
	if v := os.Getenv("REQUORUM_BENCH_PAIRS"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			b.Fatalf("REQUORUM_BENCH_PAIRS=%s: not a positive whole number", v)
		}
		s.pairs = n
	}
	return s
}

// of scales a size.
func (s settings) of(n float64) int64 { return int64(math.Ceil(n * s.scale)) }

var buildOnce = sync.OnceValues(func() (string, error) {
	cache, err := etcdtest.CacheDir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(cache, "bench", "requorum")
	if err := command.Build(path); err != nil {
		return "", err
	}
	return path, nil
})

// requorum builds the binary as a release is built and returns its path.
func requorum(b *testing.B) string {
	b.Helper()
	path, err := buildOnce()
	if err != nil {
		b.Fatal(err)
	}
	return path
}

// workDir returns an empty directory on the disk of REQUORUM_BENCH_DIR, or of the cache: the directory for temporary files may lie in
// memory, where neither a spool nor a comparison of disks belongs.
func workDir(b *testing.B) string {
	b.Helper()
	disk := os.Getenv("REQUORUM_BENCH_DIR")
	if disk == "" {
		cache, err := etcdtest.CacheDir()
		if err != nil {
			b.Fatal(err)
		}
		disk = cache
	}
	dir, err := os.MkdirTemp(disk, "bench-run-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			b.Error(err)
		}
	})
	return dir
}

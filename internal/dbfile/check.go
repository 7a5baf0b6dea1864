package dbfile

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"go.etcd.io/etcd/server/v3/storage/schema"
)

// checker checks one mapped database file. Hashing the file, walking its pages and reading their rows run at the same time.
type checker struct {
	opts   request
	hashed atomic.Int64 // bytes hashed
	walked atomic.Int64 // bytes of pages walked
	stage  atomic.Pointer[string]
}

// request is what a check is asked for.
type request struct {
	Select          Select
	TrailerRequired bool
	Unhashed        bool
}

// enter says which stage is under way.
func (c *checker) enter(stage string) { c.stage.Store(&stage) }

// progress is how many bytes have been dealt with, counting those as half that were either hashed or walked.
func (c *checker) progress() int64 {
	if c.opts.Unhashed {
		return c.walked.Load()
	}
	return (c.hashed.Load() + c.walked.Load()) / 2
}

// checkFile checks f, which must not change meanwhile. The leases go to lease.
func (c *checker) checkFile(f *os.File) (Report, []lease, error) {
	c.enter(StageSize)
	info, err := f.Stat()
	if err != nil {
		return Report{}, nil, &CheckError{Stage: StageOpen, Err: err}
	}
	if !info.Mode().IsRegular() {
		return Report{}, nil, &CheckError{Stage: StageOpen, Err: fmt.Errorf("%s, not a regular file", info.Mode().Type())}
	}
	size := info.Size()
	trailer := hasTrailer(size)
	switch {
	case size == 0:
		return Report{}, nil, &CheckError{Stage: StageSize, Err: errors.New("the file is empty")}
	case c.opts.TrailerRequired && !trailer:
		return Report{}, nil, noTrailer(size)
	case size < minPageSize:
		return Report{}, nil, &CheckError{Stage: StageSize, Err: fmt.Errorf("%d bytes are too few for a database", size)}
	case int64(int(size)) != size:
		return Report{}, nil, &CheckError{Stage: StageOpen, Err: fmt.Errorf("%d bytes are too many for this machine", size)}
	}
	data, err := mapFile(f, size)
	if err != nil {
		return Report{}, nil, &CheckError{Stage: StageOpen, Err: err}
	}
	defer unix.Munmap(data)
	return c.check(data, trailer)
}

func mapFile(f *os.File, size int64) ([]byte, error) {
	data, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes: %w", size, err)
	}
	return data, nil
}

// withPages calls fn with the pages of a raw database file and its buckets.
func withPages(path string, fn func(*pages, map[string]bucket) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	data, err := mapFile(f, info.Size())
	if err != nil {
		return err
	}
	defer unix.Munmap(data)
	p, err := openPages(data, new(atomic.Int64))
	if err != nil {
		return err
	}
	all, err := p.buckets()
	if err != nil {
		return err
	}
	return fn(p, all)
}

// hasTrailer tells a snapshot from a raw database by its size, as etcdutl does: pages are multiples of 512 bytes.
func hasTrailer(size int64) bool { return size%512 == sha256.Size }

func (c *checker) check(data []byte, trailer bool) (Report, []lease, error) {
	body := data
	if trailer {
		body = data[:len(data)-sha256.Size]
	}
	type sums struct {
		whole string
		err   error
	}
	hashing := make(chan sums, 1)
	if c.opts.Unhashed {
		hashing <- sums{}
	} else {
		go func() {
			whole, err := c.hash(body, data[len(body):])
			hashing <- sums{whole, err}
		}()
	}
	r, leases, err := c.walk(body)
	if err == nil {
		c.enter(StageTrailer)
	}
	sum := <-hashing
	if err := errors.Join(sum.err, err); err != nil {
		var first *CheckError
		if errors.As(err, &first) { // a wrong trailer explains all the rest
			return Report{}, nil, first
		}
		return Report{}, nil, err
	}
	r.Size, r.SHA256, r.Trailer = int64(len(data)), sum.whole, trailer
	return r, leases, nil
}

// hash compares the trailer, if any, with what it stands for, and returns the sha256 of the whole file.
func (c *checker) hash(body, trailer []byte) (string, error) {
	const chunk = 1 << 20
	h := sha256.New()
	for rest := body; len(rest) > 0; {
		n := min(chunk, len(rest))
		h.Write(rest[:n])
		c.hashed.Add(int64(n))
		rest = rest[n:]
	}
	if len(trailer) > 0 {
		if sum := h.Sum(nil); string(sum) != string(trailer) {
			return "", wrongTrailer(trailer, sum)
		}
		h.Write(trailer)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// walk reads every page of the database once.
func (c *checker) walk(body []byte) (Report, []lease, error) {
	c.enter(StageStructure)
	p, err := openPages(body, &c.walked)
	if err != nil {
		return Report{}, nil, err
	}
	all, err := p.buckets()
	if err != nil {
		return Report{}, nil, err
	}
	for _, name := range [][]byte{schema.Key.Name(), schema.Meta.Name()} {
		if _, ok := all[string(name)]; !ok {
			return Report{}, nil, damaged("no bucket %q: this is not a database of etcd v3", name)
		}
	}
	key := all[string(schema.Key.Name())]
	delete(all, string(schema.Key.Name()))
	m, err := p.readMetaBucket(all)
	if err != nil {
		return Report{}, nil, err
	}
	var r Report
	var leases []lease
	if err := p.readSmall(all, &r, func(l lease) { leases = append(leases, l) }); err != nil {
		return Report{}, nil, err
	}

	c.enter(StageRows)
	s := newScan(m.compactRevision(), c.opts.Select)
	if err := p.leavesAhead(key, descending, s.leaf); err != nil {
		return Report{}, nil, err
	}
	if err := p.checkFree(); err != nil {
		return Report{}, nil, err
	}

	c.enter(StageRevision)
	if r.Revision, err = s.checkRevision(m); err != nil {
		return Report{}, nil, err
	}
	r.CompactRevision = m.compactRevision()
	r.HashKV = HashKV{Hash: s.hash(), CompactRevision: r.CompactRevision, Revision: r.Revision}
	r.Keys, r.Rows = s.keys, s.rows
	r.StorageVersion, r.RaftTerm, r.ConsistentIndex = m.storageVersion, m.term, m.consistentIndex
	r.Index = &Index{revision: r.Revision, sel: c.opts.Select, keys: s.index(), truncated: s.truncated}
	return r, leases, nil
}

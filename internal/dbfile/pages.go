package dbfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"sync/atomic"
)

// This file reads bbolt's format (bbolt/internal/common: Page, Meta, InBucket) with every reference, count and offset checked
// before it is followed. bbolt's own Tx.Check finds the same damage, but faults or recurses without end on some of it,
// and remembers every page in a map. Here a page costs one bit. TestStructureAgreesWithBbolt compares the two.

const (
	pageHeaderSize = 16 // id uint64, flags uint16, count uint16, overflow uint32
	elementSize    = 16 // leaf: flags, pos, ksize, vsize uint32; branch: pos, ksize uint32, child uint64
	metaSize       = 64
	bucketHeader   = 16 // root page uint64, sequence uint64

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagFreelist = 0x10

	elementIsBucket = 0x01

	metaMagic   = 0xED0CDAED
	metaVersion = 2
	noFreelist  = math.MaxUint64 // etcd does not store the free list: pages that nothing refers to are free

	minPageSize = 1024
	maxPageSize = 1024 << 14 // what bbolt tries

	maxDepth = 64 // of the page tree; a tree of the smallest pages that fills 2^48 bytes is not as deep
)

// bbolt's numbers are in the byte order of the machine that wrote them.
var native = binary.NativeEndian

// meta is the newest valid meta page.
type meta struct {
	pageSize int
	root     uint64
	freelist uint64
	pages    uint64 // high water mark: all pages have a lower id
	txid     uint64
}

// pages gives checked access to the pages of a bbolt file.
type pages struct {
	data []byte // without trailer
	meta
	reached bitmap        // pages that were visited: each may be only once
	visited *atomic.Int64 // bytes of the pages visited, for progress
}

func openPages(data []byte, visited *atomic.Int64) (*pages, error) {
	m, err := readMeta(data)
	if err != nil {
		return nil, &CheckError{Stage: StageStructure, Err: err}
	}
	if need := m.pages; need > uint64(len(data)/m.pageSize) {
		return nil, &CheckError{Stage: StageSize, Err: fmt.Errorf("the database has %d pages of %d bytes, but the file ends after %d bytes: it is truncated", need, m.pageSize, len(data))}
	}
	if m.pages < 3 {
		return nil, damaged("the database claims to have %d pages", m.pages)
	}
	p := &pages{data: data, meta: m, reached: newBitmap(m.pages), visited: visited}
	p.reached.set(0)
	p.reached.set(1)
	visited.Add(2 * int64(m.pageSize))
	return p, nil
}

// readMeta finds the valid meta page with the highest transaction id, as bbolt does.
func readMeta(data []byte) (meta, error) {
	m0, err0 := parseMeta(data, 0)
	if err0 == nil {
		if m1, err := parseMeta(data, m0.pageSize); err == nil && m1.txid > m0.txid && m1.pageSize == m0.pageSize {
			return m1, nil
		}
		return m0, nil
	}
	for size := minPageSize; size <= maxPageSize; size *= 2 {
		if m1, err := parseMeta(data, size); err == nil && m1.pageSize == size {
			return m1, nil
		}
	}
	return meta{}, fmt.Errorf("not a bbolt database: %w", err0)
}

func parseMeta(data []byte, at int) (meta, error) {
	if len(data) < at+pageHeaderSize+metaSize {
		return meta{}, errors.New("no room for a meta page")
	}
	b := data[at+pageHeaderSize:][:metaSize]
	sum := fnv.New64a()
	sum.Write(b[:metaSize-8])
	switch {
	case native.Uint32(b) != metaMagic:
		return meta{}, fmt.Errorf("magic number %08x", native.Uint32(b))
	case native.Uint32(b[4:]) != metaVersion:
		return meta{}, fmt.Errorf("format version %d", native.Uint32(b[4:]))
	case native.Uint64(b[56:]) != sum.Sum64():
		return meta{}, errors.New("checksum of the meta page is wrong")
	}
	size := native.Uint32(b[8:])
	if size < minPageSize || size > maxPageSize || size&(size-1) != 0 {
		return meta{}, fmt.Errorf("page size %d", size)
	}
	return meta{
		pageSize: int(size),
		root:     native.Uint64(b[16:]),
		freelist: native.Uint64(b[32:]),
		pages:    native.Uint64(b[40:]),
		txid:     native.Uint64(b[48:]),
	}, nil
}

// page is one page with its overflow pages. The elements of a branch or leaf page were checked.
type page struct {
	id    uint64
	flags uint16
	count int
	b     []byte
}

func damaged(format string, args ...any) error {
	return &CheckError{Stage: StageStructure, Err: fmt.Errorf(format, args...)}
}

// visit returns the page, which nothing else may refer to.
func (p *pages) visit(id uint64) (page, error) {
	if id < 2 || id >= p.pages {
		return page{}, damaged("reference to page %d, but pages go from 2 to %d", id, p.pages-1)
	}
	b := p.data[int(id)*p.pageSize:]
	if self := native.Uint64(b); self != id {
		return page{}, damaged("page %d says it is page %d", id, self)
	}
	overflow := uint64(native.Uint32(b[12:]))
	if overflow >= p.pages-id {
		return page{}, damaged("page %d has %d overflow pages, but the last page is %d", id, overflow, p.pages-1)
	}
	for i := id; i <= id+overflow; i++ {
		if p.reached.get(i) {
			return page{}, damaged("page %d is referred to twice", i)
		}
		p.reached.set(i)
	}
	n := int(overflow+1) * p.pageSize
	p.visited.Add(int64(n))
	return page{id: id, flags: native.Uint16(b[8:]), count: int(native.Uint16(b[10:])), b: b[:n:n]}, nil
}

// element returns the key of element i, with the value on a leaf page or the child's id on a branch page.
func (g page) element(i int) (key, value []byte, child uint64) {
	e := g.b[pageHeaderSize+i*elementSize:]
	if g.flags == flagBranch {
		pos, ksize := native.Uint32(e), native.Uint32(e[4:])
		return e[pos:][:ksize:ksize], nil, native.Uint64(e[8:])
	}
	ksize := native.Uint32(e[8:])
	kv := g.row(i)
	return kv[:ksize:ksize], kv[ksize:], 0
}

// row is element i of a leaf page as its key and, right behind it, its value.
func (g page) row(i int) []byte {
	e := g.b[pageHeaderSize+i*elementSize:]
	pos, ksize, vsize := native.Uint32(e[4:]), native.Uint32(e[8:]), native.Uint32(e[12:])
	return e[pos:][:int(ksize)+int(vsize)]
}

func (g page) isBucket(i int) bool {
	return native.Uint32(g.b[pageHeaderSize+i*elementSize:])&elementIsBucket != 0
}

// checkElements checks a branch or leaf page: elements lie within the page, one after the other, and their keys ascend, from
// low on and below high (nil: no bound).
func (g page) checkElements(low, high []byte) error {
	if g.flags != flagBranch && g.flags != flagLeaf {
		return damaged("page %d has type %#x where a branch or leaf is expected", g.id, g.flags)
	}
	if g.flags == flagBranch && g.count == 0 {
		return damaged("branch page %d is empty", g.id)
	}
	free := uint64(pageHeaderSize + g.count*elementSize) // where the next element's data may begin
	if free > uint64(len(g.b)) {
		return damaged("page %d of %d bytes has no room for %d elements", g.id, len(g.b), g.count)
	}
	var previous []byte
	for i := range g.count {
		at := pageHeaderSize + i*elementSize
		e := g.b[at:]
		var pos, ksize, vsize uint32
		if g.flags == flagBranch {
			pos, ksize = native.Uint32(e), native.Uint32(e[4:])
		} else {
			pos, ksize, vsize = native.Uint32(e[4:]), native.Uint32(e[8:]), native.Uint32(e[12:])
		}
		start := uint64(at) + uint64(pos)
		end := start + uint64(ksize) + uint64(vsize)
		if start < free || end > uint64(len(g.b)) {
			return damaged("element %d of page %d lies at %d to %d, outside %d to %d", i, g.id, start, end, free, len(g.b))
		}
		free = end
		key := g.b[start:][:ksize:ksize]
		switch {
		case i == 0 && low != nil && bytes.Compare(key, low) < 0:
			return damaged("page %d begins with key %x, below its parent's %x", g.id, key, low)
		case i > 0 && bytes.Compare(previous, key) >= 0:
			return damaged("key %x of page %d follows %x: keys are out of order", key, g.id, previous)
		}
		previous = key
	}
	if g.count > 0 && high != nil && bytes.Compare(previous, high) >= 0 {
		return damaged("page %d ends with key %x, but the next page begins at %x", g.id, previous, high)
	}
	return nil
}

// order is the direction of a walk.
type order bool

const (
	ascending  order = false
	descending order = true
)

// walk visits the tree below root and hands its leaf pages, checked, to leaf.
func (p *pages) walk(root uint64, o order, leaf func(page) error) error {
	return p.walkBetween(root, nil, nil, o, 0, leaf)
}

func (p *pages) walkBetween(id uint64, low, high []byte, o order, depth int, leaf func(page) error) error {
	if depth > maxDepth {
		return damaged("page %d is more than %d levels deep", id, maxDepth)
	}
	g, err := p.visit(id)
	if err != nil {
		return err
	}
	if err := g.checkElements(low, high); err != nil {
		return err
	}
	if g.flags == flagLeaf {
		return leaf(g)
	}
	for n := range g.count {
		i := n
		if o == descending {
			i = g.count - 1 - n
		}
		key, _, child := g.element(i)
		end := high
		if i+1 < g.count {
			end, _, _ = g.element(i + 1)
		}
		if err := p.walkBetween(child, key, end, o, depth+1, leaf); err != nil {
			return err
		}
	}
	return nil
}

// bucket is a top-level bucket: its root page, or the page that lies inline in its value.
type bucket struct {
	root   uint64
	inline *page
}

// buckets walks the root bucket. etcd nests no buckets and keeps nothing beside them.
func (p *pages) buckets() (map[string]bucket, error) {
	all := make(map[string]bucket)
	err := p.walk(p.root, ascending, func(g page) error {
		for i := range g.count {
			name, value, _ := g.element(i)
			if !g.isBucket(i) {
				return damaged("%q in the root of the database is not a bucket", name)
			}
			if len(value) < bucketHeader {
				return damaged("bucket %q has a header of %d bytes", name, len(value))
			}
			b := bucket{root: native.Uint64(value)}
			if b.root == 0 {
				in := value[bucketHeader:]
				if len(in) < pageHeaderSize {
					return damaged("inline bucket %q has a page of %d bytes", name, len(in))
				}
				b.inline = &page{flags: native.Uint16(in[8:]), count: int(native.Uint16(in[10:])), b: in}
				if b.inline.flags != flagLeaf {
					return damaged("inline bucket %q has a page of type %#x", name, b.inline.flags)
				}
				if err := b.inline.checkElements(nil, nil); err != nil {
					return err
				}
			}
			all[string(name)] = b
		}
		return nil
	})
	return all, err
}

// leaves hands the leaf pages of a bucket to leaf.
func (p *pages) leaves(b bucket, o order, leaf func(page) error) error {
	checked := func(g page) error {
		for i := range g.count {
			if g.isBucket(i) {
				key, _, _ := g.element(i)
				return damaged("bucket %x inside a bucket", key)
			}
		}
		return leaf(g)
	}
	if b.inline != nil {
		return checked(*b.inline)
	}
	return p.walk(b.root, o, checked)
}

// leavesAhead is leaves with pages walked ahead of leaf, on another core: following and checking references takes about half as
// long as reading rows. Pages come in the same order, and the error is the same.
func (p *pages) leavesAhead(b bucket, o order, leaf func(page) error) error {
	const batch, ahead = 64, 8 // pages at a time, batches
	full, empty := make(chan []page, ahead), make(chan []page, ahead+2)
	for range cap(empty) {
		empty <- make([]page, 0, batch)
	}
	ended := make(chan struct{}) // leaf wants no more
	stop := errors.New("no more pages")
	var walked error // set when full is closed
	go func() {
		defer close(full)
		next := <-empty
		walked = p.leaves(b, o, func(g page) error {
			if next = append(next, g); len(next) < batch {
				return nil
			}
			select {
			case full <- next:
			case <-ended:
				return stop
			}
			next = <-empty
			return nil
		})
		select {
		case full <- next: // what comes before the error, too
		case <-ended:
		}
	}()
	for some := range full {
		for _, g := range some {
			if err := leaf(g); err != nil {
				close(ended)
				for some := range full { // until the walk has ended
					empty <- some[:0]
				}
				return err
			}
		}
		empty <- some[:0]
	}
	return walked
}

// checkFree checks the stored list of free pages, once everything was visited: every page is either reached or free.
func (p *pages) checkFree() error {
	if p.freelist == noFreelist {
		return nil
	}
	g, err := p.visit(p.freelist)
	if err != nil {
		return err
	}
	if g.flags != flagFreelist {
		return damaged("page %d has type %#x where the free list is expected", g.id, g.flags)
	}
	ids, count := g.b[pageHeaderSize:], uint64(g.count)
	if count == 0xFFFF {
		count, ids = native.Uint64(ids), ids[8:]
	}
	if count > uint64(len(ids)/8) {
		return damaged("the free list claims %d pages, but has room for %d", count, len(ids)/8)
	}
	for i := range count {
		id := native.Uint64(ids[8*i:])
		if id < 2 || id >= p.pages {
			return damaged("the free list names page %d, but pages go from 2 to %d", id, p.pages-1)
		}
		if p.reached.get(id) {
			return damaged("page %d is free twice, or free and in use", id)
		}
		p.reached.set(id)
	}
	for id := range p.pages {
		if !p.reached.get(id) {
			return damaged("page %d is neither in use nor free", id)
		}
	}
	return nil
}

// bitmap holds a bit for each page.
type bitmap []uint64

func newBitmap(n uint64) bitmap { return make(bitmap, (n+63)/64) }

func (m bitmap) get(i uint64) bool { return m[i/64]&(1<<(i%64)) != 0 }
func (m bitmap) set(i uint64)      { m[i/64] |= 1 << (i % 64) }
